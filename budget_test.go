package sendq_test

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/sendqtest"
)

func TestBudget(t *testing.T) {
	const limit, writers, stalled = 4 << 20, 200, 20
	warmUp(writers)
	discard := discarded()
	before := heap()
	budget := sendq.NewBudget(limit)
	opts := &sendq.WriterOptions{Budget: budget}
	all := make([]*sendq.Writer, writers)
	for i := range all {
		conn := net.Conn(discard) // records nothing, so it takes no memory
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
			assert.LessOrEqual(t, budget.PendingBytes(), limit)
			if i >= stalled {
				require.NoError(t, w.Flush(t.Context()))
			}
		}
	}
	require.NotZero(t, ended)
	used := heap() - before
	t.Logf("%d Writers ended; %d bytes are pending, and the process uses %d", ended, budget.PendingBytes(), used)
	require.Greater(t, budget.PendingBytes(), limit/2, "stalled Writers are left")
	require.LessOrEqual(t, used, limit*5/4)
	for _, w := range all {
		if w != nil {
			w.CloseNow()
		}
	}
	require.Zero(t, budget.PendingBytes(), "ended Writers take nothing")
}

func TestBudgetTooLarge(t *testing.T) {
	w := sendq.NewWriter(sendqtest.NewConn(), &sendq.WriterOptions{Budget: sendq.NewBudget(1000)})
	require.ErrorIs(t, w.Send(counted(1001)), sendq.ErrTooLarge)
	require.NoError(t, w.Send(counted(1000)))
	require.NoError(t, w.Close())
	require.Panics(t, func() { sendq.NewBudget(0) })
}

// A Writer ends only for a message that is queued, and only if it has the largest backlog.
func TestBudgetSparesTheInnocent(t *testing.T) {
	budget := sendq.NewBudget(10_000)
	bystander, _ := stuck(t, &sendq.WriterOptions{Budget: budget})
	require.NoError(t, bystander.Send(counted(8000)))

	ended := sendq.NewWriter(sendqtest.NewConn(), &sendq.WriterOptions{Budget: budget})
	ended.CloseNow()
	require.ErrorIs(t, ended.Send(counted(5000)), net.ErrClosed)
	full, _ := stuck(t, &sendq.WriterOptions{Budget: budget, MaxPending: 5000, Overflow: sendq.DropNewest})
	require.Equal(t, sendq.ErrDropped, full.Send(counted(5000)))
	require.NoError(t, bystander.Err())

	// The largest backlog ends, however large the new message is.
	idle := sendq.NewWriter(sendqtest.NewConn(), &sendq.WriterOptions{Budget: budget})
	require.NoError(t, idle.Send(counted(9000)))
	<-bystander.Done()
	require.ErrorIs(t, bystander.Err(), sendq.ErrSlowConsumer)
	require.ErrorContains(t, bystander.Err(), "8100")
	require.NoError(t, idle.Close())

	// The receiver of the message may be the one that ends.
	require.NoError(t, full.Send(counted(4000)))
	greedy, _ := stuck(t, &sendq.WriterOptions{Budget: budget})
	require.NoError(t, greedy.Send(counted(5500)))
	require.ErrorIs(t, greedy.Send(counted(1000)), sendq.ErrSlowConsumer)
	<-greedy.Done()
	require.NoError(t, full.Err())
}

// If a Budget with many small backlogs is spent, each message ends one Writer without a search
// through all.
func TestBudgetOfManyWriters(t *testing.T) {
	writers := sized(10_000)
	budget := sendq.NewBudget(writers * 80)
	opts := &sendq.WriterOptions{Budget: budget}
	discard := &sink{open: make(chan struct{})}
	all := make([]*sendq.Writer, 2*writers)
	for i := range all {
		all[i] = sendq.NewWriter(discard, opts)
		require.NoError(t, all[i].Send(counted(80)))
		require.LessOrEqual(t, budget.PendingBytes(), writers*80)
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

// Senders that end each other's Writers do not deadlock, and the sum stays right.
func TestBudgetUnderPressure(t *testing.T) {
	budget := sendq.NewBudget(20_000)
	for _, overflow := range []sendq.Overflow{sendq.Disconnect, sendq.Block, sendq.DropNewest, sendq.DropOldest} {
		var senders sync.WaitGroup
		var all []*sendq.Writer
		for i := range 30 {
			conn := sendqtest.NewConn()
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
						assert.LessOrEqual(t, budget.PendingBytes(), 20_000)
					}
				})
			}
		}
		senders.Wait()
		for _, w := range all {
			w.CloseNow()
			assertConserved(t, w.Stats())
		}
		require.Zero(t, budget.PendingBytes(), overflow)
	}
}

