package server

import (
	"context"
	"errors"

	"github.com/sendq-go/sendq"
)

// watch logs how many messages of other servers were lost on the way here.
func (s *Server) watch(ctx context.Context) {
	for e := range s.core.Broker.Events(ctx) {
		if e.Kind == sendq.Gap {
			s.opts.Log.Warn("messages of another server are lost", "node", e.Node, "messages", e.Missed)
		}
	}
}

// why explains why a user did not get a message.
func why(r sendq.Refusal) string {
	switch {
	case errors.Is(r.Err, sendq.ErrUnconfirmed):
		return "the server of " + r.Name + " does not answer: the message may have arrived, or not"
	case errors.Is(r.Err, sendq.ErrWouldBlock):
		return "the server of " + r.Name + " is too far behind: the message was not sent"
	}
	return r.Name + " has just left"
}
