package sendq_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/sendqtest"
)

func TestWriterCloseDelivers(t *testing.T) {
	t.Run("a long last message", func(t *testing.T) {
		over(t, sockets, func(t *testing.T, conn, peer net.Conn) {
			// The peer has sent data that nobody reads, and more than one byte of it has arrived.
			// So closing the connection alone would make the kernel reset it.
			unread := letters(16 << 10)
			_, err := peer.Write(unread)
			require.NoError(t, err)
			_, err = conn.Read(make([]byte, 1))
			require.NoError(t, err)

			w := sendq.NewWriter(conn, patient)
			message := letters(2 << 20)
			require.NoError(t, w.Send(message))
			closed := async(w.Close)
			// The peer goes on sending until it cannot.
			writeErr := async(func() error {
				for {
					if _, err := peer.Write(unread); err != nil {
						return err
					}
				}
			})
			got := readAll(peer)
			require.NoError(t, got.err)
			require.Len(t, got.bytes, len(message))
			require.Equal(t, string(message), got.bytes)
			require.NoError(t, <-closed)
			require.NoError(t, w.Err())
			peer.Close()
			require.Error(t, <-writeErr)
		})
	})

	t.Run("while senders are sending", func(t *testing.T) {
		over(t, transports, func(t *testing.T, conn, peer net.Conn) {
			w := sendq.NewWriter(conn, patient)
			arrived := async(func() arrival { return receive(peer) })
			const senders = 8
			accepted := make([]int, senders)
			midway := make(chan struct{}, senders)
			var wg sync.WaitGroup
			for sender := range senders {
				wg.Go(func() {
					for i := 0; ; i++ {
						if err := send(w, i, frame(sender, i, size(i)>>6)); err != nil {
							assert.ErrorIs(t, err, net.ErrClosed)
							accepted[sender] = i
							return
						}
						if i == 50 {
							midway <- struct{}{}
						}
						if i > 50 {
							w.Flush(t.Context()) // keeps the backlog short
						}
					}
				})
			}
			for range senders {
				<-midway
			}
			require.NoError(t, w.Close())
			wg.Wait()
			got := <-arrived
			require.NoError(t, got.err)
			for sender := range senders {
				require.Equal(t, upTo(accepted[sender]), got.order[sender])
			}
			require.Empty(t, slices.Collect(w.Undelivered()))
		})
	})

	t.Run("CloseNow interrupts", func(t *testing.T) {
		over(t, bounded(transports), func(t *testing.T, conn, _ net.Conn) {
			w := sendq.NewWriter(conn, patient)
			for range 64 {
				require.NoError(t, w.Send(make([]byte, 256<<10)))
			}
			closed := async(w.Close)
			for w.Send(nil) == nil { // until Close has begun
				runtime.Gosched()
			}
			require.NoError(t, w.CloseNow())
			require.ErrorIs(t, <-closed, net.ErrClosed)
			require.Equal(t, sendq.ErrClosed, w.Err())
			s := w.Stats()
			require.Positive(t, s.Undelivered)
			require.EqualValues(t, len(slices.Collect(w.Undelivered())), s.Undelivered)
		})
	})

	t.Run("CloseNow interrupts a TLS handshake", func(t *testing.T) {
		inner, _ := tcpPair(t)
		faulty := sendqtest.Wrap(inner)
		begun := faulty.Stall()
		w := sendq.NewWriter(tls.Client(faulty, tlsConfig()), patient)
		require.NoError(t, w.Send([]byte("message")))
		<-begun
		require.NoError(t, w.CloseNow())
		requireMessages(t, [][]byte{[]byte("message")}, w.Undelivered())
	})
}

func TestWriterCloseFromPipe(t *testing.T) {
	conn, peer := net.Pipe()
	w := sendq.NewWriter(conn, patient)
	message := letters(2 << 20)
	require.NoError(t, w.Send(message))
	closed := async(w.Close)
	require.Equal(t, content{string(message), nil}, readAll(peer))
	require.NoError(t, <-closed)
}

