package sendq

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq/internal/queue"
	"github.com/sendq-go/sendq/sendqtest"
)

// Through queueing, writes, drops, takeovers and ends, a Budget counts the memory that the queues
// refer to, and each shared block once. At the end it counts nothing.
func TestBudgetCountsWhatIsHeld(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { countWhatIsHeld(t, rand.New(rand.NewPCG(seed, 0))) })
	}
}

func countWhatIsHeld(t *testing.T, random *rand.Rand) {
	const names = 6
	limit := []int{20_000, 300_000, 4 << 20}[random.IntN(3)]
	budget := NewBudget(limit)
	broker := NewBroker(&BrokerOptions{NamePolicy: NameTakeover, ReplayMessages: 20})
	room := broker.Room("room")
	var conns []*sendqtest.Conn
	var writers []*Writer
	login := func(name string) {
		conn := sendqtest.NewConn()
		conn.Stall()
		w := NewWriter(conn, &WriterOptions{Budget: budget, MaxPending: 10_000 * random.IntN(3), Overflow: DropNewest + Overflow(random.IntN(2))})
		if broker.Register(name, w) == nil {
			_, _ = room.JoinReplay(name, 10)
		}
		conns, writers = append(conns, conn), append(writers, w)
	}
	name := func() string { return fmt.Sprint("name", random.IntN(names)) }
	for range 400 {
		p := make([]byte, random.IntN(2000))
		if random.IntN(20) == 0 {
			p = make([]byte, 20_000)
		}
		switch random.IntN(10) {
		case 0:
			login(name())
		case 1:
			_ = broker.Send(name(), p)
		case 2:
			broker.SendTo([]string{name(), name()}, p)
		case 3, 4:
			room.Publish(p)
		case 5:
			batch := broker.NewBatch()
			for range random.IntN(50) {
				batch.Publish("room", p[:min(len(p), 100)])
			}
			batch.Flush()
		case 6:
			broker.Broadcast(p)
		case 7, 8: // a peer reads for a moment
			if len(conns) > 0 {
				i := random.IntN(len(conns))
				conns[i].Release()
				if random.IntN(2) == 0 {
					_ = writers[i].Flush(t.Context())
				}
				conns[i].Stall()
			}
		case 9:
			if len(writers) > 0 && random.IntN(10) == 0 {
				_ = writers[random.IntN(len(writers))].CloseNow()
			}
		}
		require.LessOrEqual(t, budget.PendingBytes(), limit)
		requireCounted(t, budget, writers)
	}
	for _, conn := range conns {
		conn.Release()
	}
	_ = broker.Shutdown(t.Context())
	for _, w := range writers {
		_ = w.Close()
	}
	require.Zero(t, budget.PendingBytes())
	require.Zero(t, budget.shared.Len())
	require.Empty(t, budget.holders)
}

// requireCounted compares the counts of a Budget with the queues of its Writers.
func requireCounted(t *testing.T, b *Budget, writers []*Writer) {
	t.Helper()
	for _, w := range writers { // no other code may lock several at once
		w.mu.Lock()
		defer w.mu.Unlock()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	refs := make(map[*queue.Block]int)
	var alone, references int64
	for _, w := range writers {
		if w.limits.backlog.closed != nil {
			continue
		}
		for r := range w.queue.Runs() {
			if r.Block.IsShared() {
				refs[r.Block]++
				references += sharedCost
			} else {
				alone += costOf(r.Len(), r.Size())
			}
		}
	}
	require.Len(t, refs, b.shared.Len())
	for shared, n := range refs {
		if n != b.shared.Get(shared) {
			t.Fatalf("a block counts %d times, and %d refer to it", b.shared.Get(shared), n)
		}
	}
	for shared := range refs {
		alone += int64(shared.Size())
	}
	require.LessOrEqual(t, b.pending, alone+references)
	require.GreaterOrEqual(t, b.pending, alone)
}

// The list of a backlog's blocks shrinks with the backlog.
func TestBudgetMemoryComesBack(t *testing.T) {
	b := NewBroker(nil)
	conn := sendqtest.NewConn()
	conn.Stall()
	w := NewWriter(conn, &WriterOptions{Budget: NewBudget(64 << 20)})
	require.NoError(t, b.Register("bob", w))
	require.NoError(t, b.Room("room").Join("bob"))
	for range 5000 { // a segment each
		b.Room("room").Publish([]byte("a\n"))
		b.Broadcast([]byte("b\n"))
	}
	conn.Release()
	require.NoError(t, w.Flush(t.Context()))
	w.mu.Lock()
	require.LessOrEqual(t, cap(w.limits.backlog.queued.blocks), keptBlocks)
	w.mu.Unlock()
	require.NoError(t, w.Close())
}

// Unused elements of the list are nil. Otherwise they would keep written and dropped blocks alive.
func TestBlockListForgetsWhatHasLeft(t *testing.T) {
	var l blockList
	for i := range 200 {
		l.append(queue.Lone([]byte("message")).Block)
		if i%50 > 10 {
			l.remove(l.blocks[l.head])
		}
		for j, kept := range l.blocks[:cap(l.blocks)] {
			require.Equal(t, l.head <= j && j < len(l.blocks), kept != nil)
		}
	}
}

// A segment of a shared block counts once after it is split, until both parts are gone.
func TestBudgetOfASplitSegment(t *testing.T) {
	b := NewBudget(1 << 20)
	w := NewWriter(sendqtest.NewConn(), &WriterOptions{Budget: b})
	shared := newSharedBlock()
	require.NoError(t, b.reserve(w, charge{unshared: sharedCost, blocks: []*queue.Block{shared}}))
	l := &w.limits.backlog
	l.hold(shared)
	require.Equal(t, queue.MinBlock+sharedCost, b.PendingBytes())
	l.letGo(shared)
	require.Equal(t, queue.MinBlock+sharedCost, b.PendingBytes())
	l.letGo(shared)
	require.Zero(t, b.PendingBytes())
}

// A Budget counts nothing for a Writer that it has just ended.
func TestBudgetReservesNothingForOneThatMustEnd(t *testing.T) {
	b := NewBudget(1000)
	w := NewWriter(sendqtest.NewConn(), &WriterOptions{Budget: b})
	l := &w.limits.backlog
	b.close(l, ErrSlowConsumer)
	require.Equal(t, 2, b.reserveLast(w, []charge{{unshared: 100}, {unshared: 100}}))
	require.Equal(t, ErrSlowConsumer, b.reserve(w, charge{unshared: 100}))
	l.hold(newSharedBlock())
	require.Zero(t, b.PendingBytes())
	require.Zero(t, b.shared.Len())
}

// A Budget spares a backlog that was large when it last looked at all, and is small now.
func TestBudgetSparesWhoHasCaughtUp(t *testing.T) {
	b := NewBudget(1 << 30)
	var all []*backlog
	for i := range 2000 {
		l := new(backlog)
		b.grow(l, int64(1000+i))
		all = append(all, l)
	}
	require.Same(t, all[1999], b.takeLargest().backlog)
	b.grow(all[1998], 10-all[1998].unshared)
	b.grow(all[1997], -all[1997].unshared)
	require.Same(t, all[1996], b.takeLargest().backlog)
	for _, l := range all {
		b.grow(l, -l.unshared)
	}
	require.Zero(t, b.PendingBytes())
	require.Less(t, cap(b.holders), 100, "the list goes with its backlogs")
}

func newSharedBlock() *queue.Block {
	var log queue.Log
	return log.Append([][]byte{[]byte("message")}).Block
}
