package sendq

import (
	"container/heap"
	"fmt"
	"sync"
)

// A Budget bounds what any number of Writers have pending together: it is given to
// each in its WriterOptions. When a message would exceed it, the Writer with the
// largest backlog ends with ErrSlowConsumer, and if need be the next, until there is room.
//
// Pending counts as it does for MaxPending: each message 64 bytes more than it has. A
// message of a Broker to many counts in full for each, although they share its memory: a
// Budget must have room for what a fan-out queues for all who share it, or it ends
// Writers whose peers keep up. A Writer that ends does not count from that moment on; what
// it hands out by Undelivered stays in memory as long as it does.
type Budget struct {
	limit int

	// mu guards what follows. A Writer's lock may be held when it is taken, but not
	// the other way round.
	mu       sync.Mutex
	pending  int      // the sum of the backlogs
	backlogs backlogs // those that are not empty
}

// A backlog is what a Writer has pending, by the measure of its Budget, whose lock guards it.
type backlog struct {
	size  int
	index int // in Budget.backlogs, if size is not 0
}

// NewBudget returns a Budget of so many bytes. It panics if limit is not positive.
func NewBudget(limit int) *Budget {
	if limit <= 0 {
		panic(fmt.Sprintf("sendq: NewBudget: limit is not positive: %d", limit))
	}
	return &Budget{limit: limit}
}

// Pending returns what the Writers have pending together, in bytes, the overhead of
// messages included. It never exceeds the limit.
func (b *Budget) Pending() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.pending
}

// reserve adds cost to the backlog of w, and ends other Writers if that takes it. It fails
// if it is w that must end. The lock of w is held. A nil Budget has room for everything.
func (b *Budget) reserve(w *Writer, cost int) error {
	if b == nil {
		return nil
	}
	if cost > b.limit { // of a takeover; what is sent has been checked
		return fmt.Errorf("%w: the Budget of %d bytes cannot hold %d", ErrSlowConsumer, b.limit, cost)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.pending+cost > b.limit {
		largest := b.backlogs[0]
		slow := fmt.Errorf("%w: the Budget of %d bytes is spent, and this backlog was the largest: %d",
			ErrSlowConsumer, b.limit, largest.limits.backlog.size)
		if largest == w {
			return slow
		}
		b.add(largest, -largest.limits.backlog.size)
		go largest.abort(slow) // takes its lock, and then closes its connection
	}
	b.add(w, cost)
	return nil
}

// release takes cost off the backlog of w, or all of it if cost is more.
func (b *Budget) release(w *Writer, cost int) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.add(w, -min(cost, w.limits.backlog.size))
}

// add changes the backlog of w. mu is held.
func (b *Budget) add(w *Writer, cost int) {
	if cost == 0 {
		return
	}
	backlog := &w.limits.backlog
	wasEmpty := backlog.size == 0
	backlog.size += cost
	b.pending += cost
	switch {
	case wasEmpty:
		heap.Push(&b.backlogs, w)
	case backlog.size == 0:
		heap.Remove(&b.backlogs, backlog.index)
	default:
		heap.Fix(&b.backlogs, backlog.index)
	}
}

// backlogs is a heap of Writers, the one with the largest backlog first. A look at each,
// when the Budget is spent, would do for a few: with 100,000 it took 2 ms for each message.
type backlogs []*Writer

func (b backlogs) Len() int { return len(b) }

func (b backlogs) Less(i, j int) bool { return b[i].limits.backlog.size > b[j].limits.backlog.size }

func (b backlogs) Swap(i, j int) {
	b[i], b[j] = b[j], b[i]
	b[i].limits.backlog.index, b[j].limits.backlog.index = i, j
}

func (b *backlogs) Push(w any) {
	w.(*Writer).limits.backlog.index = len(*b)
	*b = append(*b, w.(*Writer))
}

func (b *backlogs) Pop() any {
	last := len(*b) - 1
	w := (*b)[last]
	(*b)[last] = nil
	*b = (*b)[:last]
	return w
}
