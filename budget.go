package sendq

import (
	"fmt"
	"sync"
)

// A Budget bounds what any number of Writers have pending together: it is given to
// each in its WriterOptions. When a message would exceed it, the Writer with the
// largest backlog, the message counted to its own, ends with ErrSlowConsumer, and if
// need be the next, until there is room. So those whose peers keep up are spared.
//
// Pending counts as it does for MaxPending: each message 64 bytes more than it has. A
// Writer that ends does not count from that moment on; what it hands out by
// Undelivered stays in memory as long as it does.
type Budget struct {
	limit int

	// mu guards what follows. A Writer's lock may be held when it is taken, but not
	// the other way round.
	mu      sync.Mutex
	pending int             // the sum of the backlogs
	backlog map[*Writer]int // of Writers that have one
}

// NewBudget returns a Budget of so many bytes. It panics if limit is not positive.
func NewBudget(limit int) *Budget {
	if limit <= 0 {
		panic(fmt.Sprintf("sendq: NewBudget: limit is not positive: %d", limit))
	}
	return &Budget{limit: limit, backlog: make(map[*Writer]int)}
}

// Pending returns what the Writers have pending together, in bytes, the overhead of
// messages included. It never exceeds the limit.
func (b *Budget) Pending() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.pending
}

// reserve adds cost to the backlog of w, and ends other Writers if that takes it. If w
// itself would have the largest backlog it is w that must end, and reserve fails. The
// lock of w is held. A nil Budget has room for everything.
func (b *Budget) reserve(w *Writer, cost int) error {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.pending+cost > b.limit {
		largest := b.largest()
		slow := fmt.Errorf("%w: the Budget of %d bytes is spent, and this backlog was the largest: %d",
			ErrSlowConsumer, b.limit, b.backlog[largest])
		if largest == w || b.backlog[w]+cost > b.backlog[largest] {
			return slow
		}
		b.pending -= b.backlog[largest]
		delete(b.backlog, largest)
		go largest.abort(slow) // takes its lock, and then closes its connection
	}
	b.pending += cost
	b.backlog[w] += cost
	return nil
}

// largest returns the Writer with the largest backlog, or nil if there is none. That takes
// a look at each, but only when the Budget is spent, and then a large backlog goes.
func (b *Budget) largest() (largest *Writer) {
	for w, backlog := range b.backlog {
		if largest == nil || backlog > b.backlog[largest] {
			largest = w
		}
	}
	return largest
}

// release takes cost off the backlog of w, or all of it if cost is more.
func (b *Budget) release(w *Writer, cost int) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	backlog := b.backlog[w]
	cost = min(cost, backlog)
	b.pending -= cost
	if cost == backlog {
		delete(b.backlog, w)
	} else {
		b.backlog[w] -= cost
	}
}
