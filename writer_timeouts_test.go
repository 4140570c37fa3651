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
	"github.com/sendq-go/sendq/sendqtest"
)

func TestMaxAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const maxAge = 8 * time.Second
		w, _ := stuck(t, &sendq.WriterOptions{MaxAge: maxAge})
		time.Sleep(maxAge - time.Nanosecond)
		require.NoError(t, w.Send([]byte("more")))
		synctest.Wait()
		require.NoError(t, w.Err())
		time.Sleep(maxAge / 8)
		synctest.Wait()
		require.ErrorIs(t, w.Err(), sendq.ErrSlowConsumer)
		require.ErrorContains(t, w.Err(), "MaxAge of 8s exceeded")
		require.EqualValues(t, 2, w.Stats().Undelivered)
	})
}

// A queue may be non-empty for ever, as long as each message leaves in time.
func TestMaxAgeIsAboutTheOldest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, peer := net.Pipe()
		w := sendq.NewWriter(conn, &sendq.WriterOptions{MaxAge: 10 * time.Second})
		for range 10 {
			w.Write([]byte("1"))
		}
		for range 1000 {
			_, err := io.ReadFull(peer, make([]byte, 1))
			require.NoError(t, err)
			time.Sleep(500 * time.Millisecond)
			_, err = w.Write([]byte("1"))
			require.NoError(t, err)
		}
		require.NoError(t, w.Err())
		w.CloseNow()
	})
}

// The backlog of a slow peer ages, and then the peer stalls.
func TestMaxAgeOfALongBacklog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const maxAge = time.Second
		conn, peer := net.Pipe()
		w := sendq.NewWriter(conn, &sendq.WriterOptions{MaxAge: maxAge, MessageFramed: true})
		began := time.Now()
		go func() {
			for range 90 { // until the age is 900 ms
				time.Sleep(20 * time.Millisecond)
				io.ReadFull(peer, make([]byte, 1))
			}
		}()
		for w.Err() == nil { // message i at 10i ms
			w.Write([]byte("1"))
			time.Sleep(10 * time.Millisecond)
		}
		age := time.Since(began) - time.Duration(w.Stats().Written)*10*time.Millisecond
		require.GreaterOrEqual(t, age, maxAge)
		require.LessOrEqual(t, age, maxAge+maxAge/4+20*time.Millisecond)
		w.CloseNow()
	})
}

func TestWriteTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const timeout = 8 * time.Second
		w, _ := stuck(t, &sendq.WriterOptions{WriteTimeout: timeout})
		time.Sleep(timeout - time.Nanosecond)
		synctest.Wait()
		require.NoError(t, w.Err())
		time.Sleep(timeout / 4)
		synctest.Wait()
		require.ErrorIs(t, w.Err(), sendq.ErrSlowConsumer)
		require.ErrorIs(t, w.Err(), os.ErrDeadlineExceeded)
	})
}

// A peer that takes 4 KiB now and then is alive, however long everything takes.
func TestWriteTimeoutIsAboutProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, peer := net.Pipe()
		w := sendq.NewWriter(conn, &sendq.WriterOptions{WriteTimeout: 10 * time.Second})
		w.Write(make([]byte, 1<<20))
		for range 256 {
			time.Sleep(9 * time.Second)
			_, err := io.ReadFull(peer, make([]byte, 4<<10))
			require.NoError(t, err)
		}
		require.NoError(t, w.Flush(t.Context()))
		time.Sleep(time.Hour) // nothing to write is no lack of progress
		require.NoError(t, w.Err())
		w.CloseNow()
	})
}

