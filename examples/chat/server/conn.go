package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/sendq-go/sendq"
)

// A connection brings a session its lines.
type connection struct {
	conn    net.Conn
	session session
	lines   lineScanner
	err     error // why it is over; io.EOF if the client says no more
}

// handle waits for lines, most of its life. What they say is done aside: a stack stays as
// large as it ever was, and that of a goroutine that only waits is all that an idle user
// costs, beside some hundred bytes for the connection, the Writer and the name.
func (s *Server) handle(ctx context.Context, conn net.Conn) {
	c := &connection{conn: conn}
	aside(func() { c.begin(ctx, s) })
	for c.err == nil {
		c.lines.Wait()
		aside(c.talk)
	}
	aside(c.end)
}

// aside calls f in a goroutine of its own and waits for its return.
func aside(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	<-done
}

// begin sees to the login, which is the first line.
func (c *connection) begin(ctx context.Context, s *Server) {
	w := s.newWriter(c.conn)
	c.session = s.newSession(w)
	c.lines = newLineScanner(c.conn)

	// When the server stops, those who are not logged in have nothing to wait for.
	defer context.AfterFunc(ctx, func() { w.CloseNow() })()
	c.conn.SetReadDeadline(time.Now().Add(loginTimeout))
	defer c.conn.SetReadDeadline(time.Time{})
	for !c.lines.Scan() {
		if c.lines.Err() != nil {
			c.err = readError(&c.lines)
			return
		}
		c.lines.Wait()
	}
	c.err = c.session.login(c.lines.Text())
}

// talk does what the lines at hand say.
func (c *connection) talk() {
	defer c.session.flush()
	for c.err == nil && c.lines.Scan() {
		c.err = c.session.do(c.lines.Text())
	}
	if c.err == nil && c.lines.Err() != nil {
		c.err = readError(&c.lines)
	}
}

// readError returns why the lines have ended, in words for the client, or io.EOF if
// the client has ended them.
func readError(lines *lineScanner) error {
	switch err := lines.Err(); {
	case errors.Is(err, errTooLong):
		return err
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("the first line must be your login, within %v", loginTimeout)
	}
	return io.EOF
}

// end ends the session, and tells the operator if its user did not get everything.
func (c *connection) end() {
	err := c.session.end(c.err)
	s, name, peer := c.session.server, c.session.name, c.conn.RemoteAddr()
	s.forget(c.session.w)
	switch {
	case name == "" || err == nil:
	case errors.Is(err, sendq.ErrTakenOver):
		s.opts.Log.Info("taken over", "user", name, "peer", peer)
	default:
		s.opts.Log.Warn("connection lost", "user", name, "peer", peer, "error", err)
	}
}
