package sendq_test

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/sendqtest"
)

// An urgent message goes before all that wait, behind what is begun, in order among its kind.
func TestWriteUrgent(t *testing.T) {
	w, conn := stuck(t, nil)
	w.WriteString("a")
	w.WriteString("b")
	require.Equal(t, 1, first(w.WriteUrgent([]byte("1"))))
	w.WriteString("c")
	p := []byte("2")
	require.NoError(t, second(w.WriteUrgent(p)))
	clear(p) // it is the caller's again
	conn.Release()
	require.NoError(t, w.Close())
	require.Equal(t, "12abc", string(conn.Bytes()[36:]))
	assertConserved(t, w.Stats())
	require.EqualValues(t, 6, w.Stats().Written)
	require.ErrorIs(t, second(w.WriteUrgent(nil)), net.ErrClosed)
}

// A message that takes several writes is finished first.
func TestWriteUrgentBehindALongMessage(t *testing.T) {
	conn := sendqtest.NewConn()
	waiting := conn.Stall()
	w := sendq.NewWriter(conn, &sendq.WriterOptions{WriteTimeout: time.Hour}) // writes of 4 KiB
	long := strings.Repeat("a", 10_000)
	w.WriteString(long)
	w.WriteString("b")
	<-waiting
	require.NoError(t, second(w.WriteUrgent([]byte("1"))))
	conn.Release()
	require.NoError(t, w.Close())
	require.Equal(t, long+"1b", string(conn.Bytes()))
}

// At most 4 KiB of urgent messages are pending, so they cannot starve the others.
func TestWriteUrgentIsBounded(t *testing.T) {
	w, conn := stuck(t, nil)
	require.ErrorIs(t, second(w.WriteUrgent(counted(4097))), sendq.ErrTooLarge)
	for range 4 {
		require.NoError(t, second(w.WriteUrgent(counted(1000))))
	}
	require.ErrorIs(t, second(w.WriteUrgent(counted(97))), sendq.ErrWouldBlock)
	require.NoError(t, second(w.WriteUrgent(counted(96))))
	require.EqualValues(t, 6, w.Stats().Accepted)
	conn.Release()
	require.NoError(t, w.Flush(t.Context()))
	require.NoError(t, second(w.WriteUrgent(counted(4096))))
}

// Neither MaxPending nor a policy nor senders that wait for room concern an urgent message.
func TestWriteUrgentIsNotLimited(t *testing.T) {
	for overflow := sendq.Disconnect; overflow <= sendq.DropOldest; overflow++ {
		t.Run(overflow.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, conn := stuck(t, &sendq.WriterOptions{MaxPending: 300, MaxMessages: 2, Overflow: overflow})
				require.NoError(t, w.Send([]byte("a")))
				if overflow == sendq.Block {
					go w.WriteString("c")
					synctest.Wait()
				}
				require.NoError(t, second(w.WriteUrgent([]byte("1"))))
				if overflow == sendq.DropOldest {
					for range 10 {
						w.WriteString("b") // drops "a" and then "b", but not "1"
					}
				}
				conn.Release()
				require.NoError(t, w.Flush(t.Context()))
				require.NoError(t, w.Close())
				require.True(t, strings.HasPrefix(string(conn.Bytes()[36:]), "1"))
			})
		})
	}
}

// Flush waits for the messages before it, although an urgent one is written before them.
func TestFlushAndUrgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, peer := overPipe(t, nil)
		w.WriteString("a")
		synctest.Wait()
		w.WriteString("b")
		flushed := async(func() error { return w.Flush(t.Context()) })
		synctest.Wait()
		require.NoError(t, second(w.WriteUrgent([]byte("1"))))
		w.WriteString("c")
		requireTake(t, peer, "a1")
		synctest.Wait()
		require.Empty(t, flushed)
		requireTake(t, peer, "b")
		require.NoError(t, <-flushed)
		w.CloseNow()
	})
}

// An urgent message does not change how long the others have waited.
func TestAgeAndUrgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, peer := overPipe(t, &sendq.WriterOptions{MessageFramed: true}) // a write for each
		w.WriteString("a")
		synctest.Wait()
		w.WriteString("b")
		time.Sleep(2 * time.Millisecond)
		w.Stats() // takes a sample
		time.Sleep(time.Minute)
		w.WriteUrgent([]byte("1"))
		requireTake(t, peer, "a1")
		synctest.Wait()
		require.Equal(t, time.Minute, w.Stats().OldestPending)
		w.CloseNow()
	})
}

