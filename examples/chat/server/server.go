// Package server is the chat server of examples/chat, for other programs too, and the place to
// see how a Writer and a Broker work together. It is an example: it may change in any version.
package server

import (
	"cmp"
	"context"
	"errors"
	"iter"
	"log/slog"
	"net"
	"net/netip"
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

	// refuseTimeout is the same for a client that is one too many.
	refuseTimeout = time.Second

	// maxPending is how many bytes may be queued for a user if Options do not say it.
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
	Log      *slog.Logger // nil: slog.Default(). It gets a line for the end of each connection

	PerAddress int // how many connections an IP address may have; 0: as many as it likes
	Rate       int // how many lines a second a user may say, after some at once; 0: as many as they like
	MaxPending int // how many bytes may be queued for a user before they are disconnected; 0: 64 MiB

	// Frame, if it is not nil, makes of each line, its end included, what is written to all
	// connections: once, however many there are.
	Frame func(line []byte) []byte

	// Command, if it is not nil, is called for a line that begins with a slash and that the
	// server does not know. It returns false if it does not know it either.
	Command func(user string, conn net.Conn, words []string) bool

	tls certificate // what AddFlags adds

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

	sessions sync.WaitGroup // one is added only while mu is held and stopped is false

	mu        sync.Mutex // guards what follows
	stopped   bool
	writers   map[*sendq.Writer]net.Conn // those of all sessions
	addresses map[netip.Addr]int         // how many connections each has; nil without PerAddress
}

// New returns a server without users.
func New(o Options) *Server {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	o.MaxPending = cmp.Or(o.MaxPending, maxPending)
	s := &Server{opts: o, budget: sendq.NewBudget(maxPendingOfAll), writers: make(map[*sendq.Writer]net.Conn)}
	if o.PerAddress > 0 {
		s.addresses = make(map[netip.Addr]int)
	}
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

// Broker returns where the users are.
func (s *Server) Broker() *sendq.Broker { return s.broker }

// Serve accepts connections until ctx is done, and closes l. Then it delivers what is queued
// for each user, for 10 seconds at most, and returns when the last session has ended. Nobody
// can log in after that.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	context.AfterFunc(ctx, func() { l.Close() })
	if s.opts.Broker.Relay != nil {
		go s.watch(ctx)
	}
	for pause := time.Duration(0); ; {
		conn, err := l.Accept()
		switch {
		case err == nil:
			pause = 0
			release, refused := s.Admit(conn.RemoteAddr())
			go func() {
				defer release()
				s.handle(ctx, conn, refused)
			}()
		case ctx.Err() != nil:
			s.shutdown()
			return nil
		case errors.Is(err, net.ErrClosed):
			s.sessions.Wait()
			return err
		default:
			// Such as too many open files: it passes when users leave.
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			s.opts.Log.Warn("cannot accept, trying again", "error", err, "pause", pause)
			time.Sleep(pause)
		}
	}
}

// enter counts a session, whose end is Done of sessions. It returns false when the server
// has stopped.
func (s *Server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.stopped {
		s.sessions.Add(1)
	}
	return !s.stopped
}

// shutdown ends all sessions, and then the Broker. That would end the sessions as well, but
// takes leave of other nodes at once: the rooms there would not hear who has left.
func (s *Server) shutdown() {
	bound, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	s.mu.Lock()
	s.stopped = true
	for w, conn := range s.writers {
		s.sessions.Go(func() {
			tellEnd(conn, ErrStopped)
			_ = w.Shutdown(bound) // its session reports what the user did not get
		})
	}
	s.mu.Unlock()
	s.sessions.Wait()
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
func (s *Server) newWriter(conn net.Conn, closeTimeout time.Duration) *sendq.Writer {
	w := sendq.NewWriter(conn, &sendq.WriterOptions{
		MaxPending:   s.opts.MaxPending,
		CloseTimeout: closeTimeout,
		Budget:       s.budget,
	})
	if c, ok := conn.(Conn); ok {
		c.Begin(w)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writers[w] = conn
	return w
}

// forget forgets a Writer that has ended, and tells whether the server has stopped.
func (s *Server) forget(w *sendq.Writer) (stopped bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.writers, w)
	return s.stopped
}

// tellEnd tells a connection that wants to know why its session ends.
func tellEnd(conn net.Conn, cause error) {
	if c, ok := conn.(Conn); ok {
		c.End(cause)
	}
}
