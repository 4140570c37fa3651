//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// The clients are the members of a server and those who publish to them. It has one loop for each
// core, and no other goroutine: the loop that sees the last byte of a window sends
// the next one, so no wake-up of ours is measured.
//
// A window is some messages that publishers send at once, each publisher its share in
// one write. The next window is sent when every member has all of them, and
// every publisher its answers.
type clients struct {
	protocol protocol
	server   netip.AddrPort
	payload  string
	created  time.Time
	wake     int // an eventfd that ends the loops
	loops    []*loop
	running  sync.WaitGroup
	conns    []*conn // members first
	members  int
	stalled  []*peer
	messages [][]byte // of each publisher, as often as it may send it at once
	frame    int      // bytes of a message as a member gets it

	// Of the run that is under way. Whoever is about to send a window, run or a loop, has
	// it for itself, for all loops are waiting then.
	inFlight   int   // messages in a window
	publishers int   // who take part
	turn       int   // the publisher who begins the next window
	sentAt     int64 // when the window was sent
	startedAt  int64
	windows    int
	latencies  []int64
	enough     func(windows int, elapsed time.Duration) bool

	window    atomic.Int64 // a number for each
	loopsLeft atomic.Int32 // loops that have not got all of it
	ended     chan error   // of the run; has room for its end and for what comes too late
	failed    atomic.Bool
	timeout   time.Duration // for a window
}

// windowPatience is how long members may wait for what is left of a window. The slowest
// services take a good part of it for a large one.
const windowTimeout = 2 * time.Minute

// maxUnder is the most messages that may be under way.
const maxInFlight = 256

// newCrowd makes members of the server, of which the last ones stall: they never read.
// It proves that each of the others gets what a publisher sends.
func newClients(server netip.AddrPort, p protocol, payload string, members, stalled int) (*clients, error) {
	c := &clients{protocol: p, server: server, payload: payload, created: time.Now(), ended: make(chan error, 2),
		frame: len(p.frame(0, payload)), timeout: windowTimeout, latencies: make([]int64, 0, 1<<20)}
	var err error
	if c.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC); err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	if err := c.connectAll(members, stalled); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (c *clients) connectAll(members, stalled int) error {
	for i := range members + stalled {
		p, err := connect(c.server, i, i >= members)
		if err != nil {
			return fmt.Errorf("member %d: %w", i, err)
		}
		if i < members {
			c.conns = append(c.conns, &conn{peer: p})
		} else {
			c.stalled = append(c.stalled, p)
		}
		if err := c.protocol.join(p, i); err != nil {
			return fmt.Errorf("member %d: %w", i, err)
		}
	}
	c.members = members
	publisher, err := c.addPublisher()
	if err != nil {
		return err
	}
	for _, m := range c.conns {
		if err := c.settle(m.peer); err != nil {
			return err
		}
	}
	for _, p := range c.stalled {
		if err := c.settle(p); err != nil {
			return err
		}
	}
	if err := c.verify(publisher); err != nil {
		return err
	}
	for range min(runtime.NumCPU(), members) {
		l, err := newLoop(c)
		if err != nil {
			return err
		}
		c.loops = append(c.loops, l)
	}
	for i, m := range c.conns {
		if err := c.loops[i%len(c.loops)].add(m); err != nil {
			return err
		}
	}
	for _, l := range c.loops {
		c.running.Add(1)
		go l.run()
	}
	return nil
}

// settle waits for what the server has to say unasked.
func (c *clients) settle(p *peer) error {
	if c.protocol.settle == nil {
		return nil
	}
	return c.protocol.settle(p)
}

// enter makes a connection for one more publisher.
func (c *clients) addPublisher() (*conn, error) {
	i := len(c.messages)
	p, err := connect(c.server, len(c.conns)+len(c.stalled), false)
	if err != nil {
		return nil, fmt.Errorf("publisher %d: %w", i, err)
	}
	publisher := &conn{peer: p, publisher: true}
	c.conns = append(c.conns, publisher)
	c.messages = append(c.messages, bytes.Repeat([]byte(c.protocol.message(i, c.payload)), maxInFlight))
	if err := c.protocol.enter(p, i); err != nil {
		return nil, fmt.Errorf("publisher %d: %w", i, err)
	}
	return publisher, nil
}

// prove publishes one message and looks whether all get it as it should be.
func (c *clients) verify(publisher *conn) error {
	if err := publisher.send(c.protocol.message(0, c.payload)); err != nil {
		return err
	}
	frame := c.protocol.frame(0, c.payload)
	for i, m := range c.conns[:c.members] {
		if err := m.expect(frame); err != nil {
			return fmt.Errorf("member %d: %w", i, err)
		}
	}
	return publisher.expect(c.protocol.answer(c.payload, c.subscribed()))
}

// subscribed is how many members there are, those who stall included.
func (c *clients) subscribed() int { return c.members + len(c.stalled) }

// receivers is how many connections get each message and read it.
func (c *clients) receivers() int {
	n := c.members
	if c.protocol.receives {
		n += len(c.messages) - 1
		if c.protocol.answer(c.payload, c.subscribed()) != "" {
			n++
		}
	}
	return n
}

// needPublishers makes publishers until there are n. None ever goes.
func (c *clients) needPublishers(n int) error {
	before := len(c.conns)
	for len(c.messages) < n {
		if _, err := c.addPublisher(); err != nil {
			return err
		}
	}
	for i, p := range c.conns[before:] {
		if err := c.settle(p.peer); err != nil {
			return err
		}
		if err := c.loops[i%len(c.loops)].add(p); err != nil {
			return err
		}
	}
	return nil
}

// close ends all connections.
func (c *clients) close() {
	_, _ = unix.Write(c.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // cannot fail: its counter is 0
	c.running.Wait()
	for _, l := range c.loops {
		_ = unix.Close(l.epoll)
	}
	for _, m := range c.conns {
		m.peer.close()
	}
	for _, p := range c.stalled {
		p.close()
	}
	_ = unix.Close(c.wake)
}

// fail ends the run, which is the last one. Only the first error is kept.
func (c *clients) fail(err error) {
	if c.failed.CompareAndSwap(false, true) {
		c.ended <- err
	}
}

var errClientsFailed = errors.New("the server has failed before")

// quiet fails if the server has sent more than it should.
func (c *clients) requireSilence() error {
	select {
	case err := <-c.ended:
		return err
	case <-time.After(50 * time.Millisecond):
		return nil
	}
}
