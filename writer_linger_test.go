package sendq_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/sendqtest"
)

// An opaqueConn buffers, and cannot be asked for acknowledged bytes.
type opaqueConn struct{ *sendqtest.Conn }

func (opaqueConn) NetConn() net.Conn   { return nil }
func (opaqueConn) LocalAddr() net.Addr { return opaqueAddr{} }

type opaqueAddr struct{}

func (opaqueAddr) Network() string { return "opaque" }
func (opaqueAddr) String() string  { return "opaque" }

type halfCloseConn struct{ opaqueConn }

func (halfCloseConn) CloseWrite() error { return nil }

func TestCloseWaitsBlindly(t *testing.T) {
	const wait = 500 * time.Millisecond
	for _, tt := range []struct {
		name  string
		conn  net.Conn
		bound time.Duration
		want  time.Duration
	}{
		{"without a half-close", opaqueConn{sendqtest.NewConn()}, time.Hour, wait},
		{"with one", halfCloseConn{opaqueConn{sendqtest.NewConn()}}, time.Hour, wait},
		{"no longer than the bound", opaqueConn{sendqtest.NewConn()}, wait / 5, wait / 5},
		{"no longer than the bound, with a half-close", halfCloseConn{opaqueConn{sendqtest.NewConn()}}, wait / 5, wait / 5},
		{"not for a pipe", sendqtest.NewConn(), time.Hour, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := sendq.NewWriter(tt.conn, &sendq.WriterOptions{CloseTimeout: tt.bound})
				_, err := w.Write([]byte("message"))
				require.NoError(t, err)
				began := time.Now()
				require.NoError(t, w.Close())
				require.Equal(t, tt.want, time.Since(began))
				require.NoError(t, w.Err())
			})
		})
	}

	t.Run("no longer than until CloseNow", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := sendq.NewWriter(opaqueConn{sendqtest.NewConn()}, patient)
			require.NoError(t, w.Send([]byte("message")))
			closed := async(w.Close)
			time.Sleep(wait / 2)
			require.NoError(t, w.CloseNow())
			require.NoError(t, <-closed)
			require.NoError(t, w.Err())
		})
	})

	t.Run("and a Close that hangs is an error", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			conn := hooked(sendqtest.NewConn())
			interrupted := make(chan struct{})
			var closes atomic.Int32
			conn.Enter = func(method string) {
				switch {
				case method != "Close":
				case closes.Add(1) == 1:
					<-interrupted
				default:
					close(interrupted)
				}
			}
			w := sendq.NewWriter(conn, &sendq.WriterOptions{CloseTimeout: time.Second})
			require.NoError(t, w.Send([]byte("message")))
			require.ErrorIs(t, w.Close(), context.DeadlineExceeded)
		})
	})
}

// A stuckGoodbyeConn never finishes its goodbye.
type stuckGoodbyeConn struct {
	net.Conn
	begun, closed chan struct{}
	once          *sync.Once
}

func newStuckGoodbyeConn(conn net.Conn) stuckGoodbyeConn {
	return stuckGoodbyeConn{conn, make(chan struct{}), make(chan struct{}), new(sync.Once)}
}

func (c stuckGoodbyeConn) NetConn() net.Conn { return c.Conn }

func (c stuckGoodbyeConn) CloseWrite() error {
	close(c.begun)
	<-c.closed
	return net.ErrClosed
}