// An urgent message is not as old as the messages that it went before, also when these are dropped.
func TestAgeOfUrgentAfterDrops(t *testing.T) {
	for _, stats := range []bool{false, true} { // a call of Stats makes another mark
		synctest.Test(t, func(t *testing.T) {
			const maxAge = 10 * time.Second
			w, conn := stuck(t, &sendq.WriterOptions{MaxAge: maxAge, MaxMessages: 8, Overflow: sendq.DropOldest})
			inFlight := int(w.Stats().PendingBytes)
			for range 7 {
				require.NoError(t, second(w.WriteString("old")))
			}
			time.Sleep(8 * time.Second)
			if stats {
				w.Stats()
			}
			require.NoError(t, second(w.WriteUrgent([]byte("urgent"))))
			began := time.Now()
			for range 10 {
				require.NoError(t, second(w.WriteString("new")))
			}
			require.EqualValues(t, 8*time.Second, w.Stats().OldestPending, "of the message in flight")
			conn.Take(inFlight)
			synctest.Wait()
			require.Zero(t, w.Stats().OldestPending)
			<-w.Done()
			require.GreaterOrEqual(t, time.Since(began), maxAge)
			require.LessOrEqual(t, time.Since(began), maxAge*4/3)
		})
	}
}

// An urgent message on a message-framed connection is a Write.
func TestUrgentIsFramed(t *testing.T) {
	conn := sendqtest.NewConn()
	waiting := conn.Stall()
	w := sendq.NewWriter(conn, &sendq.WriterOptions{MessageFramed: true})
	w.WriteString("long")
	<-waiting
	w.WriteString("a")
	w.WriteUrgent([]byte("12"))
	conn.Release()
	require.NoError(t, w.Close())
	require.Equal(t, []int{4, 2, 1}, conn.Sizes())
}

// In a takeover, urgent messages to the new Writer go before those of the old one, which are
// never dropped either.
func TestUrgentAndTakeover(t *testing.T) {
	for name, opts := range map[string]sendq.WriterOptions{
		"plain":        {},
		"small Budget": {Budget: sendq.NewBudget(2000)}, // it copies what was shared
	} {
		t.Run(name, func(t *testing.T) {
			opts.Overflow, opts.MaxMessages = sendq.DropOldest, 6
			b := sendq.NewBroker(&sendq.BrokerOptions{NamePolicy: sendq.NameTakeover})
			old, _ := stuck(t, nil)
			require.NoError(t, b.Register("bob", old))
			require.Equal(t, 1, b.Broadcast([]byte("a"))) // in a block of several messages
			require.NoError(t, second(old.WriteAlways([]byte("A"))))
			require.NoError(t, second(old.WriteUrgent([]byte("1"))))
			w, conn := stuck(t, &opts)
			require.NoError(t, second(w.WriteUrgent([]byte("2"))))
			require.NoError(t, b.Register("bob", w))
			require.NoError(t, second(w.WriteUrgent([]byte("3"))))
			for range 10 {
				w.WriteString("b")
			}
			conn.Release()
			require.NoError(t, w.Close())
			require.Equal(t, "23A", strings.ReplaceAll(string(conn.Bytes()[36:]), "\x00", "")[:3])
		})
	}
}

// An urgent message does not count as one that a takeover gave.
func TestUrgentBeforeATakeoversMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := sendq.NewBroker(&sendq.BrokerOptions{NamePolicy: sendq.NameTakeover})
		old, _ := stuck(t, nil)
		require.NoError(t, b.Register("bob", old))
		require.NoError(t, old.Send(counted(300)))
		w, peer := overPipe(t, &sendq.WriterOptions{MaxPending: 200, MessageFramed: true})
		w.WriteString("a")
		synctest.Wait()
		require.NoError(t, b.Register("bob", w))
		require.NoError(t, second(w.WriteUrgent([]byte("1"))))
		requireTake(t, peer, "a1")
		synctest.Wait()
		require.NoError(t, w.Send(counted(200)))
		w.CloseNow()
	})
}

// WriteAlways has 4 KiB of room more than other messages.
func TestWriteAlways(t *testing.T) {
	for overflow := sendq.Disconnect; overflow <= sendq.DropOldest; overflow++ {
		t.Run(overflow.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, conn := stuck(t, &sendq.WriterOptions{MaxPending: 1000, MaxMessages: 4, Overflow: overflow})
				for range 3 {
					require.NoError(t, w.Send(counted(300)))
				}
				for range 4 {
					require.NoError(t, second(w.WriteAlways(counted(1024))))
				}
				sent := async(func() error { return second(w.WriteAlways([]byte("x"))) })
				synctest.Wait()
				stats := w.Stats()
				assertConserved(t, stats)
				switch overflow {
				case sendq.Block:
					require.EqualValues(t, 8, stats.Pending)
					conn.Release()
					require.NoError(t, <-sent)
				case sendq.DropOldest:
					require.NoError(t, <-sent, "a message of data is dropped for it")
					require.EqualValues(t, 1, stats.Dropped)
				default:
					require.ErrorIs(t, <-sent, sendq.ErrSlowConsumer)
					<-w.Done()
				}
			})
		})
	}
}

