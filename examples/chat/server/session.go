package server

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/examples/chat/core"
	"github.com/sendq-go/sendq/examples/chat/lines"
)

// A session is a core.Session in armour.
type session struct {
	*core.Session
	armour  *Server
	start   time.Time
	pace    *pace  // nil: no limit
	release func() // nil on a Conn
	refused bool   // by Begin
	ticket  Ticket // with Resume, after the login
}

// arm puts armour on a session.
func (s *Server) arm(c *core.Session) lines.Handler {
	return &session{Session: c, armour: s, pace: newPace(s.opts.Rate)}
}

// Begin lets a Conn refuse the session, and refuses it on other connections if there are too many.
func (c *session) Begin() (err error) {
	c.start = time.Now()
	defer func() { c.refused = err != nil }()
	if err := c.Session.Begin(); err != nil {
		return err
	}
	if c.armour.opts.Resume {
		c.armour.connected.Store(c.W, nil)
		boundKernel(c.Conn)
	}
	if conn, ok := c.Conn.(Conn); ok {
		return conn.Begin(c.W)
	}
	c.release, err = c.armour.Admit(c.Conn.RemoteAddr())
	return err
}

// Do does a line unless there are too many, or Options.Command does it.
func (c *session) Do(line string) error {
	switch {
	case c.Name == "":
		return c.login(line)
	case line != "/quit" && !c.pace.allows():
		if c.pace.mayComplain() {
			c.Reply("error: slow down: more than %d lines a second are not heard", c.armour.opts.Rate)
		}
		return nil
	case c.armour.opts.Command != nil && strings.HasPrefix(line, "/"):
		c.Flush()
		if c.armour.opts.Command(c.Name, c.Conn, strings.Fields(line)) {
			return nil
		}
	}
	return c.Session.Do(line)
}

// login lets users come back with Resume. After a takeover, the user is in the rooms of the session
// before.
func (c *session) login(line string) error {
	if c.armour.opts.Resume {
		switch b, err := parseComeback(line); {
		case err != nil:
			return err
		case b != nil:
			return c.comeBack(b)
		}
	}
	if err := c.Session.Do(line); err != nil {
		return err
	}
	c.Rooms = slices.Collect(c.Broker.RoomsOf(c.Name))
	if c.armour.opts.Resume {
		return c.giveKey()
	}
	return nil
}

// End writes the log. With Resume, a user whose connection broke may come back. With Takeover, a new
// login gets the lines that are still queued.
func (c *session) End(cause error) {
	defer c.armour.connected.Delete(c.W)
	if c.release != nil {
		defer c.release()
	}
	switch {
	case c.Name == "" && errors.Is(cause, os.ErrDeadlineExceeded):
		cause = fmt.Errorf("the first line must be your login, within %v", core.LoginTimeout)
	case c.armour.stopping.Load() && errors.Is(cause, lines.ErrEnd):
		cause = ErrStopped
	}
	end(c.Conn, cause)
	if c.refused {
		defer time.AfterFunc(refuseTimeout, func() { c.W.CloseNow() }).Stop()
	}
	c.armour.log(c, cause, c.leaveOrGoAway(cause))
}

// leaveOrGoAway returns the error of the Writer.
func (c *session) leaveOrGoAway(cause error) error {
	switch {
	case c.armour.opts.Resume && c.Name != "" && (c.W.Err() != nil || errors.Is(cause, lines.ErrEnd)):
		return c.goAway(cause)
	case c.armour.opts.Resume && c.Name != "":
		c.forget(cause == ErrStopped)
	case c.armour.opts.Takeover:
		c.deliver(cause)
	}
	return c.Leave(cause)
}

// deliver delivers the queued lines before the user leaves the rooms. If a login takes the name over
// first, the user stays there.
func (c *session) deliver(cause error) {
	if core.IsFault(cause) {
		c.Reply("error: %v", cause)
	}
	if errors.Is(c.W.Close(), sendq.ErrTakenOver) {
		c.Rooms = nil
	}
}
