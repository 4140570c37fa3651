package lab

import (
	"errors"
	"net"
	"sync"
	"testing"
)

// StartNATS starts nats-server with JetStream and returns its URL.
func StartNATS(t testing.TB) string {
	t.Helper()
	path, port := Find(t, "nats-server"), freePort(t)
	address := net.JoinHostPort("127.0.0.1", port)
	accepts := func() bool {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
		}
		return err == nil
	}
	start(t, accepts, path, "-a", "127.0.0.1", "-p", port, "-js", "-sd", t.TempDir())
	return "nats://" + address
}

// A Cable connects a client to NATS until it is cut. It is a nats.CustomDialer.
type Cable struct {
	mu    sync.Mutex
	isCut bool
	conns []net.Conn
}

// Dial connects if the cable is not cut.
func (c *Cable) Dial(network, address string) (net.Conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isCut {
		return nil, errors.New("cable is cut")
	}
	conn, err := net.Dial(network, address)
	if err == nil {
		c.conns = append(c.conns, conn)
	}
	return conn, err
}

// Cut closes all connections.
func (c *Cable) Cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.isCut = true
	for _, conn := range c.conns {
		conn.Close()
	}
}

// Restore lets the client connect again.
func (c *Cable) Restore() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.isCut = false
}
