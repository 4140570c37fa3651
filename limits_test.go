package sendq_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/internal/faultconn"
)

// stuck returns a Writer whose first message is being written and stays so until conn is
// released. It counts 100 bytes at MaxPending.
func stuck(t *testing.T, opts *sendq.WriterOptions) (*sendq.Writer, *faultconn.Conn) {
	conn := faultconn.New()
	waiting := conn.Stall()
	w := sendq.NewWriter(conn, opts)
	t.Cleanup(func() { w.CloseNow() })
	require.NoError(t, w.Send(make([]byte, 36)))
	<-waiting
	return w, conn
}

// counted returns a message that counts n bytes at MaxPending.
func counted(n int) []byte { return make([]byte, n-64) }

func TestMaxPendingDisconnect(t *testing.T) {
	w, conn := stuck(t, &sendq.WriterOptions{MaxPending: 1000})
	for range 9 {
		require.NoError(t, w.Send(counted(100)))
	}
	_, err := w.Write(nil) // an empty message counts too
	require.ErrorIs(t, err, sendq.ErrSlowConsumer)
	require.ErrorIs(t, err, net.ErrClosed)
	<-w.Done() // although the write was stuck
	require.ErrorIs(t, w.Err(), sendq.ErrSlowConsumer)
	require.ErrorContains(t, w.Err(), "MaxPending of 1000 bytes exceeded")
	require.ErrorIs(t, conn.Close(), net.ErrClosed)
	stats := w.Stats()
	assertConserved(t, stats)
	require.EqualValues(t, 10, stats.Undelivered)
}

func TestMaxPendingTooLarge(t *testing.T) {
	for overflow := sendq.Disconnect; overflow <= sendq.DropOldest; overflow++ {
		t.Run(overflow.String(), func(t *testing.T) {
			w, conn := stuck(t, &sendq.WriterOptions{MaxPending: 1000, Overflow: overflow})
			require.ErrorIs(t, w.Send(counted(1001)), sendq.ErrTooLarge)
			require.NoError(t, w.Send(counted(900)), "the Writer lives on")
			conn.Release()
			require.NoError(t, w.Flush(t.Context()))
			require.NoError(t, w.Send(counted(1000)))
			require.NoError(t, w.Close())
			require.EqualValues(t, 3, w.Stats().Accepted)
		})
	}
}

func TestMaxPendingDropNewest(t *testing.T) {
	w, conn := stuck(t, &sendq.WriterOptions{MaxPending: 300, Overflow: sendq.DropNewest})
	require.NoError(t, w.Send(counted(200)))
	n, err := w.Write([]byte("dropped"))
	require.Zero(t, n)
	require.Equal(t, sendq.ErrDropped, err)
	flushed := async(func() error { return w.Flush(t.Context()) })
	conn.Release()
	require.NoError(t, <-flushed)
	require.NoError(t, w.Close())
	require.Len(t, conn.Bytes(), 36+200-64)
	stats := w.Stats()
	assertConserved(t, stats)
	require.EqualValues(t, 1, stats.Dropped)
	require.EqualValues(t, len("dropped"), stats.DroppedBytes)
}

// The oldest messages go, those being written never do, and what is left is in order.
func TestMaxPendingDropOldest(t *testing.T) {
	messages := make([][]byte, 200)
	for i := range messages {
		messages[i] = fmt.Appendf(nil, "%036d", i)
	}
	for way := range 3 { // copied, by reference, in turns
		t.Run(fmt.Sprint(way), func(t *testing.T) {
			w, conn := stuck(t, &sendq.WriterOptions{MaxPending: 1000, Overflow: sendq.DropOldest})
			for i, p := range messages {
				if way == 0 || way == 2 && i%2 == 0 {
					_, err := w.Write(p)
					require.NoError(t, err)
				} else {
					require.NoError(t, w.Send(p))
				}
				assertConserved(t, w.Stats())
			}
			require.EqualValues(t, 10, w.Stats().Pending)
			flushed := async(func() error { return w.Flush(t.Context()) })
			conn.Release()
			require.NoError(t, <-flushed)
			require.NoError(t, w.Close())
			require.Equal(t, string(slices.Concat(messages[191:]...)), string(conn.Bytes()[36:]))
			require.EqualValues(t, 191, w.Stats().Dropped)
		})
	}

	t.Run("no room but by dropping what is being written", func(t *testing.T) {
		w, conn := stuck(t, &sendq.WriterOptions{MaxPending: 200, Overflow: sendq.DropOldest})
		require.NoError(t, w.Send(counted(70)))
		require.Equal(t, sendq.ErrDropped, w.Send(counted(101)))
		conn.Release()
		require.NoError(t, w.Close())
		require.Len(t, conn.Bytes(), 36+70-64, "the others are not dropped in vain")
		require.EqualValues(t, 1, w.Stats().Dropped)
	})

	t.Run("not all is in flight", func(t *testing.T) {
		conn := faultconn.New()
		w := sendq.NewWriter(conn, &sendq.WriterOptions{MaxPending: 1000, Overflow: sendq.DropOldest})
		waiting := conn.Stall()
		for range 10 {
			w.Write(make([]byte, 36))
		}
		<-waiting
		for range 100 {
			_, err := w.Write(make([]byte, 36))
			require.NoError(t, err, "the newest is kept")
		}
		w.CloseNow()
	})
}

