package sendq_test

import (
	"math"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq/sendqtest"
)

// A connKind is the kind of a model's connections.
type connKind byte

const (
	inMemory  connKind = iota // sendqtest, without a socket
	plainUnix                 // sockets with buffers as small as the kernel allows
	plainTCP
	wrappedUnix // every other one behind a sendqtest.Conn, so that no sender itself writes
	connKindCount
)

// A modelConn is a connection of a model. Its writes can be stalled, released, and made to fail.
type modelConn struct {
	conn    net.Conn    // of the Writer
	fault   *hookedConn // conn, or beneath it, or nil
	peer    *pacedPeer  // nil in memory
	stalled bool
	lossy   bool // the peer may have discarded bytes taken by the connection

	closing atomic.Pointer[chan struct{}] // its Close waits until that is closed; nil: it does not
}

// newModelConn returns a new modelConn. If convert is not nil, the Writer gets its result.
func newModelConn(t testing.TB, kind connKind, wrap bool, convert func(net.Conn) net.Conn) *modelConn {
	c := new(modelConn)
	if convert != nil {
		defer func() { c.conn = convert(c.conn) }()
	}
	if kind == inMemory {
		c.fault = hooked(sendqtest.NewConn())
	} else {
		conn, peer := smallPair(t, kind == plainTCP)
		c.conn, c.peer = conn, newPacedPeer(peer)
		if kind == wrappedUnix && wrap {
			c.fault = hooked(sendqtest.Wrap(conn))
		}
	}
	if c.fault == nil {
		return c
	}
	c.conn = c.fault
	c.fault.Enter = func(method string) {
		if gate := c.closing.Load(); method == "Close" && gate != nil {
			<-*gate
		}
	}
	return c
}

// smallPair returns connected sockets with small buffers. With a smaller TCP receive buffer
// everything would wait for timers, because half a segment would fill it.
func smallPair(t testing.TB, tcp bool) (conn, peer net.Conn) {
	if !tcp {
		conn, peer = socketPair(t)
	} else {
		conn, peer = tcpPair(t)
		require.NoError(t, peer.(*net.TCPConn).SetReadBuffer(16<<10))
	}
	require.NoError(t, conn.(interface{ SetWriteBuffer(int) error }).SetWriteBuffer(2<<10)) // Linux rounds it up to its least
	return conn, peer
}

func (c *modelConn) stall() {
	if c.fault != nil && !c.stalled {
		c.fault.Stall()
		c.stalled = true
	}
	if c.peer != nil {
		c.peer.pace(func(int) int { return 0 })
	}
}

// release lets everything through, including Close.
func (c *modelConn) release() {
	if c.stalled {
		c.fault.Release()
		c.stalled = false
	}
	c.letClose()
	if c.peer != nil {
		c.peer.pace(func(int) int { return math.MaxInt })
	}
}

// read lets the peer read n more bytes.
func (c *modelConn) read(n int) {
	if c.peer != nil {
		c.peer.pace(func(allowed int) int { return max(allowed, allowed+n) })
	}
}

// fail makes the connection fail after n bytes, or at once by a reset of the peer.
func (c *modelConn) fail(n int) {
	if c.fault != nil {
		c.fault.FailAfter(n, errBroken)
		return
	}
	c.lossy = true
	c.peer.reset()
}

// holdClose makes Close wait for release, unless conn is a socket itself.
func (c *modelConn) holdClose() {
	if c.fault != nil && c.closing.Load() == nil {
		c.closing.Store(new(make(chan struct{})))
	}
}

// letClose ends what holdClose began.
func (c *modelConn) letClose() {
	if gate := c.closing.Swap(nil); gate != nil {
		close(*gate)
	}
}

// received returns what the peer has received so far.
func (c *modelConn) received() []byte {
	if c.peer == nil {
		return c.fault.Bytes()
	}
	c.peer.mu.Lock()
	defer c.peer.mu.Unlock()
	return c.peer.sofar
}

// arrived returns the written bytes after the Writer has ended.
func (c *modelConn) arrived(t testing.TB) []byte {
	if c.peer == nil {
		return c.fault.Bytes()
	}
	return within(t, c.peer.all)
}

// A pacedPeer reads the allowed number of bytes, in pieces of many lengths.
type pacedPeer struct {
	conn net.Conn
	all  <-chan []byte // receives everything read, after EOF or an error

	mu      sync.Mutex
	more    sync.Cond
	allowed int    // bytes
	sofar   []byte // everything read
}

func newPacedPeer(conn net.Conn) *pacedPeer {
	p := &pacedPeer{conn: conn}
	p.more.L = &p.mu
	p.all = async(func() []byte {
		var all []byte
		for i := 1; ; i++ {
			n := p.take(1 + i*i*37%2000)
			all = append(all, make([]byte, n)...)
			read, err := conn.Read(all[len(all)-n:])
			all = all[:len(all)-n+read]
			p.mu.Lock()
			p.sofar = all
			p.mu.Unlock()
			if err != nil {
				return all
			}
		}
	})
	return p
}

// pace changes the allowed number of bytes.
func (p *pacedPeer) pace(change func(allowed int) int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.allowed = change(p.allowed)
	p.more.Signal()
}

// take waits until reading is allowed, and returns the allowed number of bytes, at most limit.
func (p *pacedPeer) take(limit int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.allowed == 0 {
		p.more.Wait()
	}
	n := min(limit, p.allowed)
	p.allowed -= n
	return n
}

// reset ends the connection as a crashed peer does.
func (p *pacedPeer) reset() {
	if conn, ok := p.conn.(*net.TCPConn); ok {
		_ = conn.SetLinger(0) // fails if it has been reset before
	}
	_ = p.conn.Close()
	p.pace(func(int) int { return math.MaxInt })
}