func TestWriterCloseIdle(t *testing.T) {
	over(t, transports, func(t *testing.T, conn, peer net.Conn) {
		w := sendq.NewWriter(conn, patient)
		closed := async(w.Close)
		require.Equal(t, content{}, readAll(peer))
		require.NoError(t, <-closed)
		require.NoError(t, w.Err())
		require.Zero(t, w.Stats())
	})
}

func TestWriterCloseToHalfClosedPeer(t *testing.T) {
	over(t, sockets, func(t *testing.T, conn, peer net.Conn) {
		require.NoError(t, peer.(interface{ CloseWrite() error }).CloseWrite())
		_, err := conn.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
		w := sendq.NewWriter(conn, patient)
		message := letters(2 << 20)
		require.NoError(t, w.Send(message))
		closed := async(w.Close)
		require.Equal(t, content{string(message), nil}, readAll(peer))
		require.NoError(t, <-closed)
	})
}

// If Close waited out its timeout for each dead peer, a server would run out of descriptors.
func TestWriterCloseToPeerThatIsGone(t *testing.T) {
	t.Run("and has closed", func(t *testing.T) {
		over(t, sockets, func(t *testing.T, conn, peer net.Conn) {
			w := sendq.NewWriter(conn, patient)
			require.NoError(t, peer.Close())
			_, err := conn.Read(make([]byte, 1))
			require.ErrorIs(t, err, io.EOF)
			require.NoError(t, w.Close())
		})
	})

	t.Run("and has reset", func(t *testing.T) {
		over(t, sockets, func(t *testing.T, conn, peer net.Conn) {
			if _, ok := conn.(*tls.Conn); ok {
				needAcknowledgements(t) // or the goodbye that fails might be a loss
			}
			w := sendq.NewWriter(conn, patient)
			reset(t, peer)
			_, err := conn.Read(make([]byte, 1))
			require.Error(t, err)
			require.NoError(t, w.Close(), "there was nothing to deliver")
		})
	})

	t.Run("and has reset with bytes on the way", func(t *testing.T) {
		needAcknowledgements(t)
		const length = 300 << 10
		for _, tr := range []transport{{"TCP", narrow(tcpPair)}, {"TLS", narrow(tlsPair)}, {"Wrapped", narrow(wrappedPair)}} {
			t.Run(tr.name, func(t *testing.T) {
				conn, peer := tr.pair(t)
				w := sendq.NewWriter(conn, patient)
				require.NoError(t, w.Send(make([]byte, length)))
				require.NoError(t, w.Flush(t.Context()), "the kernel takes it")
				reset(t, peer)
				_, err := conn.Read(make([]byte, 1))
				require.ErrorIs(t, err, syscall.ECONNRESET)
				err = w.Close()
				requireGone(t, err)
				require.ErrorContains(t, err, "not acknowledged")
				require.Equal(t, err, w.Close())
				require.EqualValues(t, 1, w.Stats().Written)
			})
		}
	})

	t.Run("and resets during Close", func(t *testing.T) {
		over(t, bounded(sockets), func(t *testing.T, conn, peer net.Conn) {
			w := sendq.NewWriter(conn, patient)
			require.NoError(t, w.Send(make([]byte, 16<<20)))
			closed := async(w.Close)
			_, err := io.ReadFull(peer, make([]byte, 1<<20))
			require.NoError(t, err)
			reset(t, peer)
			err = <-closed
			requireGone(t, err)
			require.ErrorContains(t, err, "1 (16777216 bytes)")
		})
	})

	t.Run("and resets while Close waits for it to acknowledge", func(t *testing.T) {
		needAcknowledgements(t)
		conn, peer := narrow(tcpPair)(t)
		w := sendq.NewWriter(conn, patient)
		require.NoError(t, w.Send(make([]byte, 300<<10)))
		require.NoError(t, w.Flush(t.Context()))
		closed := async(w.Close)
		for w.Send(nil) == nil {
			runtime.Gosched()
		}
		reset(t, peer)
		require.ErrorIs(t, <-closed, syscall.ECONNRESET)
	})
}