func (c stuckGoodbyeConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// A failure after the last message is no loss.
func TestCloseIsAboutMessages(t *testing.T) {
	needAcknowledgements(t)
	for _, tr := range []transport{{"TCP", tcpPair}, {"TLS", tlsPair}, {"Unix", unixPair}} {
		for _, how := range []string{"the bound", "CloseNow"} {
			t.Run(tr.name+" "+how, func(t *testing.T) {
				inner, peer := tr.pair(t)
				conn := newStuckGoodbyeConn(inner)
				w := sendq.NewWriter(conn, patient)
				require.NoError(t, w.Send([]byte("message")))
				_, err := io.ReadFull(peer, make([]byte, 7))
				require.NoError(t, err)
				ctx, cancel := context.WithCancel(t.Context())
				shut := async(func() error { return w.Shutdown(ctx) })
				<-conn.begun
				if how == "the bound" {
					cancel()
				} else {
					require.NoError(t, w.CloseNow())
				}
				require.NoError(t, within(t, shut))
				require.NoError(t, w.Err())
				cancel()
			})
		}
	}
}

// If a reader ends its Writer because the peer is gone, a Close that has delivered still succeeds.
func TestCloseNowAtEOF(t *testing.T) {
	needAcknowledgements(t)
	t.Parallel()
	over(t, sockets, func(t *testing.T, conn, peer net.Conn) {
		w := sendq.NewWriter(conn, patient)
		go func() {
			io.Copy(io.Discard, conn)
			assert.NoError(t, w.CloseNow())
		}()
		farewell := letters(2 << 20)
		require.NoError(t, w.Send(farewell))
		closed := async(w.Close)
		got := readAll(peer)
		require.Equal(t, content{string(farewell), nil}, got)
		peer.Close()
		require.NoError(t, <-closed)
		require.NoError(t, w.Err())
	})
}

// The peer takes everything just before the timeout, so what an earlier look found is no longer an
// error.
func TestCloseLooksOnceMore(t *testing.T) {
	needAcknowledgements(t)
	t.Parallel()
	for range 3 {
		conn, peer := narrow(tcpPair)(t)
		w := sendq.NewWriter(conn, nil)
		farewell := letters(100 << 10)
		require.NoError(t, w.Send(farewell))
		require.NoError(t, w.Flush(t.Context()))
		ctx, cancel := context.WithCancel(t.Context())
		shut := async(func() error { return w.Shutdown(ctx) })
		time.Sleep(300 * time.Millisecond) // until the looks are far apart
		require.Equal(t, content{string(farewell), nil}, readAll(peer))
		for outQueue(t, conn) > 0 { // the last acknowledgement may be a delayed one
			time.Sleep(time.Millisecond)
		}
		cancel()
		require.NoError(t, <-shut)
		require.NoError(t, w.Err())
	}
}

// Close reports as lost the bytes unacknowledged at its end.
func TestCloseCountsWhatIsLost(t *testing.T) {
	needAcknowledgements(t)
	t.Parallel()
	conn, peer := narrow(tcpPair)(t)
	w := sendq.NewWriter(conn, nil)
	require.NoError(t, w.Send(make([]byte, 300<<10)))
	require.NoError(t, w.Flush(t.Context()))
	ctx, cancel := context.WithCancel(t.Context())
	shut := async(func() error { return w.Shutdown(ctx) })
	time.Sleep(300 * time.Millisecond) // until the looks are far apart
	_, err := io.ReadFull(peer, make([]byte, 100<<10))
	require.NoError(t, err)
	before := outQueue(t, conn) // among it is the half-close
	cancel()
	err = <-shut
	require.Error(t, err)
	_, text, _ := strings.Cut(err.Error(), "by the peer: ")
	var lost int
	_, err = fmt.Sscanf(text, "%d:", &lost)
	require.NoError(t, err, text)
	require.Positive(t, lost)
	require.Less(t, lost, before, "what has been acknowledged since the last look")
}

func TestCloseTellsTheKernelsCause(t *testing.T) {
	needAcknowledgements(t)
	t.Parallel()
	conn, _ := narrow(tcpPair)(t)
	w := sendq.NewWriter(conn, patient)
	require.NoError(t, w.Send(make([]byte, 300<<10)))
	require.NoError(t, w.Flush(t.Context()))
	const tcpUserTimeout = 18 // of a peer that takes nothing, too
	raw, err := conn.(*net.TCPConn).SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) {
		assert.NoError(t, setOption(fd, syscall.IPPROTO_TCP, tcpUserTimeout, 300))
	}))
	err = within(t, async(w.Close))
	require.ErrorContains(t, err, "not acknowledged")
	require.ErrorIs(t, err, syscall.ETIMEDOUT)
}