// The kernel shows progress, or its lack, that no Write shows, also beneath TLS and a wrapper.
func TestWriteTimeoutOverSockets(t *testing.T) {
	t.Parallel()
	for _, tr := range bounded(sockets) {
		t.Run(tr.name, func(t *testing.T) {
			t.Parallel() // each takes the whole timeout
			conn, peer := tr.pair(t)
			w := sendq.NewWriter(conn, &sendq.WriterOptions{WriteTimeout: 2 * time.Second})
			const size = 16 << 20
			require.NoError(t, w.Send(make([]byte, size)))
			_, err := io.ReadFull(peer, make([]byte, size/2)) // then it stops reading
			require.NoError(t, err)
			<-w.Done()
			require.ErrorIs(t, w.Err(), sendq.ErrSlowConsumer)
			assertConserved(t, w.Stats())
			_, err = conn.Read(make([]byte, 1))
			require.ErrorIs(t, err, net.ErrClosed, "the reader wakes, and its deadline was not touched")
		})
	}
}

// The kernel's buffer is full, so one conn.Write takes several times WriteTimeout while the peer
// reads 4 KiB now and then. Only a Unix socket shows such small steps.
func TestWriteTimeoutSparesASlowReader(t *testing.T) {
	needAcknowledgements(t)
	t.Parallel()
	conn, peer := unixPair(t)
	require.NoError(t, conn.(*net.UnixConn).SetWriteBuffer(100<<10))
	const timeout = time.Second
	w := sendq.NewWriter(conn, &sendq.WriterOptions{WriteTimeout: timeout, MessageFramed: true})
	require.NoError(t, w.Send(make([]byte, 1<<20)))
	for began := time.Now(); time.Since(began) < 3*timeout; time.Sleep(timeout / 20) {
		_, err := io.ReadFull(peer, make([]byte, 4<<10))
		require.NoError(t, err)
	}
	require.NoError(t, w.Err())
	require.Less(t, w.Stats().Writes, int64(2), "no Write has shown the progress")
	w.CloseNow()
}

// A peer that empties its queue now and then finds it exactly as full again.
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
		for buffer, emptied := range map[int]int{1: 2000, 20_000: 30_000, 0: 170_000} { // about the capacity
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
			unflushed := int64(0)
			for range 100 { // less than the kernel holds
				if _, err := w.Write(make([]byte, 3000)); err != nil {
					break
				}
				if w.Flush(t.Context()) != nil { // the Writer has ended before its flusher ran
					unflushed = 1
					break
				}
				time.Sleep(timeout / 10)
			}
			require.ErrorIs(t, w.Err(), sendq.ErrSlowConsumer)
			require.ErrorIs(t, w.Err(), os.ErrDeadlineExceeded)
			<-w.Done()
			require.LessOrEqual(t, w.Stats().Undelivered, unflushed)
			require.GreaterOrEqual(t, time.Since(began), timeout)
		})
	}

	t.Run("one message", func(t *testing.T) {
		t.Parallel()
		conn, _ := narrow(tcpPair)(t)
		w := sendq.NewWriter(conn, &sendq.WriterOptions{WriteTimeout: timeout})
		require.NoError(t, w.Send(make([]byte, 300<<10)))
		require.NoError(t, w.Flush(t.Context()))
		within(t, w.Done())
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

// While data is in transit, the Writer looks at the connection beneath a wrapper. It stops when
// everything has arrived.
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

// An idle Writer has no timer, so nothing looks at its connection.
func TestNobodyLooksAtAnIdleWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const timeout = 8 * time.Second
		conn := &watchedConn{Conn: sendqtest.NewConn()}
		w := sendq.NewWriter(conn, &sendq.WriterOptions{WriteTimeout: timeout, MaxAge: timeout})
		for range 3 {
			waiting := conn.Stall()
			require.NoError(t, w.Send([]byte("message")))
			<-waiting
			time.Sleep(timeout / 2)
			conn.Release()
			require.NoError(t, w.Flush(t.Context()))
			time.Sleep(timeout)
			looks := conn.looks.Load()
			require.Positive(t, looks)
			time.Sleep(time.Hour)
			synctest.Wait()
			require.Equal(t, looks, conn.looks.Load())
		}
		conn.Stall()
		require.NoError(t, w.Send([]byte("message")))
		<-w.Done() // it is watched again
		require.ErrorIs(t, w.Err(), sendq.ErrSlowConsumer)
	})
}

