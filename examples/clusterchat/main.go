// Command clusterchat is the chat server of examples/chat on several machines. Its nodes are
// connected by NATS and share all names and rooms.
//
//	go run ./examples/clusterchat -embed                 # with a NATS server inside, to try it
//	go run ./examples/clusterchat -addr 127.0.0.1:8081   # a second node, at the same NATS server
//
// In production, run NATS servers with JetStream and give every node their addresses, such as
// -nats nats://a:4222,nats://b:4222,nats://c:4222.
//
// With -resume, a user may come back at any node. If the node of the user has died, lines are missing.
// If it stops, its users come back at the others, and it waits for them, for at most 10 seconds.
//
// # Rights
//
// With -resume, a node keeps hashes of its users' keys in a bucket of JetStream. Besides the rights in
// natsrelay/README.md, it needs these to publish, here with sendq as the -cluster:
//
//	"$KV.sendq-tickets.>"
//	"$JS.API.STREAM.CREATE.KV_sendq-tickets"
//	"$JS.API.STREAM.INFO.KV_sendq-tickets"
//	"$JS.API.STREAM.MSG.GET.KV_sendq-tickets"
//	"$JS.API.STREAM.PURGE.KV_sendq-tickets"
//
// Whoever can write to the bucket can take any user over. Whoever can only read it cannot, because the
// hashes are no keys.
package main

import (
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sendq-go/sendq/examples/chat/server"
	"github.com/sendq-go/sendq/natsrelay"
)

func main() {
	var chat server.Options
	chat.AddFlags(flag.CommandLine)
	var c cluster
	c.addFlags(flag.CommandLine)
	flag.Parse()

	err := fmt.Errorf("unexpected argument %q; -help lists the flags", flag.Arg(0))
	if flag.NArg() == 0 {
		err = run(chat, &c)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "clusterchat:", err)
		os.Exit(1)
	}
}

// run serves one node.
func run(chat server.Options, c *cluster) error {
	if c.embed && c.creds+c.ca+c.cert+c.key != "" {
		return errors.New("-embed starts a NATS server without TLS and credentials; its user and password are those in -nats")
	}
	if c.embed {
		stop, err := embedNATS(c.url)
		if err != nil {
			return err
		}
		defer stop()
	}
	c.Log, chat.NodeLost = slog.Default(), natsrelay.ErrNodeLost
	relay, err := natsrelay.Connect(c.url, &c.Options, c.natsOptions()...)
	if err != nil {
		return fmt.Errorf("%w (-nats needs the address of a NATS server with JetStream; -embed starts one)", err)
	}
	chat.Broker.Relay = relay // the Broker closes it
	if chat.Resume {
		nc, err := c.connect()
		if err != nil {
			return fmt.Errorf("connect to NATS for -resume: %w", err)
		}
		defer nc.Close()
		if chat.Tickets, err = newTickets(nc, c.Cluster); err != nil {
			return err
		}
	}
	return server.Run(chat)
}

// A cluster holds the flags about NATS and the other nodes.
type cluster struct {
	natsrelay.Options
	url                  string
	embed                bool
	creds, ca, cert, key string
}

func (c *cluster) addFlags(f *flag.FlagSet) {
	f.StringVar(&c.url, "nats", nats.DefaultURL, "connect to the NATS servers at these `URLs`, separated by commas; a URL may contain user:password@")
	f.BoolVar(&c.embed, "embed", false, "run a NATS server in this process, at the address in -nats")
	f.StringVar(&c.creds, "nats-creds", "", "log in to NATS with the credentials in this `file`")
	f.StringVar(&c.ca, "nats-ca", "", "trust the certificate authorities in this `file` for TLS to NATS")
	f.StringVar(&c.cert, "nats-cert", "", "authenticate to NATS with the client certificate in this `file`; requires -nats-key")
	f.StringVar(&c.key, "nats-key", "", "use the private key in this `file` for -nats-cert")
	f.StringVar(&c.Cluster, "cluster", "sendq", "join the cluster with this `name`")
	f.StringVar(&c.Node, "node", "", "use this `name` for the node in logs, with a random suffix")
	f.DurationVar(&c.Lease, "lease", 10*time.Second, "free the names of a node that has been unreachable for this long")
}

// connect connects to NATS, and reconnects for ever.
func (c *cluster) connect() (*nats.Conn, error) {
	return nats.Connect(c.url, append(c.natsOptions(), nats.Name("clusterchat tickets"), nats.MaxReconnects(-1),
		nats.IgnoreAuthErrorAbort(), nats.PingInterval(c.Lease/4))...)
}

func (c *cluster) natsOptions() (options []nats.Option) {
	if c.creds != "" {
		options = append(options, nats.UserCredentials(c.creds))
	}
	if c.ca != "" {
		options = append(options, nats.RootCAs(c.ca))
	}
	if c.cert != "" || c.key != "" {
		options = append(options, nats.ClientCert(c.cert, c.key))
	}
	return options
}