func TestWriterCloseTimeout(t *testing.T) {
	t.Run("of a peer that never reads", func(t *testing.T) {
		over(t, bounded(transports), func(t *testing.T, conn, _ net.Conn) {
			w := sendq.NewWriter(conn, &sendq.WriterOptions{CloseTimeout: 10 * time.Millisecond})
			require.NoError(t, w.Send(make([]byte, 16<<20)))
			require.NoError(t, w.Send([]byte("more")))
			err := w.Close()
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.ErrorContains(t, err, "2 (16777220 bytes)")
			require.ErrorContains(t, err, "CloseTimeout of 10ms")
			require.ErrorIs(t, w.Err(), context.DeadlineExceeded)
			require.Len(t, slices.Collect(w.Undelivered()), 2)
		})
	})

	t.Run("of bytes that the kernel holds", func(t *testing.T) {
		needAcknowledgements(t)
		conn, _ := narrow(tcpPair)(t)
		w := sendq.NewWriter(conn, &sendq.WriterOptions{CloseTimeout: 10 * time.Millisecond})
		require.NoError(t, w.Send(make([]byte, 300<<10)))
		require.NoError(t, w.Flush(t.Context()))
		err := w.Close()
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, "not acknowledged")
		require.EqualValues(t, 1, w.Stats().Written)
	})

	t.Run("is 5 s by default", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			conn := sendqtest.NewConn()
			conn.Stall()
			w := sendq.NewWriter(conn, nil)
			require.NoError(t, w.Send([]byte("message")))
			start := time.Now()
			require.ErrorIs(t, w.Close(), context.DeadlineExceeded)
			require.Equal(t, 5*time.Second, time.Since(start))
		})
	})

	t.Run("is not waited for", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			conn := sendqtest.NewConn()
			conn.Stall()
			w := sendq.NewWriter(conn, patient)
			require.NoError(t, w.Send([]byte("message")))
			start := time.Now()
			time.AfterFunc(time.Second, conn.Release)
			require.NoError(t, w.Close())
			require.Equal(t, time.Second, time.Since(start))
			require.Equal(t, "message", string(conn.Bytes()))
		})
	})
}

func TestWriterEndsOnce(t *testing.T) {
	t.Run("well", func(t *testing.T) {
		over(t, transports, func(t *testing.T, conn, peer net.Conn) {
			w := sendq.NewWriter(conn, patient)
			arrived := async(func() content { return readAll(peer) })
			require.NoError(t, w.Send([]byte("message")))
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() { assert.NoError(t, w.Close()) })
				wg.Go(func() { assert.NoError(t, w.Shutdown(t.Context())) })
			}
			wg.Wait()
			require.Equal(t, content{"message", nil}, <-arrived)
			for _, end := range ends {
				require.NoError(t, end(w), "after the end")
			}
			canceled, cancel := context.WithCancel(t.Context())
			cancel()
			require.NoError(t, w.Shutdown(canceled))
			require.NoError(t, w.Err())
		})
	})

	t.Run("badly", func(t *testing.T) {
		over(t, bounded(transports), func(t *testing.T, conn, _ net.Conn) {
			w := sendq.NewWriter(conn, patient)
			for range 64 {
				require.NoError(t, w.Send(make([]byte, 256<<10)))
			}
			outcomes := make(chan error, 8)
			for range 4 {
				go func() { outcomes <- w.Close() }()
				go func() { outcomes <- w.Shutdown(t.Context()) }()
			}
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() { assert.NoError(t, w.CloseNow()) })
			}
			wg.Wait()
			first := <-outcomes
			require.ErrorIs(t, first, net.ErrClosed)
			for range cap(outcomes) - 1 {
				require.EqualError(t, <-outcomes, first.Error())
			}
			require.NoError(t, w.CloseNow())
			require.EqualError(t, w.Close(), first.Error())
		})
	})

	t.Run("at the first bound", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			conn := sendqtest.NewConn()
			conn.Stall()
			w := sendq.NewWriter(conn, patient)
			require.NoError(t, w.Send([]byte("message")))
			start := time.Now()
			closed := async(w.Close)
			ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errBroken)
			defer cancel()
			require.ErrorIs(t, w.Shutdown(ctx), errBroken)
			require.ErrorIs(t, <-closed, errBroken)
			require.Equal(t, time.Second, time.Since(start))
		})
	})
}

