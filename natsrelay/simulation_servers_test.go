package natsrelay

import (
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// simServers are the NATS servers of a simulated cluster. Each connection of a process leads to one
// of them, and one leads the bucket. One at a time may be cut off from the others.
type simServers struct {
	n int

	mu     sync.Mutex
	apart  int  // the server cut off; -1 if there is none
	holds  bool // what is sent over the cut arrives afterwards, as TCP sends it again
	held   []func()
	leader int // of the bucket; noServer during an election
}

const noServer = -1

func newSimServers(n int) *simServers { return &simServers{n: n, apart: noServer} }

// pass calls f when something comes from one server to another, unless it is lost.
func (s *simServers) pass(from, to int, f func()) {
	s.mu.Lock()
	isCut := from != to && (s.apart == from || s.apart == to)
	if isCut && s.holds {
		s.held = append(s.held, f)
	}
	s.mu.Unlock()
	if !isCut {
		f()
	}
}

// leads returns the server that leads the bucket.
func (s *simServers) leads() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leader
}

// cut cuts a server off from the others until heal is called. After an election, another one leads the
// bucket. cut returns nil if a server is cut off already.
func (s *simServers) cut(server int, holds bool, election time.Duration) (heal func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.apart != noServer {
		return nil
	}
	s.apart, s.holds = server, holds
	if s.leader == server {
		s.leader = noServer
		time.AfterFunc(election, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.leader = (server + 1) % s.n
		})
	}
	return func() {
		s.mu.Lock()
		held := s.held
		s.apart, s.held = noServer, nil
		s.mu.Unlock()
		for _, f := range held {
			f()
		}
	}
}

// A simNATS is a connection of a process to NATS.
type simNATS struct {
	process     *simProcess
	reconnected func()

	mu       sync.Mutex
	server   int
	isMoving bool
}

// place returns the server of the connection, or false while it moves to another one.
func (c *simNATS) place() (server int, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.server, !c.isMoving
}

func (c *simNATS) Publish(subject string, envelope []byte) error {
	p := c.process
	p.gate()
	p.mu.Lock()
	isDead, refuses := p.dead, p.refuses
	p.mu.Unlock()
	switch _, ok := c.place(); {
	case refuses || !ok:
		return nats.ErrReconnectBufExceeded
	case !isDead:
		p.sim.publish(c, subject, append([]byte(nil), envelope...))
	}
	return nil
}

func (*simNATS) MaxPayload() int64 { return 1 << 20 }

// ForceReconnect moves the connection to the next server. What is on its way is lost.
func (c *simNATS) ForceReconnect() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isMoving {
		return nil
	}
	c.isMoving = true
	time.AfterFunc(5*c.process.sim.network.delay, func() {
		c.process.gate()
		c.mu.Lock()
		server := (c.server + 1) % c.process.sim.servers.n
		c.server, c.isMoving = server, false
		c.mu.Unlock()
		c.process.sim.ledger.tell("%s has moved to server %d", c.process.id, server)
		c.reconnected()
	})
	return nil
}

func (*simNATS) Close() {}