// A large room whose members all read is spared, because the members share one copy of a burst.
// Counted for each member it would be 3 GB.
func TestBudgetSparesACrowd(t *testing.T) {
	const members, lines, limit = 1000, 13_000, 16 << 20
	budget := sendq.NewBudget(limit)
	b := sendq.NewBroker(nil)
	conns := joinStalled(t, b, members, &sendq.WriterOptions{Budget: budget})
	batch := b.NewBatch()
	for range lines {
		batch.PublishFrom("room", "member 0", []byte("from x: y\n"))
	}
	require.Equal(t, (members-1)*lines, batch.Flush().Accepted)
	require.NotZero(t, budget.PendingBytes())
	require.Less(t, budget.PendingBytes(), limit/10)
	release(conns)
	for name := range b.Names() {
		w, _ := b.Lookup(name)
		require.NoError(t, w.Flush(t.Context()))
	}
	require.NoError(t, b.Shutdown(t.Context()))
	require.Zero(t, budget.PendingBytes())
}

// Stalled members share one backlog. The Budget bounds its memory, and ends only them.
func TestBudgetOfStalledMembers(t *testing.T) {
	const members, stalled, size, limit = 60, 20, 12_000, 4 << 20
	budget := sendq.NewBudget(limit)
	b := sendq.NewBroker(nil)
	conns := joinStalled(t, b, members, &sendq.WriterOptions{Budget: budget})
	release(conns[stalled:])
	var reading []*sendq.Writer
	for i := stalled; i < members; i++ {
		w, _ := b.Lookup(fmt.Sprint("member ", i))
		reading = append(reading, w)
	}
	room := b.Room("room")
	publish := func(n int) {
		for range n {
			room.Publish(make([]byte, size))
			for _, w := range reading {
				require.NoError(t, w.Flush(t.Context()))
			}
			require.LessOrEqual(t, budget.PendingBytes(), limit)
		}
	}
	publish(20) // so that all that is allocated once is there
	before, pending := heap(), budget.PendingBytes()
	publish(limit*3/4/size - 20)
	grown, used := budget.PendingBytes()-pending, heap()-before
	t.Logf("%d bytes more are pending, and the process uses %d more", grown, used)
	require.Greater(t, grown, limit/2)
	require.Less(t, used, grown*3/2)
	require.Equal(t, members, room.Len())
	publish(limit / size)
	require.Equal(t, members-stalled, room.Len(), "those that stall are gone, and nobody else")
	require.NoError(t, b.Shutdown(t.Context()))
	require.Zero(t, budget.PendingBytes())
}

// A shared block may be larger than a small Budget. Then each Writer gets its own copy, and no
// Writer ends because of messages for others in the block.
func TestBudgetSmallerThanABlock(t *testing.T) {
	b := sendq.NewBroker(nil)
	room := b.Room("room")
	register(t, b, "large", stalledPeer()) // keeps the room's growing blocks in use
	require.NoError(t, room.Join("large"))
	for range 1000 {
		room.Publish(make([]byte, 1000))
	}
	budget := sendq.NewBudget(10_000)
	conn := stalledPeer()
	w := sendq.NewWriter(conn, &sendq.WriterOptions{Budget: budget})
	require.NoError(t, b.Register("small", w))
	require.NoError(t, room.Join("small"))
	for range 9 {
		require.Equal(t, 2, room.Publish(counted(1000)))
	}
	require.Equal(t, 9000, budget.PendingBytes())
	require.NoError(t, w.Err())
	conn.Release()
	require.NoError(t, w.Close())
	require.Zero(t, budget.PendingBytes())
	_ = b.CloseNow()
}

