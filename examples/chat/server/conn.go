package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/sendq-go/sendq"
)

// A Conn is a connection that wants to know of its session, such as one that speaks another
// protocol below the lines. Any other net.Conn will do as well.
type Conn interface {
	net.Conn

	// Begin is called once, before anything is read or written, with the Writer that
	// writes to the connection from now on.
	Begin(w *sendq.Writer)

	// End is called before what is queued is delivered for the last time, with ErrStopped,
	// or with what the user did wrong, or with nil. When the server stops, there may be a
	// second call at the same time; the first counts.
	End(cause error)
}

// ErrStopped is why sessions end when the server stops.
var ErrStopped = errors.New("the server is shutting down")

// These are why others end without a fault of the user. Whatever else does is told to the client.
var (
	errQuit   = errors.New("the user has quit")
	errHungUp = errors.New("the client has closed the connection")
	errLost   = errors.New("cannot read")
)

// A connection brings a session its lines.
type connection struct {
	session session
	lines   lineScanner
	start   time.Time
	err     error // why it is over
}

// Handle serves a connection that did not come by Serve until its session has ended, for
// which Serve waits when it stops, and closes conn. The context is that of Serve.
func (s *Server) Handle(ctx context.Context, conn net.Conn) { s.handle(ctx, conn, nil) }

// Refuse is Handle for a client that gets nothing but the reason, for which it has a second.
func (s *Server) Refuse(ctx context.Context, conn net.Conn, reason error) {
	s.handle(ctx, conn, reason)
}

// handle waits for lines, most of its life. What they say is done aside: a stack stays as
// large as it ever was, and that of a goroutine that only waits is all that an idle user
// costs, beside some hundred bytes for the connection, the Writer and the name.
func (s *Server) handle(ctx context.Context, conn net.Conn, refused error) {
	if !s.enter() {
		conn.Close()
		return
	}
	defer s.sessions.Done()
	c := &connection{err: refused}
	aside(func() { c.begin(ctx, s, conn) })
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
func (c *connection) begin(ctx context.Context, s *Server, conn net.Conn) {
	c.start = time.Now()
	bound := closeTimeout
	if c.err != nil {
		bound = refuseTimeout
	}
	c.session = s.newSession(conn, bound)
	if c.err != nil {
		return
	}
	c.lines = newLineScanner(conn)

	// When the server stops, those who are not logged in have nothing to wait for.
	defer context.AfterFunc(ctx, func() { c.session.w.CloseNow() })()
	conn.SetReadDeadline(time.Now().Add(loginTimeout))
	defer conn.SetReadDeadline(time.Time{})
	for !c.lines.Scan() {
		if c.lines.Err() != nil {
			c.err = c.readError()
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
		c.err = c.readError()
	}
}

// readError returns why the lines have ended.
func (c *connection) readError() error {
	switch err := c.lines.Err(); {
	case errors.Is(err, errTooLong):
		return err
	case errors.Is(err, os.ErrDeadlineExceeded) && c.session.name == "":
		return fmt.Errorf("the first line must be your login, within %v", loginTimeout)
	case err == io.EOF:
		return errHungUp
	default:
		return fmt.Errorf("%w: %w", errLost, err)
	}
}

// end ends the session, and tells the operator why, and whether its user got everything.
func (c *connection) end() {
	err := c.session.end(c.err)
	s, w, name := c.session.server, c.session.w, c.session.name
	stopped := s.forget(w)
	level, message, cause := slog.LevelInfo, "session ended", c.err
	switch {
	case name == "":
		message = "connection without login ended"
	case errors.Is(err, sendq.ErrTakenOver):
		cause = err
	case err != nil:
		level, message, cause = slog.LevelWarn, "connection lost", err
	case stopped && (c.err == errHungUp || errors.Is(c.err, errLost)):
		cause = ErrStopped
	case errors.Is(c.err, errLost):
		level, message = slog.LevelWarn, "connection lost"
	}
	stats := w.Stats()
	s.opts.Log.Log(context.Background(), level, message, "user", name, "peer", c.session.conn.RemoteAddr(),
		"cause", cause, "after", time.Since(c.start).Round(time.Millisecond),
		"messages", stats.Written, "bytes", stats.WrittenBytes, "peak", stats.PeakPendingBytes)
}
