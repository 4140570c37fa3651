package sendq_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/internal/faultconn"
)

// A crowd that reads as fast as it can is not ended because one of it says much at once: the
// members share one copy of it. By the measure of each backlog alone it is 3 GB.
func TestBudgetSparesACrowd(t *testing.T) {
	const members, lines, limit = 1000, 13_000, 16 << 20
	budget := sendq.NewBudget(limit)
	b := sendq.NewBroker(nil)
	conns := joinCrowd(t, b, members, &sendq.WriterOptions{Budget: budget})
	batch := b.NewBatch()
	for range lines {
		batch.PublishFrom("room", "member 0", []byte("from x: y\n"))
	}
	require.Equal(t, (members-1)*lines, batch.Flush().Accepted)
	require.NotZero(t, budget.Pending())
	require.Less(t, budget.Pending(), limit/10)
	release(conns)
	for name := range b.Names() {
		w, _ := b.Lookup(name)
		require.NoError(t, w.Flush(t.Context()))
	}
	require.NoError(t, b.Shutdown(t.Context()))
	require.Zero(t, budget.Pending())
}

// Members that stall share one backlog. The Budget bounds its memory, and ends only them.
func TestBudgetOfStalledMembers(t *testing.T) {
	const members, stalled, size, limit = 60, 20, 12_000, 4 << 20
	budget := sendq.NewBudget(limit)
	b := sendq.NewBroker(nil)
	conns := joinCrowd(t, b, members, &sendq.WriterOptions{Budget: budget})
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
			require.LessOrEqual(t, budget.Pending(), limit)
		}
	}
	publish(20) // so that all that is allocated once is there
	before, pending := heap(), budget.Pending()
	publish(limit*3/4/size - 20)
	grown, used := budget.Pending()-pending, heap()-before
	t.Logf("%d bytes more are pending, and the process uses %d more", grown, used)
	require.Greater(t, grown, limit/2)
	require.Less(t, used, grown*3/2)
	require.Equal(t, members, room.Len())
	publish(limit / size)
	require.Equal(t, members-stalled, room.Len(), "those that stall are gone, and nobody else")
	require.NoError(t, b.Shutdown(t.Context()))
	require.Zero(t, budget.Pending())
}

// A shared block may be larger than a small Budget. Each Writer gets a copy of its own then, and
// nobody is ended for what others have in the block.
func TestBudgetSmallerThanABlock(t *testing.T) {
	b := sendq.NewBroker(nil)
	room := b.Room("room")
	register(t, b, "large", stalledPeer()) // keeps the room's blocks in use, which grow
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
	require.Equal(t, 9000, budget.Pending())
	require.NoError(t, w.Err())
	conn.Release()
	require.NoError(t, w.Close())
	require.Zero(t, budget.Pending())
	_ = b.Close()
}

// joinCrowd registers n Writers with stalled peers and lets them join "room".
func joinCrowd(t *testing.T, b *sendq.Broker, n int, opts *sendq.WriterOptions) (conns []*faultconn.Conn) {
	t.Helper()
	room := b.Room("room")
	for i := range n {
		conn := faultconn.Wrap(discarded())
		conn.Stall()
		name := fmt.Sprint("member ", i)
		require.NoError(t, b.Register(name, sendq.NewWriter(conn, opts)))
		require.NoError(t, room.Join(name))
		conns = append(conns, conn)
	}
	return conns
}

func release(conns []*faultconn.Conn) {
	for _, conn := range conns {
		conn.Release()
	}
}

// discarded returns a connection that takes everything and keeps nothing.
func discarded() *sink {
	s := &sink{open: make(chan struct{})}
	close(s.open)
	return s
}

// One message that is a large part of the Budget is one copy for all.
func TestBudgetOfALargeMessage(t *testing.T) {
	budget := sendq.NewBudget(1 << 20)
	b := sendq.NewBroker(nil)
	conns := joinCrowd(t, b, 20, &sendq.WriterOptions{Budget: budget})
	require.Equal(t, 20, b.Room("room").Publish(make([]byte, 300<<10)))
	require.Less(t, budget.Pending(), 310<<10)
	release(conns)
	require.NoError(t, b.Shutdown(t.Context()))
}

// The Writer that keeps the most memory ends, although it has the fewest bytes pending: a short
// message of each of many rooms, whose blocks it alone keeps.
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
	_ = b.Close()
}

// A Writer that is about to end counts no more, also while its connection takes long to close.
func TestBudgetForgetsWhoEnds(t *testing.T) {
	budget := sendq.NewBudget(10_000)
	conn, letGo := lingering()
	w := sendq.NewWriter(conn, &sendq.WriterOptions{Budget: budget})
	for w.Err() == nil {
		w.Write(make([]byte, 1000))
	}
	require.ErrorIs(t, w.Err(), sendq.ErrSlowConsumer)
	require.Zero(t, budget.Pending())
	letGo()
	<-w.Done()
}

// A takeover that the Budget of the new Writer cannot hold ends that Writer, whatever others in
// the Budget share with the old one.
func TestTakeoverThatABudgetCannotHold(t *testing.T) {
	budget := sendq.NewBudget(1 << 20)
	b, returned := newBroker(sendq.Takeover)
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
	_ = b.Close()
	require.Zero(t, budget.Pending())
	require.NotEmpty(t, returned.all())
}

// In a Budget smaller than a shared block, a takeover brings the messages and not the block.
func TestTakeoverIntoASmallBudget(t *testing.T) {
	b, _ := newBroker(sendq.Takeover)
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
	require.Equal(t, 6+64, budget.Pending())
	_ = b.Close()
}

// If the Writer that must make room is the only one that refers to a block, the block counts for
// the next one.
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
	shared := budget.Pending()
	require.NoError(t, large.Send(counted(limit-2*shared-10)))
	require.NoError(t, b.Register("small", small))
	other := b.Room("other")
	require.NoError(t, other.Join("large"))
	require.NoError(t, other.Join("small"))
	require.Equal(t, 2, other.Publish([]byte("hello\n")))
	<-large.Done()
	require.ErrorIs(t, large.Err(), sendq.ErrSlowConsumer)
	require.NoError(t, small.Err())
	require.Equal(t, shared, budget.Pending())
	_ = b.Close()
	require.Zero(t, budget.Pending())
}
