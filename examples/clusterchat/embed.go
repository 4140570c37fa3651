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
// The server demands the user and password, or the token, in natsURL. It stores nothing beyond its
// end. When this process ends, other nodes have no NATS.
func embedNATS(natsURL string) (stop func(), err error) {
	at, err := url.Parse(natsURL)
	if err != nil || at.Hostname() == "" {
		return nil, fmt.Errorf("-embed needs one address in -nats, such as nats://127.0.0.1:4222, not %q", natsURL)
	}
	if at.Scheme != "nats" {
		return nil, fmt.Errorf("-embed starts a NATS server for nats:// in -nats, not for %s://", at.Scheme)
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
	opts := &natsserver.Options{
		Host:      at.Hostname(),
		Port:      port,
		JetStream: true,
		StoreDir:  dir,
		NoLog:     true,
		NoSigs:    true,
	}
	if password, ok := at.User.Password(); ok {
		opts.Username, opts.Password = at.User.Username(), password
	} else {
		opts.Authorization = at.User.Username() // a token, or nothing
	}
	s, err := natsserver.NewServer(opts)
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
