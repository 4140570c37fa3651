package sendq_test

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
)

// A ticker of prices: a client that has not read for a while gets the present ones, and no backlog.
func ExampleWriter_WriteLatest() {
	conn, peer := net.Pipe()
	w := sendq.NewWriter(conn, &sendq.WriterOptions{HighMark: 100})
	defer w.CloseNow()

	for price := range 1000 {
		w.WriteLatest("apples", fmt.Appendf(nil, "apples %d\n", price))
		w.WriteLatest("pears", fmt.Appendf(nil, "pears %d\n", price+1000))
	}
	s := w.Stats()
	fmt.Println("dropped most of them:", s.Dropped > 1900)

	received := make([]byte, s.PendingBytes)
	for n := 0; n < len(received); {
		m, _ := peer.Read(received[n:])
		n += m
	}
	lines := strings.Split(strings.TrimSpace(string(received)), "\n")
	slices.Sort(lines[len(lines)-2:])
	fmt.Println(lines[len(lines)-2:])
	// Output:
	// dropped most of them: true
	// [apples 999 pears 1999]
}

// A room of positions: members that keep up see every step, and slow ones where everybody is now.
func ExampleRoom_PublishLatest() {
	broker := sendq.NewBroker(nil)
	conn, peer := dialed()
	defer peer.Close()
	broker.Register("ann", sendq.NewWriter(conn, &sendq.WriterOptions{HighMark: 64 << 10}))
	map1 := broker.Room("map 1")
	map1.Join("ann")

	fmt.Println(map1.PublishLatest("bob", []byte("bob is at 3,7\n")))
	broker.Close()
	// Output: 1
}

// slowWriter returns a Writer whose peer reads nothing before the returned function is called: it
// then reads everything until the Writer ends. "0" is being written, and "1" makes it slow.
func slowWriter(t *testing.T, opts sendq.WriterOptions) (*sendq.Writer, func() string) {
	opts.HighMark, opts.LowMark = 65, 1
	w, peer := overPipe(t, &opts)
	require.NoError(t, second(w.WriteString("0")))
	synctest.Wait()
	require.NoError(t, second(w.WriteString("1")))
	return w, func() string {
		arrived := async(func() content { return readAll(peer) })
		require.NoError(t, w.Close())
		return (<-arrived).bytes
	}
}

func latest(t *testing.T, w *sendq.Writer, words string) {
	t.Helper()
	for word := range strings.FieldsSeq(words) {
		require.NoError(t, second(w.WriteLatest(word[:1], []byte(word))), word)
	}
}

