package sendq_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/sendqtest"
)

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

// The oldest messages are dropped, but never those being written, and the rest stays in order.
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
		conn := sendqtest.NewConn()
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

// Not all tiny messages are in flight, although they have few bytes compared to their count at
// MaxPending: the newest replace older ones.
func TestMaxPendingDropOldestOfTinyMessages(t *testing.T) {
	conn := sendqtest.NewConn()
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

// With DropOldest a write takes a small part of the backlog, so that a message during the write
// finds something to drop.
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

// The peak includes messages that are dropped before a write returns.
func TestPeakOfWhatWasDropped(t *testing.T) {
	w, _ := stuck(t, &sendq.WriterOptions{MaxPending: 1000, Overflow: sendq.DropOldest})
	require.NoError(t, w.Send(make([]byte, 800)))
	require.NoError(t, w.Send([]byte("x")))
	require.EqualValues(t, 1, w.Stats().Dropped)
	s := w.Stats()
	require.EqualValues(t, 36+1, s.PendingBytes)
	require.EqualValues(t, 36+800, s.PeakPendingBytes)
}

// The age of a message does not include that of dropped messages before it.
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
		end  func(w *sendq.Writer, conn *sendqtest.Conn, cancel context.CancelCauseFunc)
		want error
	}{
		"context":  {func(_ *sendq.Writer, _ *sendqtest.Conn, cancel context.CancelCauseFunc) { cancel(errEnough) }, errEnough},
		"CloseNow": {func(w *sendq.Writer, _ *sendqtest.Conn, _ context.CancelCauseFunc) { w.CloseNow() }, net.ErrClosed},
		"Close":    {func(w *sendq.Writer, _ *sendqtest.Conn, _ context.CancelCauseFunc) { go w.Close() }, net.ErrClosed},
		"error":    {func(_ *sendq.Writer, conn *sendqtest.Conn, _ context.CancelCauseFunc) { conn.Close() }, net.ErrClosed},
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

// Giving up is cheap even if many senders wait for room.
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

// A message that fits waits its turn. Otherwise smaller messages would starve blocked senders.
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

// hookContext calls asked in Done.
type hookContext struct {
	context.Context
	asked func()
}

func (c hookContext) Done() <-chan struct{} {
	c.asked()
	return c.Context.Done()
}

// If there is room again while WriteContext asks the Context, WriteContext takes it and wakes the
// flusher, which has left.
func TestRoomComesWhileTheContextIsAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, conn := stuck(t, &sendq.WriterOptions{MaxPending: 550, Overflow: sendq.Block})
		bound, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		ctx := hookContext{bound, func() {
			conn.Release()
			synctest.Wait()
		}}
		require.NoError(t, second(w.WriteContext(ctx, counted(500))))
		require.NoError(t, w.Flush(bound))
	})
}

// When a blocked sender gives up, those after it need not wait for the connection.
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

// The backlog can exceed a 32-bit int, because Send does not copy.
func TestPendingBeyond32Bits(t *testing.T) {
	const size = 1 << 30
	p := make([]byte, size) // never touched, so it takes no memory
	w, _ := stuck(t, nil)
	for i := range int64(3) {
		require.NoError(t, w.Send(p))
		require.Equal(t, (i+1)*size+36, w.Stats().PendingBytes)
	}
	require.NoError(t, w.CloseNow())
	require.Equal(t, int64(3*size+36), w.Stats().UndeliveredBytes)

	// Limits near the largest int hold as well.
	for _, limit := range []int{math.MaxInt, math.MaxInt - 1} {
		for name, opts := range map[string]*sendq.WriterOptions{
			"MaxPending": {MaxPending: limit},
			"Budget":     {Budget: sendq.NewBudget(limit)},
		} {
			t.Run(name+strconv.Itoa(limit), func(t *testing.T) {
				w, _ := stuck(t, opts)
				require.NoError(t, w.Send(p))
				if strconv.IntSize == 32 {
					require.ErrorIs(t, w.Send(p), sendq.ErrSlowConsumer)
				} else {
					require.NoError(t, w.Send(p))
				}
			})
		}
	}
}

// MaxMessages has the policies of MaxPending, for a number of messages.
func TestMaxMessages(t *testing.T) {
	for overflow := sendq.Disconnect; overflow <= sendq.DropOldest; overflow++ {
		t.Run(overflow.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, conn := stuck(t, &sendq.WriterOptions{MaxMessages: 3, Overflow: overflow})
				require.NoError(t, w.Send([]byte("a")))
				require.NoError(t, w.Send([]byte("b")))
				sent := async(func() error { return second(w.WriteString("c")) })
				synctest.Wait()
				want := "ab"
				switch overflow {
				case sendq.Disconnect:
					require.ErrorIs(t, <-sent, sendq.ErrSlowConsumer)
					require.ErrorContains(t, w.Err(), "MaxMessages of 3 exceeded")
					return
				case sendq.Block:
					want = "abc"
				case sendq.DropNewest:
					require.Equal(t, sendq.ErrDropped, <-sent)
				case sendq.DropOldest:
					require.NoError(t, <-sent)
					want = "bc"
				}
				conn.Release()
				require.NoError(t, w.Flush(t.Context()))
				if overflow == sendq.Block {
					require.NoError(t, <-sent)
				}
				require.NoError(t, w.Close())
				require.Equal(t, want, string(conn.Bytes()[36:]))
				assertConserved(t, w.Stats())
			})
		})
	}
}

// With DropOldest a write takes a small part of MaxMessages too, so that not all is in flight.
func TestMaxMessagesLimitsAWrite(t *testing.T) {
	conn := sendqtest.NewConn()
	w := sendq.NewWriter(conn, &sendq.WriterOptions{MaxMessages: 16, Overflow: sendq.DropOldest})
	waiting := conn.Stall()
	for range 16 {
		w.WriteString("x")
	}
	<-waiting
	for range 12 {
		require.NoError(t, second(w.WriteString("y")), "the newest is kept")
	}
	w.CloseNow()
}

// Messages of a takeover and of a replay do not count, as at MaxPending.
func TestMaxMessagesOfATakeover(t *testing.T) {
	b := sendq.NewBroker(&sendq.BrokerOptions{NamePolicy: sendq.NameTakeover})
	opts := &sendq.WriterOptions{MaxMessages: 5}
	old, _ := stuck(t, opts)
	require.NoError(t, b.Register("bob", old))
	for range 4 {
		require.NoError(t, b.Send("bob", []byte("x")))
	}
	w, conn := stuck(t, opts)
	require.NoError(t, b.Register("bob", w))
	require.EqualValues(t, 6, w.Stats().Pending)
	for range 5 {
		require.NoError(t, b.Send("bob", []byte("y")))
	}
	require.ErrorIs(t, b.Send("bob", []byte("y")), sendq.ErrSlowConsumer)
	conn.Release()
}

// A crowd of messages at once, such as a Batch, is accepted as far as there is room.
func TestMaxMessagesOfABatch(t *testing.T) {
	b := sendq.NewBroker(nil)
	w, conn := stuck(t, &sendq.WriterOptions{MaxMessages: 4, Overflow: sendq.DropNewest})
	require.NoError(t, b.Register("bob", w))
	batch := b.NewBatch()
	for range 5 {
		batch.Broadcast([]byte("x"))
	}
	report := batch.Flush()
	require.Equal(t, 3, report.Accepted)
	require.EqualValues(t, 2, w.Stats().Dropped)
	conn.Release()
	require.NoError(t, w.Close())
}
