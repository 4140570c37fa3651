// Command clusterchat is the chat server of examples/chat on several machines: names and rooms
// are those of all nodes, which are connected by NATS.
//
//	go run ./examples/clusterchat -embed                 # with a NATS server inside, to try it
//	go run ./examples/clusterchat -addr 127.0.0.1:8081   # a second node, which uses that
//
// With NATS servers that have JetStream, every node is started with their addresses, such as
// -nats nats://a:4222,nats://b:4222,nats://c:4222.
package main

import (
	"flag"
	"fmt"
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
	if c.embed {
		stop, err := embedNATS(c.url)
		if err != nil {
			return err
		}
		defer stop()
	}
	relay, err := natsrelay.Connect(c.url, &c.Options, c.natsOptions()...)
	if err != nil {
		return fmt.Errorf("%w; is a NATS server with JetStream there? -nats says where, and -embed runs one", err)
	}
	chat.Broker.Relay = relay // which the chat's Broker closes at its end
	return server.Run(chat)
}

// A cluster is what the flags say of NATS, and of the other nodes.
type cluster struct {
	natsrelay.Options
	url                  string
	embed                bool
	creds, ca, cert, key string
}

func (c *cluster) addFlags(f *flag.FlagSet) {
	f.StringVar(&c.url, "nats", nats.DefaultURL, "connect to the NATS servers at these `URLs`, with commas between; user:password@ may stand in them")
	f.BoolVar(&c.embed, "embed", false, "run a NATS server in this process, at the address that -nats says")
	f.StringVar(&c.creds, "nats-creds", "", "log in to NATS with the credentials in this `file`")
	f.StringVar(&c.ca, "nats-ca", "", "trust the certificate authorities in this `file` when NATS speaks TLS")
	f.StringVar(&c.cert, "nats-cert", "", "show NATS the certificate in this `file`; -nats-key goes with it")
	f.StringVar(&c.key, "nats-key", "", "the key of that certificate is in this `file`")
	f.StringVar(&c.Cluster, "cluster", "sendq", "belong to the nodes with this `name` in common")
	f.StringVar(&c.Node, "node", "", "call this node so in logs, with something random behind")
	f.DurationVar(&c.Lease, "lease", 10*time.Second, "free the names of a node that is not heard of for so long")
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
