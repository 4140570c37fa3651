package sendq_test

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/sendqtest"
)

// MaxPending does not apply to inherited messages, because they were accepted before.
func TestTakeoverMaxPending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, returned := newBroker(sendq.NameTakeover)
		old := register(t, b, "bob", stalledPeer())
		require.NoError(t, b.Room("room").Join("bob"))
		left := sendInAllWays(t, b, "old")
		w, peer := overPipe(t, &sendq.WriterOptions{MaxPending: 1000, Overflow: sendq.DropNewest})
		require.NoError(t, b.Register("bob", w))
		requireTakenOver(t, old, left)
		require.ErrorIs(t, b.Send("bob", []byte("too much\n")), sendq.ErrDropped)
		requireTake(t, peer, strings.Join(left, ""))
		require.NoError(t, w.Flush(t.Context()))
		require.NoError(t, b.Send("bob", []byte("room again\n")))
		requireTake(t, peer, "room again\n")
		s := w.Stats()
		assertConserved(t, s)
		require.EqualValues(t, 1, s.Dropped)
		require.Empty(t, returned.all())
	})
}

// After a takeover MaxPending applies only to later messages: the backlog of the name does not make
// the next message end the new Writer.
func TestTakeoverBeyondMaxPending(t *testing.T) {
	b, returned := newBroker(sendq.NameTakeover)
	register(t, b, "bob", stalledPeer())
	left := slices.Repeat([]string{strings.Repeat("x", 99) + "\n"}, 100)
	for _, line := range left {
		require.NoError(t, b.Send("bob", []byte(line)))
	}
	conn := stalledPeer()
	w := sendq.NewWriter(conn, &sendq.WriterOptions{MaxPending: 1000})
	require.NoError(t, b.Register("bob", w))
	require.NoError(t, b.Send("bob", counted(600)))
	require.NoError(t, w.Err())
	require.ErrorIs(t, b.Send("bob", counted(600)), sendq.ErrSlowConsumer)
	<-w.Done()
	require.Len(t, slices.Collect(w.Undelivered()), len(left)+1)
	require.NoError(t, b.Shutdown(t.Context()))
	require.Len(t, returned.all(), 1)
}

// Inherited messages never count at MaxPending, even after the message in front of them was
// written.
func TestTakeoverBehindAMessageAndMaxPending(t *testing.T) {
	inTakeoverWith(t, &sendq.WriterOptions{MaxPending: 1000}, func(t *testing.T, tk takeover) {
		require.NoError(t, tk.w.Send(make([]byte, 500)))
		synctest.Wait()
		tk.begin()
		tk.end()
		take(t, tk.peer, 500)
		synctest.Wait()
		require.NoError(t, tk.w.Send(counted(1000)))
		require.NoError(t, tk.w.CloseNow())
	})
}

// A sender that waits for room at the new Writer also waits for the inherited messages.
func TestTakeoverBlock(t *testing.T) {
	inTakeoverWith(t, &sendq.WriterOptions{MaxPending: 100, Overflow: sendq.Block}, func(t *testing.T, tk takeover) {
		tk.w.WriteString("begun\n")
		blocked := async(func() error { return second(tk.w.WriteString("blocked\n")) })
		synctest.Wait()
		tk.begin()
		tk.end()
		requireTake(t, tk.peer, "begun\n")
		requireTake(t, tk.peer, "old 0\nold 1") // not the whole of both
		synctest.Wait()
		require.Empty(t, blocked)
		requireTake(t, tk.peer, "\n")
		require.NoError(t, <-blocked)
		requireReceived(t, tk, "blocked\n")
	})
}

// Inherited messages count in the Budget of the new Writer. This may end the new Writer or another
// one.
func TestTakeoverBudget(t *testing.T) {
	for _, tt := range []struct {
		name            string
		backlog         int // of another Writer, in messages; 10 are inherited
		limit           int // of the Budget
		ends, endsOther bool
	}{
		{"suffices", 5, 15, false, false},
		{"is spent on another", 12, 21, false, true},
		{"is too small", 5, 9, true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				message := counted(100)
				budget := sendq.NewBudget(100 * tt.limit)
				b, returned := newBroker(sendq.NameTakeover)
				other, _ := overPipe(t, &sendq.WriterOptions{Budget: budget})
				for range tt.backlog {
					require.NoError(t, other.Send(message))
				}
				old := register(t, b, "bob", stalledPeer())
				for range 10 {
					require.NoError(t, b.Send("bob", message))
				}
				w, peer := overPipe(t, &sendq.WriterOptions{Budget: budget})
				require.NoError(t, b.Register("bob", w))
				requireTakenOver(t, old, slices.Repeat([]string{string(message)}, 10))
				synctest.Wait()
				require.Equal(t, tt.endsOther, hasEnded(other))
				require.Equal(t, tt.ends, hasEnded(w))
				assertConserved(t, w.Stats())
				if tt.ends {
					require.ErrorIs(t, w.Err(), sendq.ErrSlowConsumer)
					require.Equal(t, []handBack{{"bob", slices.Repeat([]string{string(message)}, 10), w.Err()}}, returned.all())
					return
				}
				other.CloseNow()
				require.Equal(t, 1000, budget.PendingBytes())
				take(t, peer, 10*len(message))
				require.NoError(t, w.Close())
				require.Zero(t, budget.PendingBytes())
				require.Empty(t, returned.all())
			})
		})
	}
}

