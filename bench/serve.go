//go:build linux

package main

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
)

// serveIfAsked makes this process a server if it was started by self. It does not
// return then.
func serveIfAsked() {
	asked, found := os.LookupEnv(serveVariable)
	if !found {
		return
	}
	kind, addr, _ := strings.Cut(asked, " ")
	fmt.Fprintln(os.Stderr, "bench:", serve(kind, addr))
	os.Exit(1)
}

func serve(kind, addr string) error {
	at, err := netip.ParseAddrPort(addr)
	if err != nil {
		return fmt.Errorf("%s=%s: %w", serveVariable, kind, err)
	}
	switch kind {
	case "nats":
		return serveNATS(at)
	case "hub":
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return err
		}
		return newHub().serve(l)
	}
	return fmt.Errorf("no such server: %q", kind)
}

// serveNATS runs a nats-server as it is by default, only that it does not send each client a
// PING after two seconds: that would have to be waited for.
func serveNATS(at netip.AddrPort) error {
	s, err := natsserver.NewServer(&natsserver.Options{
		Host:   at.Addr().String(),
		Port:   int(at.Port()),
		NoLog:  true,
		NoSigs: true,

		DisableShortFirstPing: true,
	})
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