// joinStalled registers n Writers with stalled peers and lets them join "room".
func joinStalled(t *testing.T, b *sendq.Broker, n int, opts *sendq.WriterOptions) (conns []*sendqtest.Conn) {
	t.Helper()
	room := b.Room("room")
	for i := range n {
		conn := sendqtest.Wrap(discarded())
		conn.Stall()
		name := fmt.Sprint("member ", i)
		require.NoError(t, b.Register(name, sendq.NewWriter(conn, opts)))
		require.NoError(t, room.Join(name))
		conns = append(conns, conn)
	}
	return conns
}

func release(conns []*sendqtest.Conn) {
	for _, conn := range conns {
		conn.Release()
	}
}

// A message of a large part of the Budget is one copy for all.
func TestBudgetOfALargeMessage(t *testing.T) {
	budget := sendq.NewBudget(1 << 20)
	b := sendq.NewBroker(nil)
	conns := joinStalled(t, b, 20, &sendq.WriterOptions{Budget: budget})
	require.Equal(t, 20, b.Room("room").Publish(make([]byte, 300<<10)))
	require.Less(t, budget.PendingBytes(), 310<<10)
	release(conns)
	require.NoError(t, b.Shutdown(t.Context()))
}

// The Writer that keeps the most memory ends, although it has the fewest bytes pending: one short
// message of each of many rooms, and it alone keeps their blocks.
func TestBudgetEndsWhoKeepsTheMost(t *testing.T) {
	budget := sendq.NewBudget(4 << 20)
	opts := &sendq.WriterOptions{Budget: budget}
	b := sendq.NewBroker(nil)
	register(t, b, "other", stalledPeer()) // in no Budget
	stalled := sendq.NewWriter(stalledPeer(), opts)
	require.NoError(t, b.Register("stalled", stalled))
	for i := range 31 {
		room := b.Room(fmt.Sprint("room", i))
		require.NoError(t, room.Join("other"))
		for range 100 {
			room.Publish(make([]byte, 2000))
		}
		require.NoError(t, room.Join("stalled"))
		room.Publish([]byte("hello\n"))
	}
	for range 20 {
		w := sendq.NewWriter(stalledPeer(), opts)
		t.Cleanup(func() { w.CloseNow() })
		for range 3 {
			require.NoError(t, w.Send(make([]byte, 10_000)))
		}
	}
	<-stalled.Done()
	require.ErrorIs(t, stalled.Err(), sendq.ErrSlowConsumer)
	_ = b.CloseNow()
}

// An ending Writer no longer counts, even while its connection is slow to close.
func TestBudgetForgetsWhoEnds(t *testing.T) {
	budget := sendq.NewBudget(10_000)
	conn, releaseClose := stalledClose()
	w := sendq.NewWriter(conn, &sendq.WriterOptions{Budget: budget})
	for w.Err() == nil {
		w.Write(make([]byte, 1000))
	}
	require.ErrorIs(t, w.Err(), sendq.ErrSlowConsumer)
	require.Zero(t, budget.PendingBytes())
	releaseClose()
	<-w.Done()
}

// If the Writer that must make room holds the only reference to a block, the block counts again for
// the next Writer.
func TestBudgetCountsABlockAgain(t *testing.T) {
	const limit = 100_000
	budget := sendq.NewBudget(limit)
	opts := &sendq.WriterOptions{Budget: budget}
	b := sendq.NewBroker(nil)
	room := b.Room("room")
	large, small := sendq.NewWriter(stalledPeer(), opts), sendq.NewWriter(stalledPeer(), opts)
	require.NoError(t, b.Register("large", large))
	require.NoError(t, room.Join("large"))
	room.Publish([]byte("hello\n"))
	shared := budget.PendingBytes()
	require.NoError(t, large.Send(counted(limit-2*shared-10)))
	require.NoError(t, b.Register("small", small))
	other := b.Room("other")
	require.NoError(t, other.Join("large"))
	require.NoError(t, other.Join("small"))
	require.Equal(t, 2, other.Publish([]byte("hello\n")))
	<-large.Done()
	require.ErrorIs(t, large.Err(), sendq.ErrSlowConsumer)
	require.NoError(t, small.Err())
	require.Equal(t, shared, budget.PendingBytes())
	_ = b.CloseNow()
	require.Zero(t, budget.PendingBytes())
}
