package sendq_test

import (
	"context"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
)

// A message that would fit waits its turn nevertheless: senders that wait for room would starve
// if smaller messages took it.
func TestNobodyOvertakesABlockedSender(t *testing.T) {
	for name, send := range map[string]func(w *sendq.Writer, p []byte) error{
		"Write": func(w *sendq.Writer, p []byte) error { return second(w.Write(p)) },
		"Send":  (*sendq.Writer).Send,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, conn := stuck(t, &sendq.WriterOptions{MaxPending: 1000, Overflow: sendq.Block})
				require.NoError(t, second(w.WriteString(strings.Repeat("a", 136)))) // small ones fit behind it
				large := async(func() error { return w.Send([]byte(strings.Repeat("b", 800-64))) })
				synctest.Wait()
				small := async(func() error { return send(w, []byte("c")) })
				synctest.Wait()
				require.EqualValues(t, 2, w.Stats().Accepted)
				b := sendq.NewBroker(nil)
				require.NoError(t, b.Register("bob", w))
				require.Equal(t, sendq.ErrWouldBlock, b.Send("bob", []byte("d")))

				conn.Release()
				require.NoError(t, <-large)
				require.NoError(t, <-small)
				require.NoError(t, w.Close())
				require.Equal(t, strings.Repeat("a", 136)+strings.Repeat("b", 800-64)+"c", string(conn.Bytes()[36:]))
			})
		})
	}
}

// Those that waited behind a sender that gives up need not wait for the connection.
func TestBlockedSenderThatGivesUpMakesWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := stuck(t, &sendq.WriterOptions{MaxPending: 1000, Overflow: sendq.Block})
		ctx, cancel := context.WithCancelCause(t.Context())
		large := async(func() error { return second(w.WriteContext(ctx, counted(1000))) })
		synctest.Wait()
		small := []<-chan error{async(func() error { return w.Send(counted(450)) })}
		synctest.Wait()
		small = append(small, async(func() error { return w.Send(counted(450)) }))
		synctest.Wait()
		require.EqualValues(t, 1, w.Stats().Accepted)
		cancel(errBroken)
		require.ErrorIs(t, <-large, errBroken)
		require.NoError(t, <-small[0])
		require.NoError(t, <-small[1])
		require.EqualValues(t, 3, w.Stats().Accepted)
	})
}

// Flush waits for the messages before it, and not for as many later ones as were dropped of these.
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

// What is dropped is pending no more: those who wait for that hear of it at once.
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

// The peak is not lost when it is dropped before a write returns.
func TestPeakOfWhatWasDropped(t *testing.T) {
	w, _ := stuck(t, &sendq.WriterOptions{MaxPending: 1000, Overflow: sendq.DropOldest})
	require.NoError(t, w.Send(make([]byte, 800)))
	require.NoError(t, w.Send([]byte("x")))
	require.EqualValues(t, 1, w.Stats().Dropped)
	s := w.Stats()
	require.EqualValues(t, 36+1, s.PendingBytes)
	require.EqualValues(t, 36+800, s.PeakPendingBytes)
}

// A message is not as old as those that were dropped before it.
func TestAgeAfterDrops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, peer := overPipe(t, &sendq.WriterOptions{MaxPending: 1000, MaxAge: time.Hour, Overflow: sendq.DropOldest})
		w.WriteString("0")
		synctest.Wait() // it is being written
		for range 10 {
			w.WriteString("old")
		}
		w.Stats() // takes a sample
		time.Sleep(50 * time.Minute)
		for range 50 {
			w.WriteString("new")
		}
		w.Stats()
		require.EqualValues(t, 47, w.Stats().Dropped)
		requireTake(t, peer, "0n")
		synctest.Wait()
		require.Zero(t, w.Stats().OldestPending)
		time.Sleep(50 * time.Minute)
		synctest.Wait()
		require.NoError(t, w.Err(), "nothing has waited for MaxAge")
		require.Equal(t, 50*time.Minute, w.Stats().OldestPending)
		go io.Copy(io.Discard, peer)
		require.NoError(t, w.Close())
	})
}

// A write of DropOldest takes a small part of what is pending, so that a message which comes
// meanwhile finds something to drop.
func TestDropOldestDuringAWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, peer := overPipe(t, &sendq.WriterOptions{MaxPending: 8000, Overflow: sendq.DropOldest})
		w.WriteString("0")
		synctest.Wait() // it is being written
		for range 15 {
			require.NoError(t, second(w.Write(counted(500))))
		}
		requireTake(t, peer, "0")
		synctest.Wait() // the next write has begun
		require.NoError(t, second(w.Write(counted(1000))))
		w.CloseNow()
	})
}
