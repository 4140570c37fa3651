package sendq_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
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
	"github.com/sendq-go/sendq/internal/faultconn"
)

// What Close waits for, what it says, and what nobody's connection can do to it.

// makeBlocking does to conn what a program does that hands its descriptor to somebody.
func makeBlocking(t testing.TB, conn net.Conn) {
	file, err := innermost(conn).(interface{ File() (*os.File, error) }).File()
	require.NoError(t, err)
	file.Fd()
	require.NoError(t, file.Close())
}

// returns fails the test if the call takes so long that it must be stuck.
func returns[T any](t testing.TB, call <-chan T) T {
	t.Helper()
	select {
	case result := <-call:
		return result
	case <-time.After(time.Minute):
		require.Fail(t, "stuck")
		panic("unreachable")
	}
}

// Close of a socket does not interrupt what waits in a system call.
func TestBlockingSocketCanBeClosed(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" || runtime.GOOS == "plan9" {
		t.Skip("has no such sockets")
	}
	for name, end := range map[string]func(*sendq.Writer) error{
		"CloseNow": (*sendq.Writer).CloseNow,
		"Shutdown": func(w *sendq.Writer) error {
			ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
			defer cancel()
			return w.Shutdown(ctx)
		},
		"WriteTimeout": func(w *sendq.Writer) error { <-w.Done(); return w.Err() },
		"Takeover": func(w *sendq.Writer) error {
			b := sendq.NewBroker(&sendq.BrokerOptions{Names: sendq.Takeover})
			if err := b.Register("name", w); err != nil {
				return err
			}
			next := sendq.NewWriter(faultconn.New(), nil)
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
				returns(t, async(func() error { return end(w) }))
				require.Error(t, returns(t, read))
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
			require.NoError(t, returns(t, async(w.Close)))
			require.Error(t, returns(t, read))
			require.Equal(t, content{"message", nil}, <-arrived)
		})
	})
}

// An opaque connection buffers, and nobody can ask it.
type opaque struct{ *faultconn.Conn }

func (opaque) NetConn() net.Conn   { return nil }
func (opaque) LocalAddr() net.Addr { return opaqueAddr{} }

type opaqueAddr struct{}

func (opaqueAddr) Network() string { return "opaque" }
func (opaqueAddr) String() string  { return "opaque" }

type halfOpaque struct{ opaque }

func (halfOpaque) CloseWrite() error { return nil }