// A watchedConn counts the looks at its inner connection.
type watchedConn struct {
	*sendqtest.Conn
	looks atomic.Int64
}

func (c *watchedConn) NetConn() net.Conn {
	c.looks.Add(1)
	return nil
}

// The time in which the process is stopped counts against no peer.
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

// With Expire, what is too old is dropped, unless it is begun or must be kept. The Writer lives on.
func TestExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, peer := overPipe(t, &sendq.WriterOptions{MaxAge: 80 * time.Second, Expire: true})
		w.WriteString("begun ")
		synctest.Wait()
		w.WriteString("old ")
		w.WriteAlways([]byte("always "))
		w.WriteUrgent([]byte("urgent "))
		w.WriteString("old ")
		time.Sleep(40 * time.Second)
		w.WriteString("young ")
		flushed := async(func() error { return w.Flush(t.Context()) })
		time.Sleep(39 * time.Second)
		require.EqualValues(t, 6, w.Stats().Pending, "nothing is dropped early")
		time.Sleep(30 * time.Second)
		stats := w.Stats()
		assertConserved(t, stats)
		require.EqualValues(t, 2, stats.Dropped)
		require.EqualValues(t, 2*len("old "), stats.DroppedBytes)
		requireTake(t, peer, "begun urgent always young ")
		require.NoError(t, <-flushed)

		w.WriteString("begun ")
		synctest.Wait()
		w.WriteString("old")
		flushed = async(func() error { return w.Flush(t.Context()) })
		synctest.Wait()
		w.WriteString("old")
		time.Sleep(time.Hour)
		require.EqualValues(t, 4, w.Stats().Dropped)
		require.Empty(t, flushed, "it waits for what is begun")
		requireTake(t, peer, "begun ")
		require.NoError(t, <-flushed)
		require.NoError(t, w.Err())
		require.NoError(t, w.Close())
	})
}

// Messages expire neither early nor late, however old a message is that does not.
func TestExpireOfManyMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, peer := overPipe(t, &sendq.WriterOptions{MaxAge: 80 * time.Second, Expire: true})
		w.WriteString("begun")
		synctest.Wait()
		for i := range int64(200) {
			for range 100 {
				w.Write(make([]byte, 100))
			}
			if i%10 == 0 {
				w.WriteAlways(make([]byte, 100))
			}
			time.Sleep(20 * time.Second)
			synctest.Wait()
			s := w.Stats()
			assertConserved(t, s)
			now := 20 * (i + 1) // seconds
			require.LessOrEqual(t, s.Dropped, 100*max(0, (now-80)/20+1), "after %d seconds", now)
			require.GreaterOrEqual(t, s.Dropped, 100*max(0, (now-107)/20), "after %d seconds", now)
			require.Less(t, s.OldestPending, 107*time.Second)
		}
		s := w.Stats()
		requireTake(t, peer, "begun")
		go io.Copy(io.Discard, peer)
		require.NoError(t, w.Close())
		require.EqualValues(t, 20_021-s.Dropped, w.Stats().Written)
	})
}

// Dropping what is too old makes room for senders that wait.
func TestExpireMakesRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := stuck(t, &sendq.WriterOptions{MaxMessages: 2, Overflow: sendq.Block, MaxAge: time.Minute, Expire: true})
		w.WriteString("old")
		sent := async(func() error { return second(w.WriteString("new")) })
		require.NoError(t, <-sent)
		require.EqualValues(t, 1, w.Stats().Dropped)
	})
}

// Close does not deliver a message that expires during the call, and returns no error for it.
func TestExpireDuringClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, peer := overPipe(t, &sendq.WriterOptions{MaxAge: time.Minute, Expire: true, CloseTimeout: time.Hour})
		w.WriteString("begun")
		synctest.Wait()
		w.WriteString("old")
		closed := async(w.Close)
		time.Sleep(2 * time.Minute)
		require.EqualValues(t, 1, w.Stats().Dropped)
		requireTake(t, peer, "begun")
		require.NoError(t, <-closed)
	})
}
