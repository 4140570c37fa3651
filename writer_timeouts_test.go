package sendq_test

import (
	"crypto/tls"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/internal/faultconn"
)

// Peers that are slow, and such as have gone: which of them MaxAge and WriteTimeout end.

// A peer that empties its queue now and then finds it full again, to the byte.
func TestWriteTimeoutSparesAUnixPeerThatEmptiesItsQueue(t *testing.T) {
	needAcknowledgements(t)
	t.Parallel()
	const timeout = 2 * time.Second
	wraps := map[string]func(t testing.TB, conn, peer net.Conn) net.Conn{
		"direct":  func(_ testing.TB, conn, _ net.Conn) net.Conn { return conn },
		"wrapped": func(_ testing.TB, conn, _ net.Conn) net.Conn { return wrappedConn{conn} },
		"TLS": func(t testing.TB, conn, peer net.Conn) net.Conn {
			server, client := tls.Server(conn, tlsConfig()), tls.Client(peer, tlsConfig())
			handshake := async(server.Handshake)
			require.NoError(t, client.Handshake())
			require.NoError(t, <-handshake)
			return server
		},
	}
	for name, wrap := range wraps {
		for buffer, emptied := range map[int]int{1: 2000, 20_000: 30_000, 0: 170_000} { // about what it holds
			t.Run(name+" "+strconv.Itoa(buffer), func(t *testing.T) {
				t.Parallel()
				inner, innerPeer := unixPair(t)
				if buffer > 0 { // the kernel makes it more, and it has a least size
					require.NoError(t, inner.(*net.UnixConn).SetWriteBuffer(buffer))
				}
				conn := wrap(t, inner, innerPeer)
				w := sendq.NewWriter(conn, &sendq.WriterOptions{WriteTimeout: timeout})
				require.NoError(t, w.Send(make([]byte, 16<<20)))
				for began := time.Now(); time.Since(began) < 3*timeout; time.Sleep(timeout * 6 / 10) {
					_, err := io.ReadFull(innerPeer, make([]byte, emptied)) // beneath TLS, too
					require.NoError(t, err)
					require.NoError(t, w.Err())
				}
				require.Positive(t, w.Stats().Pending)
				w.CloseNow()
			})
		}
	}
}

// The kernel has taken everything, so no Write waits, and the peer acknowledges nothing.
func TestWriteTimeoutOfWhatTheKernelHolds(t *testing.T) {
	needAcknowledgements(t)
	t.Parallel()
	const timeout = 500 * time.Millisecond
	for _, tr := range []transport{{"TCP", narrow(tcpPair)}, {"TLS", narrow(tlsPair)}, {"Wrapped", narrow(wrappedPair)}} {
		t.Run(tr.name, func(t *testing.T) {
			t.Parallel()
			conn, _ := tr.pair(t)
			w := sendq.NewWriter(conn, &sendq.WriterOptions{WriteTimeout: timeout})
			began := time.Now()
			for range 100 { // which the sender itself writes, and which comes to less than the kernel holds
				if _, err := w.Write(make([]byte, 3000)); err != nil {
					break
				}
				time.Sleep(timeout / 10)
			}
			require.ErrorIs(t, w.Err(), sendq.ErrSlowConsumer)
			require.ErrorIs(t, w.Err(), os.ErrDeadlineExceeded)
			<-w.Done()
			require.Zero(t, w.Stats().Undelivered)
			require.GreaterOrEqual(t, time.Since(began), timeout)
		})
	}

	t.Run("one message", func(t *testing.T) {
		t.Parallel()
		conn, _ := narrow(tcpPair)(t)
		w := sendq.NewWriter(conn, &sendq.WriterOptions{WriteTimeout: timeout})
		require.NoError(t, w.Send(make([]byte, 300<<10)))
		require.NoError(t, w.Flush(t.Context()))
		returns(t, w.Done())
		require.ErrorIs(t, w.Err(), sendq.ErrSlowConsumer)
	})

	t.Run("a peer that opens its window in time lives", func(t *testing.T) {
		t.Parallel()
		const timeout = 2 * time.Second
		conn, peer := narrow(tcpPair)(t)
		w := sendq.NewWriter(conn, &sendq.WriterOptions{WriteTimeout: timeout})
		for range 3 {
			require.NoError(t, w.Send(make([]byte, 30_000)))
			time.Sleep(timeout / 2)
			_, err := io.ReadFull(peer, make([]byte, 30_000))
			require.NoError(t, err)
		}
		time.Sleep(2 * timeout) // nothing to take is no silence
		require.NoError(t, w.Err())
		w.CloseNow()
	})
}

// What looks at the connection, beneath a wrapper, while something is under way stops
// when everything has arrived.
func TestIdleWriterIsNotWatched(t *testing.T) {
	t.Parallel()
	tcp, peer := tcpPair(t)
	synctest.Test(t, func(t *testing.T) {
		const timeout = 8 * time.Second
		conn := &countedConn{Conn: tcp}
		w := sendq.NewWriter(conn, &sendq.WriterOptions{WriteTimeout: timeout})
		for range 3 {
			before := conn.looks.Load()
			require.NoError(t, w.Send([]byte("message")))
			_, err := io.ReadFull(peer, make([]byte, 7))
			require.NoError(t, err)
			for outQueue(t, tcp) > 0 { // the clock of the bubble stands still
				runtime.Gosched()
			}
			time.Sleep(timeout)
			looks := conn.looks.Load()
			require.Greater(t, looks, before)
			time.Sleep(time.Hour)
			require.Equal(t, looks, conn.looks.Load())
		}
		require.NoError(t, w.Err())
		w.CloseNow()
	})
}

