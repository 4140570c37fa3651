package server

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/sendq-go/sendq"
)

// watch follows what happens on other servers: it logs how many of their messages were lost on the way
// here, and tells rooms of users whose server is lost.
func (s *Server) watch(ctx context.Context) {
	var user string
	var rooms []string // that the user has left, in the events just before
	for e := range s.core.Broker.Events(ctx) {
		if e.Name != user {
			user, rooms = e.Name, nil
		}
		switch {
		case e.Kind == sendq.EventGap:
			s.opts.Log.Warn("messages of another server are lost", "node", e.Node, "messages", e.Missed) // -1: unknown
		case e.Kind == sendq.EventRoomLeft:
			rooms = append(rooms, e.Room)
		case e.Kind == sendq.EventLeft && s.opts.NodeLost != nil && errors.Is(e.Cause, s.opts.NodeLost):
			for _, room := range rooms {
				s.tellHere(room, "* %s left %s", user, room)
			}
		}
	}
}

// tellHere sends a line to the members of a room on this server. The other servers tell theirs.
func (s *Server) tellHere(room, format string, args ...any) {
	line := s.core.Line(format, args...)
	for name := range s.core.Broker.Room(room).Members() {
		if w, isHere := s.core.Broker.Lookup(name); isHere {
			_, _ = w.Write(line) // if it fails, the user has left too
		}
	}
}

// handsOver reports whether users can come back at other servers when this one stops.
func (s *Server) handsOver() bool { return s.opts.Resume && s.opts.Broker.Relay != nil }

// sendAway ends the connections over the time of Drain. Their users are away then, and come back at
// other servers with everything that is kept for them.
func (s *Server) sendAway() {
	var writers []*sendq.Writer
	s.connected.Range(func(w, _ any) bool {
		writers = append(writers, w.(*sendq.Writer))
		return true
	})
	ctx, cancel := context.WithTimeout(context.Background(), s.opts.Drain+closeTimeout)
	defer cancel()
	var ending sync.WaitGroup
	for i, w := range writers {
		ending.Go(func() {
			time.Sleep(s.opts.Drain * time.Duration(i) / time.Duration(len(writers)))
			_ = w.Flush(ctx) // for clients that do not come back
			_ = w.Fail(ErrStopped)
		})
	}
	ending.Wait()
}

// awaitComebacks waits until no user is away, for at most comebackTimeout.
func (s *Server) awaitComebacks() {
	back := make(chan struct{})
	go func() {
		defer close(back)
		s.away.Wait()
	}()
	select {
	case <-back:
	case <-time.After(comebackTimeout):
	}
}

// farewell returns the last line to a user whose name is lost, or who reads too slowly.
func (s *Server) farewell(cause error) []byte {
	if errors.Is(cause, sendq.ErrNameLost) {
		return s.core.Line("error: you are logged in on another server")
	}
	return s.core.Line("error: too many lines wait for you")
}

// why explains why a user did not get a message.
func why(r sendq.Refusal) string {
	switch {
	case errors.Is(r.Err, sendq.ErrUnconfirmed):
		return "the server of " + r.Name + " does not answer: the message may have arrived, or not"
	case errors.Is(r.Err, sendq.ErrClosed):
		return r.Name + " has just left"
	}
	return "the message to " + r.Name + " was not sent: try again later"
}