// Tiny messages are not all in flight either, although their bytes are few beside what they
// count at MaxPending: the newest take the place of older ones.
func TestMaxPendingDropOldestOfTinyMessages(t *testing.T) {
	conn := faultconn.New()
	w := sendq.NewWriter(conn, &sendq.WriterOptions{MaxPending: 64 << 10, Overflow: sendq.DropOldest})
	waiting := conn.Stall()
	for range 2000 {
		w.WriteString("old")
	}
	<-waiting
	for range 700 {
		_, err := w.WriteString("new")
		require.NoError(t, err)
	}
	conn.Release()
	require.NoError(t, w.Close())
	require.Equal(t, 700, strings.Count(string(conn.Bytes()), "new"))
}

// Many calls of Flush at once cost each its turn, not a look at all others for each write.
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

// So does giving up while many senders wait for room.
func TestManyBlockedSendersGiveUp(t *testing.T) {
	w, _ := stuck(t, &sendq.WriterOptions{MaxPending: 100, Overflow: sendq.Block})
	ctx, cancel := context.WithCancel(t.Context())
	var blocked []<-chan error
	for range 20_000 {
		blocked = append(blocked, async(func() error { _, err := w.WriteContext(ctx, []byte("x")); return err }))
	}
	cancel()
	for _, sent := range blocked {
		require.ErrorIs(t, <-sent, context.Canceled)
	}
	require.EqualValues(t, 1, w.Stats().Accepted)
}

// Messages that were dropped behind one that is being written do not stand for it.
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

func TestMaxPendingBlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, conn := stuck(t, &sendq.WriterOptions{MaxPending: 300, Overflow: sendq.Block})
		require.NoError(t, w.Send(counted(200)))
		var sent []<-chan error
		for i := range 5 { // they are served in turn
			sent = append(sent, async(func() error { return w.Send(fmt.Appendf(nil, "%0100d", i)) }))
			synctest.Wait()
		}
		require.EqualValues(t, 2, w.Stats().Accepted)
		conn.Release()
		for _, result := range sent {
			require.NoError(t, <-result)
		}
		require.NoError(t, w.Close())
		var want strings.Builder
		for i := range 5 {
			fmt.Fprintf(&want, "%0100d", i)
		}
		require.Equal(t, want.String(), string(conn.Bytes()[36+136:]))
	})
}

func TestMaxPendingBlockGivesUp(t *testing.T) {
	errEnough := errors.New("enough")
	for name, tt := range map[string]struct {
		end  func(w *sendq.Writer, conn *faultconn.Conn, cancel context.CancelCauseFunc)
		want error
	}{
		"context":  {func(_ *sendq.Writer, _ *faultconn.Conn, cancel context.CancelCauseFunc) { cancel(errEnough) }, errEnough},
		"CloseNow": {func(w *sendq.Writer, _ *faultconn.Conn, _ context.CancelCauseFunc) { w.CloseNow() }, net.ErrClosed},
		"Close":    {func(w *sendq.Writer, _ *faultconn.Conn, _ context.CancelCauseFunc) { go w.Close() }, net.ErrClosed},
		"error":    {func(_ *sendq.Writer, conn *faultconn.Conn, _ context.CancelCauseFunc) { conn.Close() }, net.ErrClosed},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, conn := stuck(t, &sendq.WriterOptions{MaxPending: 100, Overflow: sendq.Block})
				ctx, cancel := context.WithCancelCause(t.Context())
				sent := async(func() error { _, err := w.WriteContext(ctx, []byte("message")); return err })
				synctest.Wait()
				tt.end(w, conn, cancel)
				require.ErrorIs(t, <-sent, tt.want)
				require.EqualValues(t, 1, w.Stats().Accepted)
			})
		})
	}
}

