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

// clients holds the connections of a server's members and publishers. There is one loop per
// core and no other goroutine. The loop that reads the last byte of a window sends the next
// window, so no wake-up between goroutines is measured.
//
// A window is a number of messages sent at the same time. Each publisher sends its share in
// one write. The next window follows once every member has all the messages and every
// publisher has its answers.
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
	messages [][]byte // by publisher: its message, maxInFlight times
	frame    int      // bytes of a message as received by a member

	// The current run. Only the goroutine about to send a window uses these fields: all
	// loops wait at that time.
	inFlight   int   // messages in a window
	publishers int   // number of publishers in this run
	turn       int   // first publisher of the next window
	sentAt     int64 // when the window was sent
	startedAt  int64
	windows    int
	latencies  []int64
	enough     func(windows int, elapsed time.Duration) bool

	window    atomic.Int64 // the number of the window
	loopsLeft atomic.Int32 // loops still waiting for messages of the window
	ended     chan error   // result of the run; buffered for one late error
	failed    atomic.Bool
	timeout   time.Duration // for a window
}

// windowTimeout is the time allowed for one window. The slowest services need a large part
// of it for a large window.
const windowTimeout = 2 * time.Minute

// maxInFlight is the maximum number of messages in a window.
const maxInFlight = 256

// newClients connects members and stalled members to the server. Stalled members never read.
// newClients verifies that each of the others receives a publisher's message.
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

// settle reads unsolicited messages of the server.
func (c *clients) settle(p *peer) error {
	if c.protocol.settle == nil {
		return nil
	}
	return c.protocol.settle(p)
}

// addPublisher connects one more publisher.
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

// verify publishes one message and checks that all members receive it byte for byte.
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

// subscribed returns the number of members, including stalled ones.
func (c *clients) subscribed() int { return c.members + len(c.stalled) }

// receivers returns the number of connections that read each message.
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

// needPublishers adds publishers until there are n. Publishers are never removed.
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
	_, _ = unix.Write(c.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // cannot fail, because the counter is 0
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

// fail ends the run; there is no further run. Only the first error is kept.
func (c *clients) fail(err error) {
	if c.failed.CompareAndSwap(false, true) {
		c.ended <- err
	}
}

var errClientsFailed = errors.New("the server failed in an earlier run")

// requireSilence returns an error if the server sends more than expected.
func (c *clients) requireSilence() error {
	select {
	case err := <-c.ended:
		return err
	case <-time.After(50 * time.Millisecond):
		return nil
	}
}