func TestWriterShutdownCanceled(t *testing.T) {
	over(t, bounded(transports), func(t *testing.T, conn, _ net.Conn) {
		w := sendq.NewWriter(conn, patient)
		for range 64 {
			require.NoError(t, w.Send(make([]byte, 256<<10)))
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errBroken)
		require.ErrorIs(t, w.Shutdown(ctx), errBroken)
		require.ErrorIs(t, w.Err(), errBroken)
		s := w.Stats()
		require.Positive(t, s.Undelivered)
		require.Zero(t, s.Pending)
	})
}

func TestWriterCloseNowIdle(t *testing.T) {
	over(t, transports, func(t *testing.T, conn, peer net.Conn) {
		w := sendq.NewWriter(conn, nil)
		require.NoError(t, w.CloseNow())
		require.Equal(t, sendq.ErrClosed, w.Err())
		_, err := conn.Write([]byte("x"))
		require.Error(t, err, "the connection is closed")
		require.Empty(t, readAll(peer).bytes)
	})
}

// On a pipe the goodbye of TLS fails if the inner connection is closed first, and the pipe does not
// report that it was already closed.
func TestWriterCloseNowTLSOverPipe(t *testing.T) {
	inner, innerPeer := pipePair(t)
	conn, peer := tls.Server(inner, tlsConfig()), tls.Client(innerPeer, tlsConfig())
	arrived := async(func() content { return readAll(peer) })
	w := sendq.NewWriter(conn, nil)
	require.NoError(t, w.Send([]byte("message")))
	require.NoError(t, w.Flush(t.Context()))
	require.NoError(t, w.CloseNow())
	require.Equal(t, "message", (<-arrived).bytes)
}

// The goodbye of TLS waits 5 s for a peer that takes nothing.
func TestWriterCloseNowSaysNoGoodbye(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner, innerPeer := net.Pipe()
		faulty := sendqtest.Wrap(inner)
		conn, peer := tls.Server(faulty, tlsConfig()), tls.Client(innerPeer, tlsConfig())
		arrived := async(func() content { return readAll(peer) })
		w := sendq.NewWriter(conn, nil)
		require.NoError(t, w.Send([]byte("message")))
		require.NoError(t, w.Flush(t.Context()))
		faulty.Stall()
		start := time.Now()
		w.CloseNow()
		require.Zero(t, time.Since(start))
		require.Equal(t, "message", (<-arrived).bytes)
	})
}

func TestWriterCloseNowReturnsTheConnectionsError(t *testing.T) {
	w := sendq.NewWriter(failingClose{sendqtest.NewConn()}, nil)
	require.Equal(t, errBroken, w.CloseNow())
	require.NoError(t, w.CloseNow())
}

// A connection may deliver its last bytes only at Close, and fail.
func TestWriterCloseReturnsTheConnectionsError(t *testing.T) {
	w := sendq.NewWriter(failingClose{sendqtest.NewConn()}, nil)
	require.NoError(t, w.Send([]byte("message")))
	require.ErrorIs(t, w.Close(), errBroken)
	require.ErrorIs(t, w.Err(), errBroken)
}

type failingClose struct{ *sendqtest.Conn }

func (c failingClose) Close() error {
	c.Conn.Close()
	return errBroken
}

func TestWriterPeerResets(t *testing.T) {
	over(t, sockets, func(t *testing.T, conn, peer net.Conn) {
		w := sendq.NewWriter(conn, patient)
		require.NoError(t, w.Send([]byte("message")))
		_, err := io.ReadFull(peer, make([]byte, 7))
		require.NoError(t, err)
		reset(t, peer)
		for err == nil {
			if err = w.Send([]byte("message")); err == nil {
				w.Flush(t.Context())
			}
		}
		<-w.Done()
		requireGone(t, err)
		require.ErrorIs(t, err, net.ErrClosed)
		requireGone(t, w.Err())
		assertConserved(t, w.Stats())
	})
}

