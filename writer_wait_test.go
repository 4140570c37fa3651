package sendq_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/sendqtest"
)

func TestWriterFlush(t *testing.T) {
	t.Run("when all is written", func(t *testing.T) {
		over(t, transports, func(t *testing.T, conn, peer net.Conn) {
			w := sendq.NewWriter(conn, nil)
			require.NoError(t, w.Flush(t.Context()), "before the first message")
			arrived := async(func() content { return readAll(peer) })
			for i := range 100 {
				require.NoError(t, send(w, i, []byte("message")))
			}
			require.NoError(t, w.Flush(t.Context()))
			require.EqualValues(t, 100, w.Stats().Written)
			require.NoError(t, w.Close())
			require.Len(t, (<-arrived).bytes, 700)
			require.NoError(t, w.Flush(t.Context()), "after the end")
		})
	})

	t.Run("canceled", func(t *testing.T) {
		conn := sendqtest.NewConn()
		waiting := conn.Stall()
		w := sendq.NewWriter(conn, nil)
		require.NoError(t, w.Send([]byte("message")))
		<-waiting
		ctx, cancel := context.WithCancelCause(t.Context())
		patient := async(func() error { return w.Flush(t.Context()) })
		flushed := async(func() error { return w.Flush(ctx) })
		cancel(errBroken)
		require.ErrorIs(t, <-flushed, errBroken)
		require.EqualValues(t, 1, w.Stats().Pending, "the message stays")
		conn.Release()
		require.NoError(t, <-patient, "one call's context is nothing to another")
		require.Equal(t, "message", string(conn.Bytes()))
		require.NoError(t, w.Close())
	})

	t.Run("when the Writer ends first", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			conn := sendqtest.NewConn()
			conn.Stall()
			w := sendq.NewWriter(conn, nil)
			require.NoError(t, w.Send([]byte("message")))
			require.NoError(t, w.Send([]byte("another")))
			flushed := async(func() error { return w.Flush(t.Context()) })
			synctest.Wait()
			require.NoError(t, w.CloseNow())
			err := <-flushed
			require.ErrorIs(t, err, net.ErrClosed)
			require.ErrorContains(t, err, "2 (14 bytes)")
			require.EqualError(t, w.Flush(t.Context()), err.Error())
		})
	})

	t.Run("does not wait for later messages", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			conn := hooked(sendqtest.NewConn())
			may := make(chan struct{})
			conn.Fault = func(p []byte) (int, error) { <-may; return len(p), nil }
			w := sendq.NewWriter(conn, nil)
			require.NoError(t, w.Send([]byte("first")))
			synctest.Wait()
			flushed := async(func() error { return w.Flush(t.Context()) })
			synctest.Wait()
			require.NoError(t, w.Send([]byte("second")))
			second := async(func() error { return w.Flush(t.Context()) })
			may <- struct{}{}
			require.NoError(t, <-flushed)
			synctest.Wait()
			require.Empty(t, second)
			require.EqualValues(t, 1, w.Stats().Pending)
			may <- struct{}{}
			require.NoError(t, <-second)
		})
	})
}

// A later message must not share the write that Flush waits for.
func TestFlushDoesNotShareAWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, peer := net.Pipe()
		w := sendq.NewWriter(conn, nil)
		w.Write([]byte("0"))
		synctest.Wait() // it is being written
		w.Write([]byte("1"))
		flushed := async(func() error { return w.Flush(t.Context()) })
		synctest.Wait()
		w.Write(make([]byte, 1000))
		_, err := io.ReadFull(peer, make([]byte, 2))
		require.NoError(t, err)
		require.NoError(t, <-flushed, "although nobody reads the rest")
		w.CloseNow()
	})
}

