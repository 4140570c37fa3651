package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

const (
	dialTimeout   = 10 * time.Second
	receiveBuffer = 64 << 10 // of the kernel, so that a broken connection loses less than the server keeps
)

// runClient logs in at addr, over TLS unless config is nil. It sends the lines of in and writes the
// server's lines to out, until one of the two ends. If the server gives a key, a broken connection is
// not the end. Then linger is how long the server keeps the name.
func runClient(addr string, config *tls.Config, name string, in io.Reader, out io.Writer, linger time.Duration) error {
	c := &client{
		dial:   func() (net.Conn, error) { return dial(addr, config) },
		name:   name,
		typed:  readTyped(in),
		out:    out,
		note:   func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) },
		linger: linger,
	}
	return c.run()
}

// dial connects to the server at addr, over TLS unless config is nil.
func dial(addr string, config *tls.Config) (net.Conn, error) {
	dialer := &net.Dialer{Timeout: dialTimeout}
	if config == nil {
		conn, err := dialer.Dial("tcp", addr)
		return conn, bound(conn, err)
	}
	conn, err := tls.DialWithDialer(dialer, "tcp", addr, config)
	if err != nil {
		return nil, err
	}
	return conn, bound(conn.NetConn(), nil)
}

// bound bounds what the kernel receives before the client reads it. It returns err.
func bound(conn net.Conn, err error) error {
	if err == nil {
		_ = conn.(*net.TCPConn).SetReadBuffer(receiveBuffer) // at worst, lines are missing later
	}
	return err
}