func TestCloseWaitsBlindly(t *testing.T) {
	const wait = 500 * time.Millisecond
	for _, tt := range []struct {
		name  string
		conn  net.Conn
		bound time.Duration
		want  time.Duration
	}{
		{"without a half-close", opaque{faultconn.New()}, time.Hour, wait},
		{"with one", halfOpaque{opaque{faultconn.New()}}, time.Hour, wait},
		{"no longer than the bound", opaque{faultconn.New()}, wait / 5, wait / 5},
		{"no longer than the bound, with a half-close", halfOpaque{opaque{faultconn.New()}}, wait / 5, wait / 5},
		{"not for a pipe", faultconn.New(), time.Hour, 0},
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
			w := sendq.NewWriter(opaque{faultconn.New()}, patient)
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
			conn := faultconn.New()
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

// A lastWord is a connection whose goodbye is never done.
type lastWord struct {
	net.Conn
	begun, closed chan struct{}
	once          *sync.Once
}

func newLastWord(conn net.Conn) lastWord {
	return lastWord{conn, make(chan struct{}), make(chan struct{}), new(sync.Once)}
}

func (c lastWord) NetConn() net.Conn { return c.Conn }

func (c lastWord) CloseWrite() error {
	close(c.begun)
	<-c.closed
	return net.ErrClosed
}

func (c lastWord) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// What comes after the last message is no loss, whatever becomes of it.
func TestCloseIsAboutMessages(t *testing.T) {
	needAcknowledgements(t)
	for _, tr := range []transport{{"TCP", tcpPair}, {"TLS", tlsPair}, {"Unix", unixPair}} {
		for _, how := range []string{"the bound", "CloseNow"} {
			t.Run(tr.name+" "+how, func(t *testing.T) {
				inner, peer := tr.pair(t)
				conn := newLastWord(inner)
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
				require.NoError(t, returns(t, shut))
				require.NoError(t, w.Err())
				cancel()
			})
		}
	}
}

// A reader that ends its Writer when the peer has gone away does not make an error of a
// Close that has delivered.
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

// The peer takes everything just before the bound: what an earlier look has found is no
// error any more.
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

// What it says is lost is what the kernel has not got acknowledged by then.
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

func outQueue(t testing.TB, conn net.Conn) (n int) {
	raw, err := conn.(*net.TCPConn).SyscallConn()
	require.NoError(t, err)
	_ = raw.Control(func(fd uintptr) { n = outQueueOf(fd) }) // fails when it is closed
	return n
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
	err = returns(t, async(w.Close))
	require.ErrorContains(t, err, "not acknowledged")
	require.ErrorIs(t, err, syscall.ETIMEDOUT)
}

// A wild connection does as its function says when the method of that name is called.
type wild struct {
	net.Conn
	method string
	do     func()
}

func (c wild) on(method string) {
	if c.method == method {
		c.do()
	}
}

func (c wild) NetConn() net.Conn { c.on("NetConn"); return c.Conn }

func (c wild) CloseWrite() error { c.on("CloseWrite"); return nil }

func (c wild) Close() error { c.on("Close"); return c.Conn.Close() }

type wildSocket struct{ wild }

func (c wildSocket) NetConn() net.Conn { return nil }

func (c wildSocket) SyscallConn() (syscall.RawConn, error) {
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
					var isWild bool
					c := wild{tcp, method, func() {
						switch {
						case !isWild: // in NewWriter nobody but the caller is hurt
						case how == "panic":
							panic(errBroken)
						default:
							runtime.Goexit()
						}
					}}
					var conn net.Conn = c
					if method == "SyscallConn" {
						conn = wildSocket{c}
					}
					w := sendq.NewWriter(conn, &sendq.WriterOptions{MaxPending: 1 << 19, WriteTimeout: time.Hour})
					require.NoError(t, w.Send([]byte("message")))
					require.NoError(t, w.Flush(t.Context()))
					isWild = true
					returned := make(chan struct{})
					go func() {
						defer close(returned)
						do(w)
					}()
					if end == "a limit" { // is none: the message is too large
						w.CloseNow()
					}
					returns(t, returned)
					returns(t, w.Done())
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

// A loop is a connection that wraps itself, by a detour if there is one.
type loop struct {
	net.Conn
	next *net.Conn
}

func (c loop) NetConn() net.Conn { return *c.next }

func TestNetConnThatLeadsNowhere(t *testing.T) {
	t.Parallel()
	for name, wrap := range map[string]func(net.Conn) net.Conn{
		"itself": func(conn net.Conn) net.Conn {
			var self net.Conn
			self = loop{conn, &self}
			return self
		},
		"a circle": func(conn net.Conn) net.Conn {
			var first, second net.Conn
			first, second = loop{conn, &second}, loop{conn, &first}
			return first
		},
		"nil": func(conn net.Conn) net.Conn { return loop{conn, new(net.Conn)} },
		"a nil pointer": func(conn net.Conn) net.Conn {
			var inner net.Conn = (*tls.Conn)(nil)
			return loop{conn, &inner}
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

// A connection of MPTCP to a peer without it falls back to TCP. Close knows there, too, what has
// arrived: all of it when the peer reads to the end and closes, and not all when the peer resets
// the connection, although the reader has taken the kernel's error.
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

// A gatherer is a wrapper that keeps what is written until CloseWrite.
type gatherer struct {
	net.Conn
	kept *bufio.Writer
}

func (c *gatherer) NetConn() net.Conn           { return c.Conn }
func (c *gatherer) Write(p []byte) (int, error) { return c.kept.Write(p) }
func (c *gatherer) CloseWrite() error           { return c.kept.Flush() }

// What a wrapper writes in CloseWrite is part of the messages, and no goodbye: Close waits for it.
func TestCloseWaitsForWhatAWrapperHasGathered(t *testing.T) {
	needAcknowledgements(t)
	t.Parallel()
	const size = 200 << 10
	conn, peer := narrow(tcpPair)(t)
	w := sendq.NewWriter(&gatherer{conn, bufio.NewWriterSize(conn, 2*size)}, patient)
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

// A selfish connection holds a lock while it writes, and wants it to say what is beneath it.
type selfish struct {
	*net.TCPConn
	mu sync.Mutex
}

func (c *selfish) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.TCPConn.Write(p)
}

func (c *selfish) SyscallConn() (syscall.RawConn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.TCPConn.SyscallConn()
}

func (c *selfish) NetConn() net.Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.TCPConn
}

// CloseNow interrupts a stuck write also where the wrapper's methods wait for that write.
func TestCloseNowOfASelfishConn(t *testing.T) {
	t.Parallel()
	conn, peer := narrow(tcpPair)(t)
	w := sendq.NewWriter(&selfish{TCPConn: conn.(*net.TCPConn)}, nil)
	require.NoError(t, w.Send(make([]byte, 64<<20)))
	for writes := int64(-1); w.Stats().Writes != writes; time.Sleep(100 * time.Millisecond) {
		writes = w.Stats().Writes // until one is stuck
	}
	require.NoError(t, w.CloseNow())
	peer.Close()
}
