// Package server is the chat server as it is deployed: package core in armour. Read core first. Here
// each file is one piece of armour. The first two put them on:
//
//   - server.go: hooks and limits of the whole server.
//   - session.go: the steps of a session that are more than the protocol.
//   - pace.go: a limit on lines a second.
//   - ticket.go, resume.go, away.go: users who come back after a broken connection.
//   - conn.go: connections with another protocol below the lines, such as WebSocket.
//   - log.go: a line in the log for each connection.
//   - accept.go: limits on connections, and errors of the listener.
//   - tls.go: TLS.
//   - nodes.go: other servers in a cluster.
//   - run.go: flags and signals.
//
// The package is an example: it may change in any version.
package server

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/examples/chat/core"
)

const (
	closeTimeout    = 10 * time.Second // for the delivery of queued lines at the end of a session
	refuseTimeout   = time.Second      // the same for a refused client
	maxPending      = 64 << 20         // bytes queued for a user, by default
	maxPendingAll   = 1 << 30          // bytes queued and kept for all users
	maxReplay       = 256 << 10        // bytes of a room's last lines
	linger          = time.Minute      // for which a name waits for its user, by default
	comebackTimeout = 10 * time.Second // for users of a server that stops to come back at others
)

// Options configure a Server. The zero value of each field is its default.
type Options struct {
	Addr     string       // where Run listens
	Takeover bool         // a second login takes the name over, and gets the lines not yet written to the first
	Replay   int          // lines of a room for a new member
	Log      *slog.Logger // gets a line at the end of each connection; nil: slog.Default()

	// Resume gives each user a key to come back with after a broken connection. The user then gets what
	// has not arrived, in order and once. The name waits for Linger; 0: a minute. Tickets store hashes
	// of the keys; nil: in memory. Resume excludes Takeover.
	Resume  bool
	Linger  time.Duration
	Tickets Tickets

	PerAddress int // connections from an IP address; 0: no limit
	Rate       int // lines a second from a user, after a burst; 0: no limit
	MaxPending int // bytes queued for a user before they are disconnected; 0: 64 MiB

	// Drain is the time over which the sessions end when the server stops, so that not all clients
	// come back at the same moment. 0: all at once. With Resume and a Relay, users come back at other
	// servers, with everything that is kept for them.
	Drain time.Duration

	// Frame, unless nil, encodes each line with its end, once for all connections.
	Frame func(line []byte) []byte

	// Command, unless nil, is called for each line that begins with a slash, before the server
	// looks at it. It reports whether the line was its own.
	Command func(user string, conn net.Conn, words []string) bool

	// NodeLost is the cause with which users leave whose server is lost, if there are several servers.
	NodeLost error

	tls certificate // set by flags

	// Broker has further options of the Broker. Takeover, Resume and Replay override it.
	Broker sendq.BrokerOptions
}

// A Server is a core.Server in armour. It must be made by New.
type Server struct {
	core      core.Server
	opts      Options
	addresses addresses
	tickets   Tickets
	connected sync.Map       // the Writers of connections, with Resume
	keepers   sync.Map       // the Writers of users without a connection
	away      sync.WaitGroup // the same users
	handled   sync.RWMutex   // read-locked by each session of Handle

	stopping atomic.Bool     // no new sessions
	sessions context.Context // of all sessions; ends after the drain
	end      func()          // ends sessions
}

// New returns a server without users.
func New(o Options) *Server {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	s := &Server{opts: o, addresses: addresses{max: o.PerAddress}, tickets: o.Tickets}
	if s.tickets == nil {
		s.tickets = &localTickets{byUser: make(map[string]Ticket)}
	}
	s.sessions, s.end = context.WithCancel(context.Background())
	opts := &s.opts.Broker
	opts.ReplayMessages, opts.ReplayBytes = o.Replay, maxReplay
	keep := 0
	switch {
	case o.Takeover:
		opts.NamePolicy = sendq.NameTakeover
	case o.Resume:
		opts.NamePolicy, opts.Linger, keep = sendq.NameReject, cmp.Or(o.Linger, linger), keptBytes
	}
	s.core.Broker = sendq.NewBroker(opts)
	s.core.Hooks = core.Hooks{
		Options: sendq.WriterOptions{
			MaxPending:   cmp.Or(o.MaxPending, maxPending),
			CloseTimeout: closeTimeout,
			Keep:         keep,
			Budget:       sendq.NewBudget(maxPendingAll),
		},
		Replay: o.Replay,
		Frame:  o.Frame,
		Why:    why,
		Armour: s.arm,
	}
	if opts.Relay != nil {
		s.core.Hooks.Options.Farewell = s.farewell
	}
	return s
}

// Broker returns the Broker of the users.
func (s *Server) Broker() *sendq.Broker { return s.core.Broker }

// Serve accepts connections until ctx is done, and closes l. Then it ends the sessions over the time of
// Drain, delivers the queued lines, for at most 10 seconds, and returns after the last session. Nobody
// can log in after that. If users can come back at other servers, Serve waits for them, for at most 10
// seconds.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	if s.opts.Broker.Relay != nil {
		go s.watch(ctx)
	}
	defer context.AfterFunc(ctx, func() { s.stop(l) })()
	err := s.core.Serve(s.sessions, patient{l, s.opts.Log})
	if ctx.Err() == nil {
		return err
	}
	s.handled.Lock() // waits for the sessions of Handle
	defer s.handled.Unlock()
	if s.handsOver() {
		s.awaitComebacks()
	}
	bound, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	failed, _ := errors.AsType[*sendq.ShutdownError](s.core.Broker.Shutdown(bound))
	if failed != nil && failed.Relay != nil { // no Writer with a connection is left
		s.opts.Log.Warn("other servers may not have got everything", "error", failed.Relay)
	}
	s.away.Wait() // for the log
	return nil
}

// stop accepts no more connections, and ends the sessions.
func (s *Server) stop(l net.Listener) {
	defer s.end()
	s.stopping.Store(true)
	l.Close()
	switch {
	case s.handsOver():
		s.sendAway()
	case s.opts.Drain > 0:
		bound, cancel := context.WithTimeout(context.Background(), s.opts.Drain+closeTimeout)
		defer cancel()
		_ = s.core.Broker.Drain(bound, s.opts.Drain, nil) // each session logs what is lost
	}
}

// Handle runs a session on a connection from elsewhere, and closes conn. When Serve stops, it waits for
// the session.
func (s *Server) Handle(conn net.Conn) {
	if !s.handled.TryRLock() { // the server is stopping
		conn.Close()
		return
	}
	defer s.handled.RUnlock()
	s.core.Handle(s.sessions, conn)
}
