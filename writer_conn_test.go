package sendq_test

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/sendqtest"
)

// Closing a blocking socket does not interrupt its system calls.
func TestBlockingSocketCanBeClosed(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*sendq.Writer) error{
		"CloseNow": (*sendq.Writer).CloseNow,
		"Shutdown": func(w *sendq.Writer) error {
			ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
			defer cancel()
			return w.Shutdown(ctx)
		},
		"WriteTimeout": func(w *sendq.Writer) error { <-w.Done(); return w.Err() },
		"Takeover": func(w *sendq.Writer) error {
			b := sendq.NewBroker(&sendq.BrokerOptions{NamePolicy: sendq.NameTakeover})
			if err := b.Register("name", w); err != nil {
				return err
			}
			next := sendq.NewWriter(sendqtest.NewConn(), nil)
			defer next.CloseNow()
			return b.Register("name", next)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			over(t, sockets, func(t *testing.T, conn, peer net.Conn) {
				defer peer.Close() // ends the write of a Writer that has failed the test
				makeBlocking(t, conn)
				var opts sendq.WriterOptions
				if name == "WriteTimeout" {
					opts.WriteTimeout = 100 * time.Millisecond
				}
				w := sendq.NewWriter(conn, &opts)
				for range 256 {
					_ = w.Send(make([]byte, 256<<10))
				}
				read := async(func() error { return second(conn.Read(make([]byte, 1))) })
				within(t, async(func() error { return end(w) }))
				require.Error(t, within(t, read))
				require.Error(t, w.Err())
			})
		})
	}

	t.Run("Close, though nobody reads but a stuck Read", func(t *testing.T) {
		over(t, sockets, func(t *testing.T, conn, peer net.Conn) {
			defer peer.Close()
			makeBlocking(t, conn)
			w := sendq.NewWriter(conn, patient)
			read := async(func() error { return second(conn.Read(make([]byte, 1))) })
			arrived := async(func() content { return readAll(peer) })
			require.NoError(t, w.Send([]byte("message")))
			require.NoError(t, within(t, async(w.Close)))
			require.Error(t, within(t, read))
			require.Equal(t, content{"message", nil}, <-arrived)
		})
	})
}

// A hookConn calls do when the method of the given name is called.
type hookConn struct {
	net.Conn
	method string
	do     func()
}

func (c hookConn) on(method string) {
	if c.method == method {
		c.do()
	}
}

func (c hookConn) NetConn() net.Conn { c.on("NetConn"); return c.Conn }

func (c hookConn) CloseWrite() error { c.on("CloseWrite"); return nil }

func (c hookConn) Close() error { c.on("Close"); return c.Conn.Close() }

type hookSocket struct{ hookConn }

func (c hookSocket) NetConn() net.Conn { return nil }

func (c hookSocket) SyscallConn() (syscall.RawConn, error) {
	c.on("SyscallConn")
	return nil, errBroken
}

func TestWildConnections(t *testing.T) {
	for _, how := range []string{"panic", "Goexit"} {
		for _, method := range []string{"NetConn", "CloseWrite", "Close", "SyscallConn"} {
			for end, do := range map[string]func(*sendq.Writer) error{
				"Close":    (*sendq.Writer).Close,
				"CloseNow": (*sendq.Writer).CloseNow,
				"a limit":  func(w *sendq.Writer) error { w.Write(make([]byte, 1<<20)); return nil },
			} {
				t.Run(how+" in "+method+" by "+end, func(t *testing.T) {
					tcp, peer := tcpPair(t)
					go io.Copy(io.Discard, peer)
					var armed bool
					c := hookConn{tcp, method, func() {
						switch {
						case !armed: // in NewWriter nobody but the caller is hurt
						case how == "panic":
							panic(errBroken)
						default:
							runtime.Goexit()
						}
					}}
					var conn net.Conn = c
					if method == "SyscallConn" {
						conn = hookSocket{c}
					}
					w := sendq.NewWriter(conn, &sendq.WriterOptions{MaxPending: 1 << 19, WriteTimeout: time.Hour})
					require.NoError(t, w.Send([]byte("message")))
					require.NoError(t, w.Flush(t.Context()))
					armed = true
					returned := make(chan struct{})
					go func() {
						defer close(returned)
						do(w)
					}()
					if end == "a limit" { // is none: the message is too large
						w.CloseNow()
					}
					within(t, returned)
					within(t, w.Done())
					if end != "Close" {
						require.ErrorIs(t, w.Err(), sendq.ErrClosed)
						return
					}
					var panicked *sendq.PanicError
					require.ErrorAs(t, w.Err(), &panicked)
					require.Equal(t, method, panicked.Method)
					require.ErrorContains(t, w.Err(), "conn."+method)
					require.NotEmpty(t, panicked.Stack)
				})
			}
		}
	}
}

// A loopConn wraps itself, directly or through another.
type loopConn struct {
	net.Conn
	next *net.Conn
}

func (c loopConn) NetConn() net.Conn { return *c.next }

