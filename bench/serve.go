//go:build linux

package main

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/sendq-go/sendq"
	chat "github.com/sendq-go/sendq/examples/chat/server"
	"github.com/sendq-go/sendq/natsrelay"

	natsserver "github.com/nats-io/nats-server/v2/server"
)

// serveIfAsked runs a server, or members of one, if this process was started by self. In that
// case it does not return.
func serveIfAsked() {
	asked, found := os.LookupEnv(serveVariable)
	if !found {
		return
	}
	if err := serve(strings.Fields(asked)); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// serve runs a server. The first word is its kind, the last one its address.
func serve(words []string) error {
	kind, addr := words[0], words[len(words)-1]
	at, err := netip.ParseAddrPort(addr)
	if err != nil {
		return fmt.Errorf("%s=%s: %w", serveVariable, strings.Join(words, " "), err)
	}
	switch {
	case kind == "nats":
		return serveNATS(at, "")
	case kind == "jetstream" && len(words) == 3:
		return serveNATS(at, words[1])
	case kind == "node" && len(words) == 3:
		return serveNode(words[1], addr)
	case kind == "chatnode" && len(words) == 3:
		return serveChatNode(words[1], addr)
	case kind == "users" && len(words) == 4:
		return serveUsers(words[1], words[2], addr)
	case kind == "members" && len(words) == 4:
		return serveMembers(words[1], words[2], at)
	case kind == "hub":
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return err
		}
		return newHub().serve(l)
	}
	return fmt.Errorf("no such server: %q", kind)
}

// serveNATS runs a nats-server with default options, and with JetStream if jetStreamDir is not
// empty. The early PING to each client, after two seconds, is off, because the benchmark would
// have to wait for it.
func serveNATS(at netip.AddrPort, jetStreamDir string) error {
	options := &natsserver.Options{
		Host:   at.Addr().String(),
		Port:   int(at.Port()),
		NoLog:  true,
		NoSigs: true,

		DisableShortFirstPing: true,
	}
	if jetStreamDir != "" {
		options.JetStream, options.StoreDir = true, jetStreamDir
	}
	s, err := natsserver.NewServer(options)
	if err != nil {
		return err
	}
	s.Start()
	if !s.ReadyForConnections(startTimeout - time.Second) {
		return fmt.Errorf("NATS does not listen on %v", at)
	}
	s.WaitForShutdown()
	return nil
}

// serveChatNode runs the chat as one node of a cluster.
func serveChatNode(natsAddr, addr string) error {
	relay, err := natsrelay.Connect("nats://"+natsAddr, &natsrelay.Options{Cluster: "chat"})
	if err != nil {
		return err
	}
	return chat.Run(chat.Options{Addr: addr, Broker: sendq.BrokerOptions{Relay: relay}})
}