func TestBrokerDoesNotWaitForRoom(t *testing.T) {
	w, _ := stuck(t, &sendq.WriterOptions{MaxPending: 100, Overflow: sendq.Block})
	b := sendq.NewBroker(nil)
	require.NoError(t, b.Register("slow", w))
	require.NoError(t, b.Room("room").Join("slow"))
	require.Equal(t, sendq.ErrWouldBlock, b.Send("slow", []byte("message")))
	require.Zero(t, b.Broadcast([]byte("message")))
	require.Zero(t, b.Room("room").Publish([]byte("message")))
}

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

// A queue that never gets empty is no matter, as long as each message leaves in time.
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

// The backlog of a peer that is too slow grows older, and then the peer stalls.
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

// A peer that takes 4 KiB now and then is alive, however long the whole takes.
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

// The kernel tells of progress that no Write shows, beneath TLS and a wrapper too; and
// of its lack.
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

// The kernel's buffer is full, so that one conn.Write takes some times WriteTimeout, while
// the peer reads 4 KiB now and then. Only a Unix socket tells of such small steps.
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

func TestBudget(t *testing.T) {
	const limit, writers, stalled = 4 << 20, 200, 20
	warmUp(writers)
	discard := discarded()
	before := heap()
	budget := sendq.NewBudget(limit)
	opts := &sendq.WriterOptions{Budget: budget}
	all := make([]*sendq.Writer, writers)
	for i := range all {
		conn := net.Conn(discard) // which takes no notes, so no memory
		if i < stalled {
			conn = stalledPeer()
		}
		all[i] = sendq.NewWriter(conn, opts)
	}
	message := make([]byte, 3000)
	ended := 0
	for range 15 {
		for i, w := range all {
			for n := 0; n < 10 && all[i] != nil; n++ {
				if _, err := w.Write(message); err != nil {
					require.ErrorIs(t, err, sendq.ErrSlowConsumer)
					require.Less(t, i, stalled, "only stalled Writers end")
					all[i] = nil // as a service forgets them
					ended++
				}
			}
			assert.LessOrEqual(t, budget.Pending(), limit)
			if i >= stalled {
				require.NoError(t, w.Flush(t.Context()))
			}
		}
	}
	require.NotZero(t, ended)
	used := heap() - before
	t.Logf("%d Writers ended; %d bytes are pending, and the process uses %d", ended, budget.Pending(), used)
	require.Greater(t, budget.Pending(), limit/2, "stalled Writers are left")
	require.LessOrEqual(t, used, limit*5/4)
	for _, w := range all {
		if w != nil {
			w.CloseNow()
		}
	}
	require.Zero(t, budget.Pending(), "ended Writers take nothing")
}

func TestBudgetTooLarge(t *testing.T) {
	w := sendq.NewWriter(faultconn.New(), &sendq.WriterOptions{Budget: sendq.NewBudget(1000)})
	require.ErrorIs(t, w.Send(counted(1001)), sendq.ErrTooLarge)
	require.NoError(t, w.Send(counted(1000)))
	require.NoError(t, w.Close())
	require.Panics(t, func() { sendq.NewBudget(0) })
}

// Only a message that is queued, and then the largest backlog, may cost a Writer its life.
func TestBudgetSparesTheInnocent(t *testing.T) {
	budget := sendq.NewBudget(10_000)
	bystander, _ := stuck(t, &sendq.WriterOptions{Budget: budget})
	require.NoError(t, bystander.Send(counted(8000)))

	ended := sendq.NewWriter(faultconn.New(), &sendq.WriterOptions{Budget: budget})
	ended.CloseNow()
	require.ErrorIs(t, ended.Send(counted(5000)), net.ErrClosed)
	full, _ := stuck(t, &sendq.WriterOptions{Budget: budget, MaxPending: 5000, Overflow: sendq.DropNewest})
	require.Equal(t, sendq.ErrDropped, full.Send(counted(5000)))
	require.NoError(t, bystander.Err())

	// It is the largest that ends, however much the message of another brings.
	idle := sendq.NewWriter(faultconn.New(), &sendq.WriterOptions{Budget: budget})
	require.NoError(t, idle.Send(counted(9000)))
	<-bystander.Done()
	require.ErrorIs(t, bystander.Err(), sendq.ErrSlowConsumer)
	require.ErrorContains(t, bystander.Err(), "8100")
	require.NoError(t, idle.Close())

	// Also when it is the one that gets the message.
	require.NoError(t, full.Send(counted(4000)))
	greedy, _ := stuck(t, &sendq.WriterOptions{Budget: budget})
	require.NoError(t, greedy.Send(counted(5500)))
	require.ErrorIs(t, greedy.Send(counted(1000)), sendq.ErrSlowConsumer)
	<-greedy.Done()
	require.NoError(t, full.Err())
}