func TestWriteLatest(t *testing.T) {
	for name, tt := range map[string]struct {
		send func(t *testing.T, w *sendq.Writer)
		want string
		sendq.WriterStats
	}{
		"the newest of each key": {
			func(t *testing.T, w *sendq.Writer) { latest(t, w, "a1 b1 a2 c1 b2 a3") },
			"01a3b2c1",
			sendq.WriterStats{Accepted: 8, AcceptedBytes: 14, Dropped: 3, DroppedBytes: 6, Pending: 5, PendingBytes: 8},
		},
		"others go before": {
			func(t *testing.T, w *sendq.Writer) { latest(t, w, "a1"); w.WriteString("2"); latest(t, w, "a2") },
			"012a2",
			sendq.WriterStats{Accepted: 5, AcceptedBytes: 7, Dropped: 1, DroppedBytes: 2, Pending: 4, PendingBytes: 5},
		},
		"Flush queues them": {
			func(t *testing.T, w *sendq.Writer) {
				latest(t, w, "a1 b1")
				ctx, cancel := context.WithCancel(t.Context())
				cancel()
				require.ErrorContains(t, w.Flush(ctx), "4 messages (6 bytes)")
				w.WriteString("2")
				latest(t, w, "a2 a3")
			},
			"01a1b12a3",
			sendq.WriterStats{Accepted: 7, AcceptedBytes: 11, Dropped: 1, DroppedBytes: 2, Pending: 6, PendingBytes: 9},
		},
		"CloseWith comes last": {
			func(t *testing.T, w *sendq.Writer) { latest(t, w, "a1"); require.NoError(t, w.CloseWith([]byte("9"))) },
			"01a19",
			sendq.WriterStats{Accepted: 4, AcceptedBytes: 5, Pending: 4, PendingBytes: 5},
		},
		"OnFlushed queues them": {
			func(t *testing.T, w *sendq.Writer) {
				latest(t, w, "a1")
				w.OnFlushed(func(error) {})
				w.WriteString("2")
			},
			"01a12",
			sendq.WriterStats{Accepted: 4, AcceptedBytes: 5, Pending: 4, PendingBytes: 5},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				budget := sendq.NewBudget(1 << 20)
				w, read := slowWriter(t, sendq.WriterOptions{Budget: budget})
				tt.send(t, w)
				s := w.Stats()
				tt.PeakPendingBytes = s.PeakPendingBytes
				require.Equal(t, tt.WriterStats, s)
				require.EqualValues(t, s.PendingBytes+64*s.Pending, budget.PendingBytes())
				require.Equal(t, tt.want, read())
				require.Zero(t, budget.PendingBytes())
			})
		})
	}

	t.Run("between the marks", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var told []bool
			w, peer := overPipe(t, &sendq.WriterOptions{MessageFramed: true, HighMark: 3 * 66, LowMark: 66,
				OnPressure: func(_ *sendq.Writer, slow bool) { told = append(told, slow) }})
			latest(t, w, "a1 b1 c1 d1")
			latest(t, w, "a2 b2 c2 d2 a3")
			requireTake(t, peer, "a1b1")
			synctest.Wait()
			latest(t, w, "b3")
			requireTake(t, peer, "c1") // one is pending, so two are queued
			synctest.Wait()
			latest(t, w, "a4 d3")
			requireTake(t, peer, "d1a3b3")
			synctest.Wait()
			require.Equal(t, []bool{true}, told, "stale ones are left")
			requireTake(t, peer, "c2d3")
			synctest.Wait()
			require.Equal(t, []bool{true, false}, told)
			requireTake(t, peer, "a4")
			require.NoError(t, w.Close())
		})
	})

	t.Run("large and of any size", func(t *testing.T) {
		over(t, transports, func(t *testing.T, conn, peer net.Conn) {
			w := sendq.NewWriter(conn, &sendq.WriterOptions{HighMark: 10_000, Budget: sendq.NewBudget(10 << 20)})
			arrived := async(func() content { return readAll(peer) })
			const keys = 7
			last := make([]string, keys)
			for i := range 300 {
				p := fmt.Appendf(nil, "[%d %s]", i, letters(i*i%20_000))
				last[i%keys] = string(p)
				require.NoError(t, second(w.WriteLatest(fmt.Sprint(i%keys), p)))
				clear(p)
			}
			require.NoError(t, w.Close())
			got := (<-arrived).bytes
			for _, p := range last {
				require.Equal(t, 1, strings.Count(got, p))
			}
		})
	})

	t.Run("without a mark", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			for _, opts := range []*sendq.WriterOptions{nil, {MaxPending: 1 << 20}} {
				w, peer := overPipe(t, opts)
				latest(t, w, "a1 a2 a3")
				requireTake(t, peer, "a1a2a3")
				require.NoError(t, w.Close())
			}
		})
	})
}

func TestWriteLatestAtTheLimits(t *testing.T) {
	room := func(overflow sendq.Overflow) sendq.WriterOptions {
		return sendq.WriterOptions{MaxPending: 4 * 66, Overflow: overflow}
	}
	t.Run("Disconnect", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, _ := slowWriter(t, room(sendq.Disconnect))
			latest(t, w, "a1 b1 a2 b2")
			require.ErrorIs(t, second(w.WriteLatest("c", []byte("c1"))), sendq.ErrSlowConsumer)
			<-w.Done()
			requireMessages(t, [][]byte{[]byte("0"), []byte("1"), []byte("a2"), []byte("b2")}, w.Undelivered())
			s := w.Stats()
			assertConserved(t, s)
			require.EqualValues(t, 6, s.UndeliveredBytes)
			require.ErrorIs(t, second(w.WriteLatest("a", nil)), net.ErrClosed)
		})
	})

	t.Run("Block", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			opts := room(sendq.Block)
			opts.MaxPending, opts.HighMark, opts.LowMark = 400, 65, 1
			w, peer := overPipe(t, &opts)
			w.WriteString("0")
			synctest.Wait()
			w.WriteString("1")
			latest(t, w, "a1 b1 a2")
			long := string(letters(200))
			sent := async(func() error { return second(w.WriteLatest("a", []byte(long))) })
			synctest.Wait()
			next := async(func() error { return second(w.WriteLatest("c", []byte("c1"))) })
			synctest.Wait()
			require.Empty(t, sent)
			require.Empty(t, next, "it does not overtake who waits")
			requireTake(t, peer, "01a2b1"+long+"c1")
			require.NoError(t, <-sent)
			require.NoError(t, <-next)
			require.NoError(t, w.Close())
		})
	})

	t.Run("DropNewest", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, read := slowWriter(t, room(sendq.DropNewest))
			latest(t, w, "a1 b1 a2")
			require.ErrorIs(t, second(w.WriteLatest("c", []byte("c1"))), sendq.ErrDropped)
			require.ErrorIs(t, second(w.WriteString("2")), sendq.ErrDropped)
			require.ErrorIs(t, second(w.WriteLatest("a", make([]byte, 1000))), sendq.ErrTooLarge)
			require.Equal(t, "01a2b1", read())
		})
	})

	t.Run("DropOldest", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w, read := slowWriter(t, room(sendq.DropOldest))
			latest(t, w, "a1 b1 a2 c1 b2 b3")
			require.Equal(t, "0c1b2b3", read(), "it has dropped 1, a1, a2 and b1")
		})
	})
}

