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

// login delivers the missed lines. After a takeover, the user is in the rooms of the session before.
func (c *session) login(name string) error {
	c.armour.missed.deliver(name, c.W) // before anything newer
	if err := c.Session.Do(name); err != nil {
		return err
	}
	c.armour.missed.deliver(name, c.W) // lines that were kept during the login
	c.Rooms = slices.Collect(c.Broker.RoomsOf(name))
	return nil
}

// End writes the log. With Takeover, a new login gets the lines that are still queued.
func (c *session) End(cause error) {
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
	if c.armour.opts.Takeover {
		c.deliver(cause)
	}
	err := c.Leave(cause)
	c.armour.log(c, cause, err)
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
