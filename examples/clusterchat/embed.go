package main

import (
	"fmt"
	"net/url"
	"os"
	"strconv"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
)

// embedNATS runs a single NATS server at the address in natsURL, and returns a function to stop it.
// The server stores nothing beyond its end. When this process ends, other nodes have no NATS.
func embedNATS(natsURL string) (stop func(), err error) {
	at, err := url.Parse(natsURL)
	if err != nil || at.Hostname() == "" {
		return nil, fmt.Errorf("-embed needs one address in -nats, such as nats://127.0.0.1:4222, not %q", natsURL)
	}
	port := natsserver.DEFAULT_PORT
	if at.Port() != "" {
		if port, err = strconv.Atoi(at.Port()); err != nil {
			return nil, fmt.Errorf("port in -nats %q: %w", natsURL, err)
		}
	}
	dir, err := os.MkdirTemp("", "clusterchat-nats-*")
	if err != nil {
		return nil, err
	}
	s, err := natsserver.NewServer(&natsserver.Options{
		Host:      at.Hostname(),
		Port:      port,
		JetStream: true,
		StoreDir:  dir,
		NoLog:     true,
		NoSigs:    true,
	})
	if err != nil {
		os.RemoveAll(dir)
		return nil, fmt.Errorf("start a NATS server: %w", err)
	}
	s.Start()
	stop = func() {
		s.Shutdown()
		s.WaitForShutdown()
		os.RemoveAll(dir)
	}
	if !s.ReadyForConnections(5 * time.Second) {
		stop()
		return nil, fmt.Errorf("NATS server does not accept connections at %s:%d; is the address in use?", at.Hostname(), port)
	}
	return stop, nil
}