// An MPTCP connection to a peer without MPTCP falls back to TCP. Close still knows what has
// arrived: everything if the peer reads to the end and closes, and not everything if the peer
// resets, even if the reader has taken the kernel's error.
func TestCloseOfMPTCPThatHasFallenBack(t *testing.T) {
	needAcknowledgements(t)
	t.Parallel()
	connectMPTCP := func(t *testing.T) (conn, peer net.Conn) {
		var plain net.ListenConfig
		plain.SetMultipathTCP(false)
		l, err := plain.Listen(t.Context(), "tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer l.Close()
		var d net.Dialer
		d.SetMultipathTCP(true)
		conn, err = d.Dial("tcp", l.Addr().String())
		require.NoError(t, err)
		peer, err = l.Accept()
		require.NoError(t, err)
		require.NoError(t, peer.(*net.TCPConn).SetReadBuffer(64<<10))
		closeAtEnd(t, conn, peer)
		return conn, peer
	}
	for _, size := range []int{100, 100_000, 300_000, 1_000_000} {
		for _, pause := range []time.Duration{0, 60 * time.Millisecond} {
			conn, peer := connectMPTCP(t)
			w := sendq.NewWriter(conn, patient)
			require.NoError(t, w.Send(make([]byte, size)))
			read := async(func() int64 {
				time.Sleep(pause) // so that Close has begun, or not
				n, _ := io.Copy(io.Discard, peer)
				peer.Close()
				return n
			})
			require.NoError(t, w.Close(), "%d bytes", size)
			require.EqualValues(t, size, <-read)
		}
	}
	t.Run("reset", func(t *testing.T) {
		conn, peer := connectMPTCP(t)
		w := sendq.NewWriter(conn, patient)
		require.NoError(t, w.Send(make([]byte, 1<<20)))
		require.NoError(t, w.Flush(t.Context()))
		reader := async(func() error { return second(conn.Read(make([]byte, 1))) })
		closed := async(w.Close)
		time.Sleep(100 * time.Millisecond)
		reset(t, peer)
		require.Error(t, <-reader)
		require.ErrorContains(t, <-closed, "not acknowledged")
	})
}

// A bufferingConn is a wrapper that buffers writes until CloseWrite.
type bufferingConn struct {
	net.Conn
	kept *bufio.Writer
}

func (c *bufferingConn) NetConn() net.Conn           { return c.Conn }
func (c *bufferingConn) Write(p []byte) (int, error) { return c.kept.Write(p) }
func (c *bufferingConn) CloseWrite() error           { return c.kept.Flush() }

// Bytes that a wrapper writes in CloseWrite are messages, not a goodbye, and Close waits for them.
func TestCloseWaitsForWhatAWrapperHasGathered(t *testing.T) {
	needAcknowledgements(t)
	t.Parallel()
	const size = 200 << 10
	conn, peer := narrow(tcpPair)(t)
	w := sendq.NewWriter(&bufferingConn{conn, bufio.NewWriterSize(conn, 2*size)}, patient)
	require.NoError(t, w.Send(make([]byte, size)))
	require.NoError(t, w.Flush(t.Context()))
	arrived := async(func() int64 {
		time.Sleep(1500 * time.Millisecond) // longer than Close waits for a goodbye
		peer.Write([]byte("something that nobody reads"))
		n, _ := io.Copy(io.Discard, peer)
		return n
	})
	require.NoError(t, w.Close())
	require.EqualValues(t, size, <-arrived)
}

// TLS has 5 s for its goodbye, and a full kernel has no room for it. So a peer that reads slowly
// would get everything and then no proper end. Therefore Close sends the goodbye after the peer has
// the messages.
func TestGoodbyeComesWhenThereIsRoom(t *testing.T) {
	needAcknowledgements(t)
	const length = 300 << 10
	inner, peer := tcpPair(t)
	require.NoError(t, inner.(*net.TCPConn).SetWriteBuffer(1<<20)) // takes it all
	require.NoError(t, peer.(*net.TCPConn).SetReadBuffer(32<<10))  // takes little
	conn := &goodbyeConn{Conn: inner, bye: make(chan struct{})}
	w := sendq.NewWriter(conn, patient)
	require.NoError(t, w.Send(make([]byte, length)))
	require.NoError(t, w.Flush(t.Context()), "the kernel takes it")
	closed := async(w.Close)
	select {
	case <-conn.bye: // too early: too little will have been read
	case <-time.After(200 * time.Millisecond):
	}
	n, err := io.CopyBuffer(&conn.arrived, struct{ io.Reader }{peer}, make([]byte, 4<<10))
	require.NoError(t, err)
	require.EqualValues(t, length, n)
	require.NoError(t, <-closed)
	<-conn.bye
	require.Greater(t, conn.early, int64(length/2), "had arrived when it said goodbye")
}

// A goodbyeConn records how much had arrived at its goodbye.
type goodbyeConn struct {
	net.Conn
	arrived counter
	early   int64
	bye     chan struct{}
}

func (c *goodbyeConn) NetConn() net.Conn { return c.Conn }

func (c *goodbyeConn) CloseWrite() error {
	c.early = c.arrived.Load()
	close(c.bye)
	return nil
}

// If the peer resets the connection just after a wrapper has written its buffer, Close does not
// report success.
func TestCloseCountsWhatAWrapperHasGatheredInVain(t *testing.T) {
	needAcknowledgements(t)
	const size = 200 << 10
	conn, peer := narrow(tcpPair)(t)
	w := sendq.NewWriter(&flushHookConn{
		bufferingConn: &bufferingConn{conn, bufio.NewWriterSize(conn, 2*size)},
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

// A flushHookConn is a bufferingConn that calls flushed after writing its buffer.
type flushHookConn struct {
	*bufferingConn
	flushed func()
}

func (c *flushHookConn) CloseWrite() error {
	defer c.flushed()
	return c.bufferingConn.CloseWrite()
}

// A counter counts written bytes.
type counter struct{ atomic.Int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.Add(int64(len(p)))
	return len(p), nil
}
