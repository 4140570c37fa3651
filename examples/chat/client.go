package main

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sendq-go/sendq"
)

// dial connects to the server at addr, over TLS unless config is nil.
func dial(addr string, config *tls.Config) (net.Conn, error) {
	if config == nil {
		return net.Dial("tcp", addr)
	}
	return tls.Dial("tcp", addr, config)
}

// runClient logs in at addr, over TLS unless config is nil. It sends the lines of in and copies the
// server's lines to out, until one of the two ends.
func runClient(addr string, config *tls.Config, name string, in io.Reader, out io.Writer) error {
	conn, err := dial(addr, config)
	if err != nil {
		return err
	}
	w := sendq.NewWriter(conn, nil)
	defer w.CloseNow()
	fmt.Fprintln(w, name)
	fmt.Fprintf(os.Stderr, "connected to %s: say bob: hi, *: hi, /who, /join #go, #go: hi; Ctrl-D ends\n", addr)

	received := make(chan error, 1)
	go func() {
		_, err := io.Copy(out, conn)
		received <- err
	}()
	typed := make(chan struct{})
	var quits atomic.Bool // the last line was /quit
	go func() {
		defer close(typed)
		for lines := bufio.NewReader(in); ; {
			line, err := lines.ReadString('\n')
			if line != "" {
				line = strings.TrimRight(line, "\r\n")
				quits.Store(line == "/quit")
				fmt.Fprintln(w, line)
			}
			if err != nil {
				return
			}
		}
	}()

	select {
	case err := <-received:
		switch {
		case err != nil:
			return fmt.Errorf("the connection broke: %w", err)
		case quits.Load():
			return nil
		}
		return errors.New("the server closed the connection")
	case <-typed:
	}
	// The server answers all earlier lines before it obeys /quit, and closes within 10 seconds.
	fmt.Fprintln(w, "/quit")
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	if err := <-received; err != nil {
		return fmt.Errorf("the server did not say goodbye: %w", err)
	}
	return nil
}
