/*
Package sendqtest helps to test programs that use sendq. A [Conn] is a connection in memory. The
test decides what its peer does: stall, read slowly, take a part of a message, fail, send, or go.

	bob := sendqtest.NewConn()
	go serve(broker, bob) // the code under test
	bob.Feed("bob\n")     // the peer sends
	bob.Stall()           // and reads nothing from now on
	...
	bob.Release()
	lines, rest := sendqtest.Messages(bob.Bytes(), bufio.ScanLines)

A Conn starts no goroutine, knows no testing.T, and waits on channels only. So it works in a bubble
of testing/synctest, where a test of a timeout takes no time.
*/
package sendqtest

import (
	"fmt"
	"net"
	"slices"
	"sync"
	"time"
)

// A Conn is a net.Conn with a peer that obeys the test. At first the peer takes everything at once
// and sends nothing. All methods may be called from any goroutine at any time.
//
// Use NewConn or Wrap to make a Conn.
type Conn struct {
	inner net.Conn // nil if the bytes are kept here

	mu      sync.Mutex
	changed chan struct{} // closed, and replaced, when a call may no longer have to wait
	closed  bool
	readBy  deadline
	writeBy deadline

	// What the peer does.
	pace   pace
	fails  bool  // a Write beyond left more bytes fails with err
	left   int   // only if fails
	err    error // only if fails
	input  []byte
	hungUp bool

	// What the peer has got.
	bytes []byte
	sizes []int
}

// A pace is how fast the peer takes bytes. The zero pace is at once.
type pace struct {
	limited  bool
	quota    int           // the bytes that the peer takes now
	amount   int           // the quota at the start of each interval
	interval time.Duration // 0 if the quota is not renewed
	next     time.Time     // the start of the next interval
	waiting  chan struct{} // closed when a Write waits; nil afterwards
}

// NewConn returns a Conn in memory. It buffers nothing: a Write returns when the peer has taken the
// bytes. The network of its addresses is that of a net.Pipe.
func NewConn() *Conn { return Wrap(nil) }

// Wrap returns a Conn in front of another one, for example of TCP or TLS. It has the peer of conn,
// and can stall it, slow it down, and fail. Feed, Hangup and Bytes panic: use the peer's end of
// conn instead.
func Wrap(conn net.Conn) *Conn { return &Conn{inner: conn, changed: make(chan struct{})} }

// NetConn returns the argument of Wrap, or nil.
func (c *Conn) NetConn() net.Conn { return c.inner }

// Stall makes the peer take nothing from now on. The channel is closed when a Write waits.
func (c *Conn) Stall() (waiting <-chan struct{}) {
	w := make(chan struct{})
	c.change(func() { c.pace = pace{limited: true, waiting: w} })
	return w
}

// Take makes a stalled peer take n bytes more, for example a part of a message.
func (c *Conn) Take(n int) { c.change(func() { c.pace.quota += n }) }

// Slow makes the peer take at most n bytes in each interval, the first of them after an interval.
// It panics unless both are positive.
func (c *Conn) Slow(n int, interval time.Duration) {
	if n <= 0 || interval <= 0 {
		panic(fmt.Sprintf("sendqtest: Slow: not positive: %d bytes, %v", n, interval))
	}
	c.change(func() {
		c.pace = pace{limited: true, amount: n, interval: interval, next: time.Now().Add(interval)}
	})
}

// Release makes the peer take everything at once again. It ends Stall and Slow.
func (c *Conn) Release() { c.change(func() { c.pace = pace{} }) }

// FailAfter makes the peer take n more bytes. The Write with the next byte fails with err, for
// example syscall.ECONNRESET, and so do all later ones. While the peer is stalled they wait.
func (c *Conn) FailAfter(n int, err error) {
	c.change(func() { c.fails, c.left, c.err = true, n, err })
}

// Feed makes the peer send s. It does not wait for a Read.
func (c *Conn) Feed(s string) {
	c.requireOwn("Feed")
	c.change(func() { c.input = append(c.input, s...) })
}

// Hangup makes the peer go. Read returns io.EOF after everything fed. A Write fails as if the
// connection was broken, also if it waits.
func (c *Conn) Hangup() {
	c.requireOwn("Hangup")
	c.change(func() { c.hungUp = true })
}

// Bytes returns a copy of what the peer has received.
func (c *Conn) Bytes() []byte {
	c.requireOwn("Bytes")
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.bytes)
}

// Sizes returns the length of each Write so far, whatever became of it. On a message-framed
// connection each is a message.
func (c *Conn) Sizes() []int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.sizes)
}

func (c *Conn) requireOwn(method string) {
	if c.inner != nil {
		panic("sendqtest: " + method + " of a Conn made by Wrap")
	}
}

// change calls f and wakes the calls that wait.
func (c *Conn) change(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
	close(c.changed)
	c.changed = make(chan struct{})
}

// wake wakes the calls that wait, because a time has come.
func (c *Conn) wake() { c.change(func() {}) }

// wait waits for a change. It releases mu while it waits.
func (c *Conn) wait() {
	changed := c.changed
	c.mu.Unlock()
	<-changed
	c.mu.Lock()
}

// mayTake returns how many of n bytes the peer takes now, and whether a Write may go on at all. mu
// is held.
func (c *Conn) mayTake(n int) (taken int, ok bool) {
	p := &c.pace
	if !p.limited {
		return n, true
	}
	if now := time.Now(); p.interval > 0 && !now.Before(p.next) {
		p.quota, p.next = p.amount, now.Add(p.interval)
	}
	taken = min(n, p.quota)
	p.quota -= taken
	return taken, taken > 0
}