// If the Budget of the new Writer cannot hold the inherited messages, the new Writer ends, whatever
// other Writers in the Budget share with the old one.
func TestTakeoverThatABudgetCannotHold(t *testing.T) {
	budget := sendq.NewBudget(1 << 20)
	b, returned := newBroker(sendq.NameTakeover)
	register(t, b, "old", stalledPeer()) // in no Budget
	other := sendq.NewWriter(stalledPeer(), &sendq.WriterOptions{Budget: budget})
	require.NoError(t, b.Register("other", other))
	room := b.Room("room")
	require.NoError(t, room.Join("old"))
	require.NoError(t, room.Join("other"))
	for range 50 {
		room.Publish(make([]byte, 16000))
	}
	require.NoError(t, b.Send("old", make([]byte, 600<<10)))
	w := sendq.NewWriter(stalledPeer(), &sendq.WriterOptions{Budget: budget})
	require.NoError(t, b.Register("old", w))
	<-w.Done()
	require.ErrorIs(t, w.Err(), sendq.ErrSlowConsumer)
	_ = b.CloseNow()
	require.Zero(t, budget.PendingBytes())
	require.NotEmpty(t, returned.all())
}

// If the Budget is smaller than a shared block, a takeover copies the messages out of the block.
func TestTakeoverIntoASmallBudget(t *testing.T) {
	b, _ := newBroker(sendq.NameTakeover)
	register(t, b, "bob", stalledPeer())
	register(t, b, "keeper", stalledPeer())
	room := b.Room("room")
	require.NoError(t, room.Join("keeper"))
	for range 100 {
		room.Publish(make([]byte, 2000))
	}
	require.NoError(t, room.Join("bob"))
	room.Publish([]byte("hello\n"))
	budget := sendq.NewBudget(100_000)
	w := sendq.NewWriter(stalledPeer(), &sendq.WriterOptions{Budget: budget})
	require.NoError(t, b.Register("bob", w))
	require.NoError(t, w.Err())
	require.Equal(t, 6+64, budget.PendingBytes())
	_ = b.CloseNow()
}

// While a takeover waits for the old Writer's connection to close, the pending messages of the new
// Writer age.
func TestMaxAgeDuringTakeover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const maxAge = 8 * time.Second
		b := sendq.NewBroker(&sendq.BrokerOptions{NamePolicy: sendq.NameTakeover})
		conn := hooked(sendqtest.NewConn())
		closed := make(chan struct{})
		conn.Enter = func(method string) {
			if method == "Close" {
				<-closed
			}
		}
		require.NoError(t, b.Register("name", sendq.NewWriter(conn, nil)))
		w := sendq.NewWriter(sendqtest.NewConn(), &sendq.WriterOptions{MaxAge: maxAge})
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

// Inherited messages age too, even if the Writer never accepted one itself.
func TestMaxAgeOfWhatIsInherited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const maxAge = 8 * time.Second
		b := sendq.NewBroker(&sendq.BrokerOptions{NamePolicy: sendq.NameTakeover})
		old, _ := stuck(t, nil)
		require.NoError(t, b.Register("name", old))
		conn := sendqtest.NewConn()
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

// While a takeover holds a Writer, nothing is written, and WriteTimeout does not run.
func TestWriteTimeoutDoesNotCountWhileHeld(t *testing.T) {
	inTakeoverWith(t, &sendq.WriterOptions{WriteTimeout: time.Second}, func(t *testing.T, tk takeover) {
		tk.w.WriteString("before\n")
		synctest.Wait()
		requireTake(t, tk.peer, "before\n")
		tk.begin()
		tk.w.WriteString("later\n")
		time.Sleep(time.Minute)
		synctest.Wait()
		require.NoError(t, tk.w.Err())
		tk.end()
		requireReceived(t, tk, "old 0\n", "old 1\n", "later\n")
	})
}