func TestWriterUseAfterEnd(t *testing.T) {
	canceled, cancel := context.WithCancelCause(t.Context())
	cancel(errBroken)
	for _, tt := range []struct {
		name  string
		conn  func(*sendqtest.Conn)
		end   func(*sendq.Writer) error
		cause error
	}{
		{"Close", func(*sendqtest.Conn) {}, (*sendq.Writer).Close, nil},
		{"CloseNow", func(*sendqtest.Conn) {}, (*sendq.Writer).CloseNow, sendq.ErrClosed},
		{
			"Shutdown in vain", func(c *sendqtest.Conn) { c.Stall() },
			func(w *sendq.Writer) error { return w.Shutdown(canceled) }, errBroken,
		},
		{
			"a failed write", func(c *sendqtest.Conn) { c.FailAfter(0, errBroken) },
			func(w *sendq.Writer) error { return w.Flush(t.Context()) }, errBroken,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conn := sendqtest.NewConn()
			w := sendq.NewWriter(conn, nil)
			tt.conn(conn)
			before := w.Done()
			select {
			case <-before:
				t.Fatal("done before the end")
			default:
			}
			require.NoError(t, w.Err())
			require.NoError(t, w.Send([]byte("message")))
			tt.end(w)

			<-before
			<-w.Done()
			require.Equal(t, before, w.Done())
			require.Equal(t, tt.cause, w.Err())
			stats := w.Stats()
			n, err := w.Write([]byte("late"))
			require.Zero(t, n)
			_, err2 := w.WriteString("late")
			for _, err := range []error{err, err2, w.Send([]byte("late")), second(w.Write(make([]byte, 100<<10)))} {
				require.ErrorIs(t, err, net.ErrClosed)
				require.ErrorIs(t, err, sendq.ErrClosed)
				if tt.cause != nil {
					require.ErrorIs(t, err, tt.cause)
				}
			}
			require.Equal(t, stats, w.Stats(), "what is refused does not count")
		})
	}

	t.Run("Done asked for only then", func(t *testing.T) {
		w := sendq.NewWriter(sendqtest.NewConn(), nil)
		require.NoError(t, w.CloseNow())
		<-w.Done()
	})
}

func TestWriterUndelivered(t *testing.T) {
	conn := sendqtest.NewConn()
	waiting := conn.Stall()
	w := sendq.NewWriter(conn, nil)
	sent := [][]byte{[]byte("one"), nil, []byte("three"), letters(40 << 10)}
	for i, p := range sent {
		require.NoError(t, send(w, i, slices.Clone(p)))
	}
	<-waiting
	require.Empty(t, slices.Collect(w.Undelivered()), "before the end")
	early := w.Undelivered()
	require.NoError(t, w.CloseNow())

	requireMessages(t, sent, w.Undelivered())
	requireMessages(t, sent, early)
	messages := w.Undelivered()
	for p := range messages {
		require.Equal(t, "one", string(p))
		w.Stats() // no lock is held
		break
	}
	requireMessages(t, sent, messages)
}

func TestWriterOnEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := sendq.NewWriter(sendqtest.NewConn(), nil)
		var causes []error
		note := func() { causes = append(causes, w.Err()) }
		w.OnEnd(note)
		stop := w.OnEnd(func() { t.Error("called although it was stopped") })
		late := w.OnEnd(func() {})
		require.True(t, stop())
		require.False(t, stop())
		synctest.Wait()
		require.Empty(t, causes)
		w.CloseNow()
		synctest.Wait()
		require.Equal(t, []error{sendq.ErrClosed}, causes)
		require.False(t, late(), "it has been called")
		w.OnEnd(note)
		synctest.Wait()
		require.Len(t, causes, 2, "at once when it is too late")
	})
}

// requireGone requires an error for a peer that is gone.
func requireGone(t testing.TB, err error) {
	t.Helper()
	require.Error(t, err)
	require.True(t, slices.ContainsFunc(goneErrors, func(gone error) bool { return errors.Is(err, gone) }), "%v", err)
}
