// Package server is the chat server of examples/chat, for other programs too, and the place to
// see how a Writer and a Broker work together. It is an example: it may change in any version.
package server

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/sendq-go/sendq"
)

const (
	// loginTimeout is how long a client has for its first line.
	loginTimeout = 10 * time.Second

	// closeTimeout is how long a client has to take what is queued for it when
	// its connection, or the whole server, ends.
	closeTimeout = 10 * time.Second

	// maxPending is how many bytes may be queued for a user. One who has stopped
	// reading for so long is disconnected.
	maxPending = 64 << 20

	// maxPendingOfAll is the same for all users together.
	maxPendingOfAll = 1 << 30

	// maxReplay is how many bytes of its last lines a room keeps.
	maxReplay = 256 << 10
)

// Options are what a program chooses. The zero value of each field is its default. With both
// Takeover and Replay, what a user has missed in a room may come once more in its replay.
type Options struct {
	Addr     string       // where Run listens
	Takeover bool         // a second login takes the name over, and gets what the first has missed
	Replay   int          // how many last lines of a room those get who join it
	Log      *slog.Logger // nil: slog.Default()

	// Broker is what else the server's Broker is given. New sets in it what Takeover and
	// Replay say.
	Broker sendq.BrokerOptions
}

// A Server is the users who are logged in, and the rooms they are in: a Broker. It must be
// made by New.
type Server struct {
	opts   Options
	broker *sendq.Broker
	budget *sendq.Budget
	missed *mailboxes // nil without Takeover

	mu      sync.Mutex
	writers map[*sendq.Writer]bool // those of all sessions; guarded by mu
}

// New returns a server without users.
func New(o Options) *Server {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	s := &Server{opts: o, budget: sendq.NewBudget(maxPendingOfAll), writers: make(map[*sendq.Writer]bool)}
	opts := &o.Broker
	opts.ReplayMessages, opts.ReplayBytes = o.Replay, maxReplay
	if o.Takeover {
		opts.Names = sendq.Takeover
		s.missed = newMailboxes()
		opts.OnUndelivered = func(name string, messages iter.Seq[[]byte], _ error) {
			s.missed.put(s.broker, name, messages)
		}
	}
	s.broker = sendq.NewBroker(opts)
	return s
}

// Serve accepts connections until ctx is done, and closes l. Then it delivers what is queued
// for each user, for 10 seconds at most, and returns when the last session has ended. Nobody
// can log in after that.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	context.AfterFunc(ctx, func() { l.Close() })
	if s.opts.Broker.Relay != nil {
		go s.watch(ctx)
	}
	var sessions sync.WaitGroup
	for pause := time.Duration(0); ; {
		conn, err := l.Accept()
		switch {
		case err == nil:
			pause = 0
			sessions.Go(func() { s.handle(ctx, conn) })
		case ctx.Err() != nil:
			s.shutdown(&sessions)
			return nil
		case errors.Is(err, net.ErrClosed):
			sessions.Wait()
			return err
		default:
			// Such as too many open files: it passes when users leave.
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			s.opts.Log.Warn("cannot accept, trying again", "error", err, "pause", pause)
			time.Sleep(pause)
		}
	}
}

// shutdown ends all sessions, and then the Broker. That would end the sessions as well, but
// takes leave of other nodes at once: the rooms there would not hear who has left.
func (s *Server) shutdown(sessions *sync.WaitGroup) {
	bound, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	s.mu.Lock()
	for w := range s.writers {
		sessions.Go(func() { _ = w.Shutdown(bound) }) // its session reports what the user did not get
	}
	s.mu.Unlock()
	sessions.Wait()
	if err := s.broker.Shutdown(bound); err != nil { // of the Relay, for no Writer is left
		s.opts.Log.Warn("other servers may not have got everything", "error", err)
	}
}

// watch tells which messages of other nodes were lost on the way here.
func (s *Server) watch(ctx context.Context) {
	for e := range s.broker.Events(ctx) {
		if e.Kind == sendq.Gap {
			s.opts.Log.Warn("messages of another server are lost", "node", e.Node, "messages", e.Missed)
		}
	}
}

// newWriter returns the Writer of a session, which the end of the Server ends too.
func (s *Server) newWriter(conn net.Conn) *sendq.Writer {
	w := sendq.NewWriter(conn, &sendq.WriterOptions{
		MaxPending:   maxPending,
		CloseTimeout: closeTimeout,
		Budget:       s.budget,
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writers[w] = true
	return w
}

// forget forgets a Writer that has ended.
func (s *Server) forget(w *sendq.Writer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.writers, w)
}