// On a socket a write is divided for Flush only while the kernel is full.
func TestFlushOnSockets(t *testing.T) {
	needSocketWrites(t)
	for _, tcp := range []bool{false, true} {
		t.Run(fmt.Sprintf("TCP %v", tcp), func(t *testing.T) {
			conn, peer := smallPair(t, tcp)
			w := sendq.NewWriter(conn, nil)
			const flushes = 100
			w.Write(make([]byte, 1<<20)) // more than the kernel takes
			var flushed []<-chan error
			for range flushes {
				w.Write([]byte("1"))
				flushed = append(flushed, async(func() error { return w.Flush(t.Context()) }))
			}
			time.Sleep(10 * time.Millisecond) // they wait
			w.Write(make([]byte, 1<<20))
			before := w.Stats().Writes
			_, err := io.ReadFull(peer, make([]byte, 1<<20+flushes))
			require.NoError(t, err)
			for _, f := range flushed {
				require.NoError(t, <-f, "although nobody reads the rest")
			}
			s := w.Stats()
			require.NotZero(t, s.Pending)
			t.Logf("%d writes", s.Writes-before)
			require.Less(t, s.Writes-before, int64(flushes/2))
			w.CloseNow()
		})
	}
}

// Flush waits for the message being written, however many later ones are dropped.
func TestFlushWaitsForWhatIsBeingWritten(t *testing.T) {
	w, conn := stuck(t, &sendq.WriterOptions{MaxPending: 200, Overflow: sendq.DropOldest})
	flushed := async(func() error { return w.Flush(t.Context()) })
	for range 100 {
		require.NoError(t, w.Send(counted(100)))
	}
	select {
	case err := <-flushed:
		t.Fatal("flushed while the message was stuck: ", err)
	default:
	}
	conn.Release()
	require.NoError(t, <-flushed)
}

// Many concurrent calls of Flush take a turn each, and no write looks at all of them.
func TestManyFlushes(t *testing.T) {
	w, conn := stuck(t, nil)
	var flushes []<-chan error
	for range 20_000 {
		require.NoError(t, w.Send([]byte("message")))
		flushes = append(flushes, async(func() error { return w.Flush(t.Context()) }))
	}
	conn.Release()
	for _, flushed := range flushes {
		require.NoError(t, <-flushed)
	}
}

// Flush waits for the messages before it, and not also for as many later ones as were dropped of
// these.
func TestFlushDoesNotWaitForWhatWasDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, peer := overPipe(t, &sendq.WriterOptions{MaxPending: 300, Overflow: sendq.DropOldest})
		w.WriteString("0")
		synctest.Wait() // it is being written
		w.WriteString("1")
		w.WriteString("2")
		flushed := async(func() error { return w.Flush(t.Context()) })
		synctest.Wait()
		for range 6 {
			require.NoError(t, second(w.WriteString("later")))
		}
		require.EqualValues(t, 5, w.Stats().Dropped)
		requireTake(t, peer, "0")
		require.NoError(t, <-flushed, "although nobody reads the rest")
		w.CloseNow()
	})
}

func TestWaitPending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, conn := stuck(t, nil)
		for range 9 {
			w.Write(make([]byte, 100))
		}
		require.NoError(t, w.WaitPending(t.Context(), 936), "so much is pending")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, w.WaitPending(ctx, 935), context.DeadlineExceeded)
		waited := async(func() error { return w.WaitPending(t.Context(), 0) })
		synctest.Wait()
		conn.Release()
		require.NoError(t, <-waited)

		conn.Stall()
		w.Write([]byte("stuck"))
		waited = async(func() error { return w.WaitPending(t.Context(), 0) })
		synctest.Wait()
		w.CloseNow()
		require.ErrorIs(t, <-waited, net.ErrClosed)
	})
}

// A dropped message is no longer pending, and WaitPending returns at once.
func TestWaitPendingHearsOfDrops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := stuck(t, &sendq.WriterOptions{MaxPending: 1000, Overflow: sendq.DropOldest})
		require.NoError(t, w.Send(make([]byte, 600)))
		waited := async(func() error { return w.WaitPending(t.Context(), 100) })
		synctest.Wait()
		require.Empty(t, waited)
		for w.Stats().Dropped == 0 {
			require.NoError(t, w.Send([]byte("x")))
		}
		synctest.Wait()
		require.NoError(t, <-waited)
	})
}
