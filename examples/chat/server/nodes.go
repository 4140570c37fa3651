package server

import (
	"context"
	"errors"

	"github.com/sendq-go/sendq"
)

// watch logs how many messages of other servers were lost on the way here, and forwards kept lines to
// users who log in at another server.
func (s *Server) watch(ctx context.Context) {
	for e := range s.core.Broker.Events(ctx) {
		switch {
		case e.Kind == sendq.EventGap:
			s.opts.Log.Warn("messages of another server are lost", "node", e.Node, "messages", e.Missed)
		case e.Kind == sendq.EventJoined && e.Node != "":
			go s.forward(e.Name)
		}
	}
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