type countedConn struct {
	net.Conn
	looks atomic.Int32
}

func (c *countedConn) NetConn() net.Conn { c.looks.Add(1); return c.Conn }

// While a takeover waits for the old Writer's connection to close, messages to the new one
// grow old.
func TestMaxAgeDuringTakeover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const maxAge = 8 * time.Second
		b := sendq.NewBroker(&sendq.BrokerOptions{Names: sendq.Takeover})
		conn := faultconn.New()
		closed := make(chan struct{})
		conn.Enter = func(method string) {
			if method == "Close" {
				<-closed
			}
		}
		require.NoError(t, b.Register("name", sendq.NewWriter(conn, nil)))
		w := sendq.NewWriter(faultconn.New(), &sendq.WriterOptions{MaxAge: maxAge})
		registered := async(func() error { return b.Register("name", w) })
		synctest.Wait()
		require.NoError(t, b.Send("name", []byte("message")))
		time.Sleep(maxAge - time.Nanosecond)
		synctest.Wait()
		require.NoError(t, w.Err())
		time.Sleep(maxAge / 4)
		synctest.Wait()
		require.ErrorIs(t, w.Err(), sendq.ErrSlowConsumer)
		require.ErrorContains(t, w.Err(), "MaxAge")
		close(closed)
		<-registered
	})
}

// What a Writer has inherited grows old too, though it never accepted a message itself.
func TestMaxAgeOfWhatIsInherited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const maxAge = 8 * time.Second
		b := sendq.NewBroker(&sendq.BrokerOptions{Names: sendq.Takeover})
		old, _ := stuck(t, nil)
		require.NoError(t, b.Register("name", old))
		conn := faultconn.New()
		conn.Stall()
		w := sendq.NewWriter(conn, &sendq.WriterOptions{MaxAge: maxAge})
		require.NoError(t, b.Register("name", w))
		time.Sleep(maxAge - time.Nanosecond)
		synctest.Wait()
		require.NoError(t, w.Err())
		time.Sleep(maxAge / 4)
		synctest.Wait()
		require.ErrorIs(t, w.Err(), sendq.ErrSlowConsumer)
	})
}

// The time for which a whole process is stopped is held against nobody.
func TestPauseOfTheProcess(t *testing.T) {
	t.Parallel()
	if address := os.Getenv("SENDQ_PAUSED"); address != "" {
		pausedSender(t, address)
		return
	}
	if testing.Short() {
		t.Skip("takes seconds")
	}
	for round := range 8 {
		limit := []string{"WriteTimeout", "MaxAge"}[round%2]
		t.Run(limit, func(t *testing.T) {
			t.Parallel()
			l, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			defer l.Close()
			child := exec.Command(os.Args[0], "-test.run=^TestPauseOfTheProcess$", "-test.timeout=1m")
			child.Env = append(os.Environ(), "SENDQ_PAUSED="+l.Addr().String(), "SENDQ_LIMIT="+limit)
			output, err := child.StdoutPipe()
			require.NoError(t, err)
			if err := child.Start(); err != nil {
				t.Skip(err)
			}
			peer, err := l.Accept()
			require.NoError(t, err)
			defer peer.Close()
			require.NoError(t, peer.(*net.TCPConn).SetReadBuffer(64<<10))
			arrived := async(func() int64 { // read slowly, so that something is always under way
				var total int64
				for {
					n, err := io.CopyN(io.Discard, peer, 16<<10)
					if total += n; err != nil {
						return total
					}
					time.Sleep(50 * time.Millisecond)
				}
			})
			time.Sleep(500*time.Millisecond + time.Duration(round)*30*time.Millisecond)
			if err := stop(child.Process, true); err != nil {
				child.Process.Kill()
				child.Wait()
				t.Skip(err)
			}
			time.Sleep(5 * time.Second)
			require.NoError(t, stop(child.Process, false))
			said, _ := io.ReadAll(output)
			require.NoError(t, child.Wait(), "%s", said)
			require.Positive(t, <-arrived)
		})
	}
}

// pausedSender always has something pending, for some seconds.
func pausedSender(t *testing.T, address string) {
	tcp, err := net.Dial("tcp", address)
	require.NoError(t, err)
	require.NoError(t, tcp.(*net.TCPConn).SetWriteBuffer(64<<10))
	opts := &sendq.WriterOptions{WriteTimeout: 2 * time.Second}
	if os.Getenv("SENDQ_LIMIT") == "MaxAge" {
		opts = &sendq.WriterOptions{MaxAge: 2 * time.Second}
	}
	w := sendq.NewWriter(struct{ net.Conn }{tcp}, opts)
	for range 150 {
		if !assert.NoError(t, w.Send(make([]byte, 8<<10))) || !assert.NoError(t, w.WaitPending(t.Context(), 64<<10)) {
			break
		}
	}
	require.NoError(t, w.Err())
	w.CloseNow()
}