// WriteAlways has room for 64 messages more than MaxMessages.
func TestWriteAlwaysBeyondMaxMessages(t *testing.T) {
	w, _ := stuck(t, &sendq.WriterOptions{MaxMessages: 1, Overflow: sendq.DropNewest})
	require.Equal(t, sendq.ErrDropped, second(w.Write(nil)))
	for range 64 {
		require.NoError(t, second(w.WriteAlways(nil)))
	}
	require.ErrorIs(t, second(w.WriteAlways(nil)), sendq.ErrSlowConsumer)
	require.ErrorContains(t, w.Err(), "MaxMessages of 1 exceeded: 65 pending")

	w, _ = stuck(t, &sendq.WriterOptions{MaxPending: 200})
	require.NoError(t, second(w.WriteAlways(counted(4000))))
	require.ErrorIs(t, second(w.WriteAlways(counted(300))), sendq.ErrSlowConsumer)
	require.ErrorContains(t, w.Err(), "MaxPending of 200 bytes exceeded: 4100 pending, 300 more")
}

func TestWriteAlwaysTooLarge(t *testing.T) {
	w, _ := stuck(t, &sendq.WriterOptions{MaxPending: 1000})
	require.ErrorIs(t, second(w.WriteAlways(counted(1000+4096+1))), sendq.ErrTooLarge)
	require.NoError(t, second(w.WriteAlways(counted(1000+4096-100))))
}

// DropOldest drops messages around those of WriteAlways, which stay in order.
func TestDropOldestKeepsAlways(t *testing.T) {
	w, conn := stuck(t, &sendq.WriterOptions{MaxPending: 1000, Overflow: sendq.DropOldest})
	var want []string
	for i := range 100 {
		if i%10 == 0 {
			require.NoError(t, second(w.WriteAlways(fmt.Appendf(nil, "A%d ", i))))
			want = append(want, fmt.Sprintf("A%d", i))
		} else {
			require.NoError(t, second(w.Write(fmt.Appendf(nil, "%d ", i))))
		}
	}
	conn.Release()
	require.NoError(t, w.Close())
	got := strings.Fields(string(conn.Bytes()[36:]))
	last := slices.DeleteFunc(slices.Clone(got), func(s string) bool { return s[0] == 'A' })
	require.Equal(t, []string{"97", "98", "99"}, last[len(last)-3:])
	require.Equal(t, want, slices.DeleteFunc(got, func(s string) bool { return s[0] != 'A' }))
	assertConserved(t, w.Stats())
}

// If the messages of WriteAlways leave no room, none is dropped in vain.
func TestDropOldestDropsNotInVain(t *testing.T) {
	w, _ := stuck(t, &sendq.WriterOptions{MaxPending: 1000, Overflow: sendq.DropOldest})
	require.NoError(t, w.Send(counted(300)))
	require.NoError(t, second(w.WriteAlways(counted(300))))
	require.Equal(t, sendq.ErrDropped, w.Send(counted(700)))
	require.EqualValues(t, 3, w.Stats().Pending)
	require.EqualValues(t, 1, w.Stats().Dropped)
}

// With Block, messages of WriteAlways that wait are accepted before others, and in turn.
func TestWriteAlwaysWaitsFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, conn := stuck(t, &sendq.WriterOptions{MaxPending: 100, Overflow: sendq.Block})
		go w.WriteString("a")
		synctest.Wait()
		require.NoError(t, second(w.WriteAlways(counted(4000))), "the sender that waits does not hold it up")
		for _, p := range []string{strings.Repeat("B", 200), "C"} {
			go w.WriteAlways([]byte(p))
			synctest.Wait()
		}
		go w.WriteString("d")
		synctest.Wait()
		require.EqualValues(t, 2, w.Stats().Accepted, "C does not overtake B")
		conn.Release()
		synctest.Wait()
		require.NoError(t, w.Close())
		require.Equal(t, strings.Repeat("B", 200)+"Cad", string(conn.Bytes()[36+4000-64:]))
	})
}
