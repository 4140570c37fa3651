package server

import (
	"context"
	"errors"
	"time"

	"github.com/sendq-go/sendq"
)

// goAway ends the session of a user who may come back, and returns the cause. The rooms are told, and
// told again when the user is back or has left.
func (c *session) goAway(cause error) error {
	c.Fail(cause)
	if err := c.W.Err(); movedOn(err) {
		return err
	}
	w, lingers := c.Broker.Lookup(c.Name)
	_, isBack := c.armour.connected.Load(w)
	switch {
	case !lingers:
		c.leave()
	case !isBack: // w waits for the user
		c.tell("* %s is away")
		c.armour.away.Add(1)
		c.armour.keepers.Store(w, nil)
		w.OnEnd(func() {
			defer c.armour.away.Done()
			c.armour.keepers.Delete(w)
			switch err := w.Err(); {
			case errors.Is(err, sendq.ErrTakenOver):
				c.tell("* %s is back")
			case !movedOn(err):
				c.leave()
				c.armour.logAbsence(c.Name, w)
			}
		})
	}
	return c.W.Err()
}

// IsAway reports whether w keeps the lines of a user without a connection.
func (s *Server) IsAway(w *sendq.Writer) bool {
	_, isAway := s.keepers.Load(w)
	return isAway
}

// movedOn reports whether the Writer with this error has lost the name to another connection.
func movedOn(err error) bool {
	return errors.Is(err, sendq.ErrTakenOver) || errors.Is(err, sendq.ErrNameLost)
}

// tell tells the rooms of the user, but not the user.
func (c *session) tell(format string) {
	for _, room := range c.Rooms {
		c.Broker.Room(room).PublishFrom(c.Name, c.Line(format, c.Name))
	}
}

// leave is the end without a goodbye of the user. The rooms are told.
func (c *session) leave() {
	c.forget(c.armour.stopping.Load())
	c.TellLeft()
}

// forget makes the key useless. If the user has to leave because the server stops, the key is good for
// some time, and another server lets the user come back.
func (c *session) forget(stopped bool) {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout) // c.Ctx may be done
	defer cancel()
	var after time.Duration
	if stopped {
		after = c.armour.opts.Broker.Linger
	}
	if err := c.armour.tickets.Delete(ctx, c.Name, c.ticket, after); err != nil {
		c.armour.opts.Log.Warn("the key of a user who has left may still be valid", "user", c.Name, "error", err)
	}
}
