// Package faultconn provides a net.Conn for tests. Its writes stall, fail or report a
// wrong count on request; real connections do so only by chance.
package faultconn

import (
	"net"
	"os"
	"slices"
	"sync"
	"time"
)

// A Conn passes each write to an underlying connection, unless told otherwise, and
// records it. It blocks on channels only, so it works inside a testing/synctest bubble.
type Conn struct {
	net.Conn // the underlying connection

	// Fault, if not nil, decides the result of a write of p: the underlying
	// connection gets the first n bytes, and Write returns n, err. Write returns n
	// even if it is out of range for p. Set Fault before the first write.
	Fault func(p []byte) (n int, err error)

	// Enter, if not nil, is called with the method's name when Write, Close,
	// SetWriteDeadline or LocalAddr begins. Set it before the Conn is used.
	Enter func(method string)

	closed chan struct{}

	mu       sync.Mutex
	gate     chan struct{} // writes wait until it is closed; nil if they do not wait
	waiting  chan struct{} // closed when a write waits
	expired  chan struct{} // closed when the write deadline has passed
	timer    *time.Timer   // closes expired
	sizes    []int         // lengths of the writes so far
	writing  int           // calls of Write in progress
	together int           // highest value of writing
	failed   bool          // a write has returned an error or a wrong count
	late     int           // writes after the failed one
}

// New returns a Conn that keeps the written bytes in memory, for Bytes. Its Read
// blocks until Close.
func New() *Conn { return Wrap(&memory{closed: make(chan struct{})}) }

// Wrap returns a Conn on top of conn. Its NetConn method returns conn.
func Wrap(conn net.Conn) *Conn {
	return &Conn{Conn: conn, closed: make(chan struct{}), expired: make(chan struct{})}
}

// NetConn returns the underlying connection.
func (c *Conn) NetConn() net.Conn { return c.Conn }

// Stall makes writes wait from now on, until Release, Close or the write deadline.
// The returned channel is closed when a write waits.
func (c *Conn) Stall() (waiting <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gate, c.waiting = make(chan struct{}), make(chan struct{})
	return c.waiting
}

// Release ends a Stall: waiting and later writes proceed.
func (c *Conn) Release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.gate)
	c.gate, c.waiting = nil, nil
}

// FailAt returns a Fault that accepts n bytes in all. The write that exceeds n fails
// with err, after the bytes up to n are written.
func FailAt(n int, err error) func([]byte) (int, error) {
	return func(p []byte) (int, error) {
		took := min(len(p), n)
		n -= took
		if took < len(p) {
			return took, err
		}
		return took, nil
	}
}

// Short returns a Fault that accepts at most n bytes of a write and returns no error
// for the rest, which violates the contract of io.Writer.
func Short(n int) func([]byte) (int, error) {
	return func(p []byte) (int, error) { return min(len(p), n), nil }
}

// Write writes p, or as much of it as Fault allows.
func (c *Conn) Write(p []byte) (n int, err error) {
	c.enter("Write")
	c.mu.Lock()
	c.sizes = append(c.sizes, len(p))
	c.writing++
	c.together = max(c.together, c.writing)
	if c.failed {
		c.late++
	}
	gate, expired := c.gate, c.expired
	if gate != nil && c.waiting != nil {
		close(c.waiting)
		c.waiting = nil
	}
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.writing--
		if err != nil || n != len(p) {
			c.failed = true
		}
	}()

	if gate != nil {
		select {
		case <-gate:
		case <-c.closed:
		case <-expired:
		}
	}
	select {
	case <-c.closed:
		return 0, net.ErrClosed
	case <-expired:
		return 0, os.ErrDeadlineExceeded
	default:
	}
	if c.Fault == nil {
		return c.Conn.Write(p)
	}
	n, err = c.Fault(p)
	if took := min(max(n, 0), len(p)); took > 0 {
		if written, err := c.Conn.Write(p[:took]); err != nil {
			return written, err
		}
	}
	return n, err
}

// Close closes the underlying connection and ends waiting writes.
func (c *Conn) Close() error {
	c.enter("Close")
	c.mu.Lock()
	select {
	case <-c.closed:
	default:
		close(c.closed)
	}
	c.mu.Unlock()
	return c.Conn.Close()
}

// SetWriteDeadline sets the time at which waiting writes fail. Later writes fail too.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.enter("SetWriteDeadline")
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timer != nil && !c.timer.Stop() {
		c.expired = make(chan struct{}) // closed by the timer, now or soon
	}
	select {
	case <-c.expired:
		c.expired = make(chan struct{})
	default:
	}
	c.timer = nil
	if !t.IsZero() {
		expired := c.expired
		c.timer = time.AfterFunc(time.Until(t), func() { close(expired) })
	}
	return nil
}

// SetDeadline sets the write deadline, and the read deadline of the underlying connection.
func (c *Conn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// LocalAddr returns the address of the underlying connection.
func (c *Conn) LocalAddr() net.Addr {
	c.enter("LocalAddr")
	return c.Conn.LocalAddr()
}

func (c *Conn) enter(method string) {
	if c.Enter != nil {
		c.Enter(method)
	}
}

// Bytes returns the bytes written to a Conn made by New.
func (c *Conn) Bytes() []byte {
	m := c.Conn.(*memory)
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.bytes)
}

// Sizes returns the length of each write so far.
func (c *Conn) Sizes() []int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.sizes)
}

// Together returns the largest number of writes in progress at the same time.
func (c *Conn) Together() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.together
}

// Late returns the number of writes after one had failed.
func (c *Conn) Late() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.late
}

// memory is the underlying connection of a Conn made by New.
type memory struct {
	closed chan struct{}
	mu     sync.Mutex
	bytes  []byte
}

func (m *memory) Write(p []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.bytes = append(m.bytes, p...)
	return len(p), nil
}

func (m *memory) Read([]byte) (int, error) {
	<-m.closed
	return 0, net.ErrClosed
}

func (m *memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	select {
	case <-m.closed:
		return net.ErrClosed
	default:
		close(m.closed)
		return nil
	}
}

func (m *memory) LocalAddr() net.Addr              { return addr{} }
func (m *memory) RemoteAddr() net.Addr             { return addr{} }
func (m *memory) SetDeadline(time.Time) error      { return nil }
func (m *memory) SetReadDeadline(time.Time) error  { return nil }
func (m *memory) SetWriteDeadline(time.Time) error { return nil }

type addr struct{}

// Network returns the network of net.Pipe. Nothing is buffered, so Close need not wait.
func (addr) Network() string { return "pipe" }
func (addr) String() string  { return "memory" }