func TestNetConnThatLeadsNowhere(t *testing.T) {
	t.Parallel()
	for name, wrap := range map[string]func(net.Conn) net.Conn{
		"itself": func(conn net.Conn) net.Conn {
			var self net.Conn
			self = loopConn{conn, &self}
			return self
		},
		"a circle": func(conn net.Conn) net.Conn {
			var first, second net.Conn
			first, second = loopConn{conn, &second}, loopConn{conn, &first}
			return first
		},
		"nil": func(conn net.Conn) net.Conn { return loopConn{conn, new(net.Conn)} },
		"a nil pointer": func(conn net.Conn) net.Conn {
			var inner net.Conn = (*tls.Conn)(nil)
			return loopConn{conn, &inner}
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, end := range []func(*sendq.Writer) error{(*sendq.Writer).Close, (*sendq.Writer).CloseNow} {
				conn, peer := tcpPair(t)
				w := sendq.NewWriter(wrap(conn), &sendq.WriterOptions{WriteTimeout: time.Hour})
				arrived := async(func() content { return readAll(peer) })
				require.NoError(t, w.Send([]byte("message")))
				require.NoError(t, w.Flush(t.Context()))
				require.NoError(t, end(w))
				require.Equal(t, content{"message", nil}, <-arrived)
			}
		})
	}
}

// A lockingConn holds a lock during Write, and takes it in the methods that return its inner
// connection.
type lockingConn struct {
	*net.TCPConn
	mu sync.Mutex
}

func (c *lockingConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.TCPConn.Write(p)
}

func (c *lockingConn) SyscallConn() (syscall.RawConn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.TCPConn.SyscallConn()
}

func (c *lockingConn) NetConn() net.Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.TCPConn
}

// CloseNow interrupts a stuck write even if the wrapper's methods wait for that write.
func TestCloseNowOfALockingConn(t *testing.T) {
	t.Parallel()
	conn, peer := narrow(tcpPair)(t)
	w := sendq.NewWriter(&lockingConn{TCPConn: conn.(*net.TCPConn)}, nil)
	require.NoError(t, w.Send(make([]byte, 64<<20)))
	for writes := int64(-1); w.Stats().Writes != writes; time.Sleep(100 * time.Millisecond) {
		writes = w.Stats().Writes // until one is stuck
	}
	require.NoError(t, w.CloseNow())
	peer.Close()
}

func TestWriterBadCounts(t *testing.T) {
	for _, tt := range []struct {
		name        string
		fault       func([]byte) (int, error)
		wire        string // of "message"
		is          error
		contains    string
		undelivered int64
	}{
		{"short", takes(3, nil), "mes", io.ErrShortWrite, "short write", 1},
		{"nothing", takes(0, nil), "", io.ErrShortWrite, "short write", 1},
		{"short, with an error", takes(3, errBroken), "mes", errBroken, "broken", 1},
		{"all, with an error", func(p []byte) (int, error) { return len(p), errBroken }, "message", errBroken, "broken", 0},
		{"negative", func([]byte) (int, error) { return -1, nil }, "", nil, "impossible count", 1},
		{"too many", func(p []byte) (int, error) { return len(p) + 1, nil }, "message", nil, "impossible count", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conn := hooked(sendqtest.NewConn())
			conn.Fault = tt.fault
			w := sendq.NewWriter(conn, nil)
			require.NoError(t, w.Send([]byte("message")))
			<-w.Done()
			require.ErrorContains(t, w.Err(), tt.contains)
			if tt.is != nil {
				require.ErrorIs(t, w.Err(), tt.is)
			}
			require.Equal(t, tt.wire, string(conn.Bytes()))
			require.Len(t, conn.Sizes(), 1)
			require.Equal(t, tt.undelivered, w.Stats().Undelivered)
			assertConserved(t, w.Stats())
		})
	}
}

// takes returns a fault: the connection takes n bytes of a write, and returns err.
func takes(n int, err error) func([]byte) (int, error) {
	return func([]byte) (int, error) { return n, err }
}

func TestWriterConnWithoutAddress(t *testing.T) {
	w := sendq.NewWriter(noAddrConn{sendqtest.NewConn()}, nil)
	require.NoError(t, w.Send([]byte("message")))
	require.NoError(t, w.Close())
	require.EqualValues(t, 1, w.Stats().Written)
}

type noAddrConn struct{ *sendqtest.Conn }

func (noAddrConn) LocalAddr() net.Addr { return nil }

// A panic in Write ends only the Writer. Nobody else could recover from it.
func TestWriterSurvivesPanic(t *testing.T) {
	conn := hooked(sendqtest.NewConn())
	conn.Fault = func([]byte) (int, error) { panic("broken wrapper") }
	w := sendq.NewWriter(conn, nil)
	require.NoError(t, w.Send([]byte("message")))
	<-w.Done()
	var panicked *sendq.PanicError
	require.ErrorAs(t, w.Err(), &panicked)
	require.Equal(t, "broken wrapper", panicked.Value)
	require.Contains(t, string(panicked.Stack), "TestWriterSurvivesPanic")
	require.EqualValues(t, 1, w.Stats().Undelivered)
}

// Goexit, as called by t.FailNow, ends the flusher's goroutine.
func TestWriterSurvivesGoexit(t *testing.T) {
	conn := hooked(sendqtest.NewConn())
	conn.Fault = func([]byte) (int, error) { runtime.Goexit(); return 0, nil }
	w := sendq.NewWriter(conn, nil)
	require.NoError(t, w.Send([]byte("message")))
	<-w.Done()
	require.ErrorContains(t, w.Err(), "Goexit")
	require.Len(t, slices.Collect(w.Undelivered()), 1)
}