// A message that the Budget refuses has replaced the one before all the same.
func TestWriteLatestBeyondTheBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := slowWriter(t, sendq.WriterOptions{Budget: sendq.NewBudget(1000)})
		latest(t, w, "a1")
		require.ErrorIs(t, second(w.WriteLatest("a", make([]byte, 900))), sendq.ErrSlowConsumer)
		<-w.Done()
		requireMessages(t, [][]byte{[]byte("0"), []byte("1")}, w.Undelivered())
		s := w.Stats()
		assertConserved(t, s)
		require.EqualValues(t, 1, s.Dropped)
	})
}

// A room keeps one copy for all its slow members.
func TestPublishLatest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 10_000
		b := sendq.NewBroker(&sendq.BrokerOptions{ReplayMessages: 2})
		budget := sendq.NewBudget(1 << 30)
		room := b.Room("room")
		fast, peer := overPipe(t, nil)
		require.NoError(t, b.Register("fast", fast))
		require.NoError(t, room.Join("fast"))
		var slow []func() string
		for i := range 10 {
			w, read := slowWriter(t, sendq.WriterOptions{Budget: budget})
			require.NoError(t, b.Register(memberName(i), w))
			require.NoError(t, room.Join(memberName(i)))
			slow = append(slow, read)
		}
		before := budget.PendingBytes()
		for i := range 100 {
			p := []byte(strings.Repeat(string(rune('a'+i%3)), size))
			require.Equal(t, 11, room.PublishLatest(string(p[:1]), p))
			take(t, peer, size)
		}
		require.Equal(t, 3*(size+10*64), budget.PendingBytes()-before)
		want := strings.Repeat("a", size) + strings.Repeat("b", size) + strings.Repeat("c", size)
		for _, read := range slow {
			require.Equal(t, "01"+want, read())
		}
		require.Zero(t, budget.PendingBytes())
		late, _ := overPipe(t, nil)
		require.NoError(t, b.Register("late", late))
		replayed, err := room.JoinReplay("late", 10)
		require.NoError(t, err)
		require.Equal(t, 2, replayed, "they are kept as any other")
		b.CloseNow()
	})
}

// With NameAttach, every Writer of the name conflates.
func TestPublishLatestToManyWritersOfAName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := sendq.NewBroker(&sendq.BrokerOptions{NamePolicy: sendq.NameAttach})
		var slow []func() string
		for range 2 {
			w, read := slowWriter(t, sendq.WriterOptions{})
			require.NoError(t, b.Register("name", w))
			slow = append(slow, read)
		}
		room := b.Room("room")
		require.NoError(t, room.Join("name"))
		for _, p := range []string{"a1", "b1", "a2"} {
			require.Equal(t, 1, room.PublishLatest(p[:1], []byte(p)))
		}
		for _, read := range slow {
			require.Equal(t, "01a2b1", read())
		}
	})
}

// A shorter message instead of a kept one is what WaitPending waits for, although nothing is written.
func TestWaitPendingForAShorterMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := slowWriter(t, sendq.WriterOptions{})
		require.NoError(t, second(w.WriteLatest("a", letters(1000))))
		waited := async(func() error { return w.WaitPending(t.Context(), 100) })
		synctest.Wait()
		require.Empty(t, waited)
		latest(t, w, "a1")
		synctest.Wait()
		require.NotEmpty(t, waited)
		require.NoError(t, <-waited)
		w.CloseNow()
	})
}

// After a takeover the new Writer writes what the old one kept.
func TestTakeoverOfStaleMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := sendq.NewBroker(&sendq.BrokerOptions{NamePolicy: sendq.NameTakeover})
		old, _ := slowWriter(t, sendq.WriterOptions{})
		require.NoError(t, b.Register("name", old))
		latest(t, old, "a1 b1 a2")
		next, peer := overPipe(t, nil)
		require.NoError(t, b.Register("name", next))
		requireTake(t, peer, "01a2b1")
		require.NoError(t, next.Close())
	})
}