// With many small backlogs and a spent Budget each message costs one of them, and not a look
// at all.
func TestBudgetOfManyWriters(t *testing.T) {
	writers := sized(10_000)
	budget := sendq.NewBudget(writers * 80)
	opts := &sendq.WriterOptions{Budget: budget}
	discard := &sink{open: make(chan struct{})}
	all := make([]*sendq.Writer, 2*writers)
	for i := range all {
		all[i] = sendq.NewWriter(discard, opts)
		require.NoError(t, all[i].Send(counted(80)))
		require.LessOrEqual(t, budget.Pending(), writers*80)
	}
	close(discard.open)
	ended := 0
	for _, w := range all {
		w.Close()
		if w.Err() != nil {
			ended++
		}
	}
	require.Equal(t, writers, ended)
}

// Senders of many Writers that end one another's are no deadlock, and the sum comes out.
func TestBudgetUnderPressure(t *testing.T) {
	budget := sendq.NewBudget(20_000)
	for _, overflow := range []sendq.Overflow{sendq.Disconnect, sendq.Block, sendq.DropNewest, sendq.DropOldest} {
		var senders sync.WaitGroup
		var all []*sendq.Writer
		for i := range 30 {
			conn := faultconn.New()
			if i%3 == 0 {
				conn.Stall()
			}
			w := sendq.NewWriter(conn, &sendq.WriterOptions{Budget: budget, MaxPending: 5000, Overflow: overflow})
			all = append(all, w)
			for range 2 {
				senders.Go(func() {
					ctx, cancel := context.WithTimeout(context.Background(), time.Second)
					defer cancel()
					for range 300 {
						w.WriteContext(ctx, make([]byte, 100))
						assert.LessOrEqual(t, budget.Pending(), 20_000)
					}
				})
			}
		}
		senders.Wait()
		for _, w := range all {
			w.CloseNow()
			assertConserved(t, w.Stats())
		}
		require.Zero(t, budget.Pending(), overflow)
	}
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

func TestStatsTellAgeAndPeak(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, conn := stuck(t, nil)
		time.Sleep(time.Minute)
		w.Write(make([]byte, 64))
		stats := w.Stats()
		require.Equal(t, time.Minute, stats.OldestPending)
		require.EqualValues(t, 100, stats.PeakPendingBytes)
		conn.Release()
		require.NoError(t, w.Flush(t.Context()))
		synctest.Wait()
		stats = w.Stats()
		require.Zero(t, stats.OldestPending)
		require.EqualValues(t, 100, stats.PeakPendingBytes)
		require.EqualValues(t, 2, stats.Writes)
		require.NoError(t, w.Close())
	})
}

// A panic in Write, which nobody else could recover, ends the Writer and no more.
func TestWriterSurvivesPanic(t *testing.T) {
	conn := faultconn.New()
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

// Goexit, which t.FailNow calls, takes the flusher away.
func TestWriterSurvivesGoexit(t *testing.T) {
	conn := faultconn.New()
	conn.Fault = func([]byte) (int, error) { runtime.Goexit(); return 0, nil }
	w := sendq.NewWriter(conn, nil)
	require.NoError(t, w.Send([]byte("message")))
	<-w.Done()
	require.ErrorContains(t, w.Err(), "Goexit")
	require.Len(t, slices.Collect(w.Undelivered()), 1)
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

func TestMessageFramed(t *testing.T) {
	conn := faultconn.New()
	waiting := conn.Stall()
	w := sendq.NewWriter(conn, &sendq.WriterOptions{MessageFramed: true})
	w.WriteString("one")
	<-waiting
	w.WriteString("three")
	w.WriteString("")
	w.WriteString("seven")
	conn.Release()
	require.NoError(t, w.Close())
	require.Equal(t, []int{3, 5, 0, 5}, conn.Sizes())
}

// On a socket that is a stream beneath, too, no message is divided or lost when the kernel
// takes no more for a while.
func TestMessageFramedOverTCP(t *testing.T) {
	conn, peer := tcpPair(t)
	w := sendq.NewWriter(conn, &sendq.WriterOptions{MessageFramed: true, CloseTimeout: time.Hour})
	const messages = 2000
	for i := range messages {
		require.NoError(t, w.Send(frame(0, i, 10_000)))
		if i%10 == 0 {
			time.Sleep(10 * time.Microsecond) // to be idle now and then
		}
	}
	arrived := async(func() arrival { return receive(peer) })
	require.NoError(t, w.Close())
	got := <-arrived
	require.NoError(t, got.err)
	require.Equal(t, upTo(messages), got.order[0])
}
