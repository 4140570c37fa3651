// Package server is the chat server as it is deployed: package core in armour. Read core first, in
// one sitting. Here each file is one piece of armour, and server.go puts them on:
//
//   - tls.go: TLS
//   - accept.go: connections that are too many for their address, or for the machine
//   - session.go: what a session has beyond the protocol; uses the next three
//   - pace.go: lines a second
//   - missed.go: lines for users who come back, with Takeover
//   - log.go: a line in the log for each connection
//   - conn.go: connections that speak another protocol below the lines, such as WebSocket
//   - nodes.go: other servers, with a Relay
//   - run.go: flags and signals
//
// The package is an example: it may change in any version.
package server

import (
	"cmp"
	"context"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/examples/chat/core"
)

const (
	closeTimeout  = 10 * time.Second // to deliver what is queued for a user whose session ends
	refuseTimeout = time.Second      // the same for a client that is refused
	maxPending    = 64 << 20         // bytes queued for a user, by default
	maxPendingAll = 1 << 30          // bytes queued for all users
	maxReplay     = 256 << 10        // bytes of a room's last lines
)

// Options are what a program chooses. The zero value of each field is its default. With both
// Takeover and Replay, a user who comes back may get some lines of a room twice.
type Options struct {
	Addr     string       // where Run listens
	Takeover bool         // let a second login take the name over, with the lines that the first has missed
	Replay   int          // the number of its last lines that a room replays to a new member
	Log      *slog.Logger // gets a line at the end of each connection; nil: slog.Default()

	PerAddress int // connections from an IP address; 0: no limit
	Rate       int // lines a second from a user, after a burst; 0: no limit
	MaxPending int // bytes queued for a user before they are disconnected; 0: 64 MiB

	// Frame, unless nil, encodes a line with its end. The result is written to all connections.
	Frame func(line []byte) []byte

	// Command, unless nil, is called first for each line that begins with a slash. It returns
	// false if the line is not for it.
	Command func(user string, conn net.Conn, words []string) bool

	tls certificate // set by flags

	// Broker has further options of the Broker. Takeover and Replay override it.
	Broker sendq.BrokerOptions
}

// A Server is a core.Server in armour. It must be made by New.
type Server struct {
	core      core.Server
	opts      Options
	addresses addresses
	missed    *mailboxes   // nil without Takeover
	handled   sync.RWMutex // read-locked by each session of Handle, and locked for good when the Server stops
}

// New returns a server without users.
func New(o Options) *Server {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	s := &Server{opts: o, addresses: addresses{max: o.PerAddress}}
	opts := &s.opts.Broker
	opts.ReplayMessages, opts.ReplayBytes = o.Replay, maxReplay
	if o.Takeover {
		s.missed = newMailboxes()
		opts.Names, opts.OnUndelivered = sendq.Takeover, s.keep
	}
	s.core.Broker = sendq.NewBroker(opts)
	s.core.Hooks = core.Hooks{
		Writer: sendq.WriterOptions{
			MaxPending:   cmp.Or(o.MaxPending, maxPending),
			CloseTimeout: closeTimeout,
			Budget:       sendq.NewBudget(maxPendingAll),
		},
		Replay: o.Replay,
		Frame:  o.Frame,
		Why:    why,
		Armour: s.arm,
	}
	return s
}

// Broker returns the Broker of the users.
func (s *Server) Broker() *sendq.Broker { return s.core.Broker }

// Serve accepts connections until ctx is done, and closes l. Then it delivers what is queued for
// each user, for at most 10 seconds, and returns when the last session has ended. Nobody can log
// in after that.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	if s.opts.Broker.Relay != nil {
		go s.watch(ctx)
	}
	err := s.core.Serve(ctx, patient{l, s.opts.Log})
	if ctx.Err() == nil {
		return err
	}
	s.handled.Lock() // waits for the sessions of Handle, and lets no more begin
	bound, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	if err := s.core.Broker.Shutdown(bound); err != nil { // an error of the Relay; no Writer is left
		s.opts.Log.Warn("other servers may not have got everything", "error", err)
	}
	return nil
}

// Handle runs a session on a connection that did not come by Serve, and closes conn. The context
// is that of Serve, which waits for the session when it stops.
func (s *Server) Handle(ctx context.Context, conn net.Conn) {
	if !s.handled.TryRLock() { // the Server has stopped
		conn.Close()
		return
	}
	defer s.handled.RUnlock()
	s.core.Handle(ctx, conn)
}
