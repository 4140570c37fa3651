package sendq

import (
	"errors"
	"io"
	"math"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq/internal/sock"
)

// Close waits until the peer's kernel has acknowledged the goodbye too, although all messages have
// arrived.
func TestFinishWaitsForTheGoodbye(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	inner, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	defer inner.Close()
	peer, err := l.Accept()
	require.NoError(t, err)
	defer peer.Close()
	if _, err := sock.StateOf(inner); errors.Is(err, errors.ErrUnsupported) {
		t.Skip("this platform does not tell what is acknowledged")
	}

	// The kernel is full of what the Writer did not send, and the goodbye is behind that.
	require.NoError(t, inner.(*net.TCPConn).SetWriteBuffer(1))
	require.NoError(t, inner.SetWriteDeadline(time.Now().Add(50*time.Millisecond)))
	_, err = inner.Write(make([]byte, 64<<20))
	require.Error(t, err)
	conn := &lookedAt{Conn: inner, after: 12, do: func() { _, _ = io.Copy(io.Discard, peer) }}
	w := NewWriter(conn, nil)
	w.watch().linger = &linger{aborted: make(chan struct{}), isKnown: true, end: math.MaxInt64} // the first look lowers it
	w.deliverRest()
	s, err := sock.StateOf(inner)
	require.NoError(t, err)
	require.Zero(t, s.Unacknowledged)
}

// A lookedAt calls do at one of the looks at what it wraps.
type lookedAt struct {
	net.Conn
	looks, after int
	do           func()
}

func (c *lookedAt) NetConn() net.Conn {
	if c.looks++; c.looks == c.after {
		c.do()
	}
	return c.Conn
}
