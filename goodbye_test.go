package sendq_test

import (
	"bufio"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
)

// TLS gives its goodbye 5 s, and a kernel that is full has no room for it: a peer that reads
// slowly would get everything and then no proper end. So nobody says goodbye before the peer
// has the messages.
func TestGoodbyeComesWhenThereIsRoom(t *testing.T) {
	needAcknowledgements(t)
	const length = 300 << 10
	inner, peer := tcpPair(t)
	require.NoError(t, inner.(*net.TCPConn).SetWriteBuffer(1<<20)) // takes it all
	require.NoError(t, peer.(*net.TCPConn).SetReadBuffer(32<<10))  // takes little
	conn := &politeConn{Conn: inner, bye: make(chan struct{})}
	w := sendq.NewWriter(conn, patient)
	require.NoError(t, w.Send(make([]byte, length)))
	require.NoError(t, w.Flush(t.Context()), "the kernel takes it")
	closed := async(w.Close)
	select {
	case <-conn.bye: // too early, and what was read will be too little
	case <-time.After(200 * time.Millisecond):
	}
	n, err := io.CopyBuffer(&conn.arrived, struct{ io.Reader }{peer}, make([]byte, 4<<10))
	require.NoError(t, err)
	require.EqualValues(t, length, n)
	require.NoError(t, <-closed)
	<-conn.bye
	require.Greater(t, conn.early, int64(length/2), "had arrived when it said goodbye")
}

// A politeConn says goodbye, as TLS does, and knows how much had arrived by then.
type politeConn struct {
	net.Conn
	arrived counter
	early   int64
	bye     chan struct{}
}

func (c *politeConn) NetConn() net.Conn { return c.Conn }

func (c *politeConn) CloseWrite() error {
	c.early = c.arrived.Load()
	close(c.bye)
	return nil
}

// If the peer resets the connection when a wrapper has just written what it had kept, Close does not
// take that for delivered.
func TestCloseCountsWhatAWrapperHasGatheredInVain(t *testing.T) {
	needAcknowledgements(t)
	const size = 200 << 10
	conn, peer := narrow(tcpPair)(t)
	w := sendq.NewWriter(&abandoned{
		gatherer: &gatherer{conn, bufio.NewWriterSize(conn, 2*size)},
		flushed: func() {
			reset(t, peer)
			_, err := io.Copy(io.Discard, conn)
			assert.Error(t, err, "the reset has come")
		},
	}, patient)
	require.NoError(t, w.Send(make([]byte, size)))
	require.NoError(t, w.Flush(t.Context()))
	require.ErrorContains(t, w.Close(), "not acknowledged")
}

// An abandoned is a gatherer that calls flushed when it has written what it had kept.
type abandoned struct {
	*gatherer
	flushed func()
}

func (c *abandoned) CloseWrite() error {
	defer c.flushed()
	return c.gatherer.CloseWrite()
}

// A counter counts what is written to it.
type counter struct{ atomic.Int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.Add(int64(len(p)))
	return len(p), nil
}
