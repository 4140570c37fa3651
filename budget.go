package sendq

import (
	"fmt"
	"sync"
)

// A Budget bounds what any number of Writers have pending together: it is given to
// each in its WriterOptions. When a message would exceed it, the Writer with the
// largest backlog ends with ErrSlowConsumer, maybe the one that the message is for, and
// if need be the next, until there is room. So those whose peers keep up are spared.
//
// Pending counts as it does for MaxPending: each message 64 bytes more than it has. The
// messages of senders that wait for room, as with Block, count too.
// What an ended Writer hands out by Undelivered does not count; it stays in memory as
// long as the Writer does.
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

// reserve adds cost to the backlog of w, and ends other Writers if that takes it. A nil
// Budget has room for everything.
func (b *Budget) reserve(w *Writer, cost int) error {
	if b == nil {
		return nil
	}
	if cost > b.limit {
		return fmt.Errorf("%w: counted as %d bytes, but the Budget is %d", ErrTooLarge, cost, b.limit)
	}
	var slow []*Writer
	b.mu.Lock()
	for b.pending+cost > b.limit {
		largest := b.largest()
		slow = append(slow, largest)
		b.pending -= b.backlog[largest]
		delete(b.backlog, largest)
	}
	b.pending += cost
	b.backlog[w] += cost
	b.mu.Unlock()

	for _, s := range slow {
		s.mu.Lock()
		closeConn := s.fail(fmt.Errorf("%w: the Budget of %d bytes is spent, and this backlog was the largest", ErrSlowConsumer, b.limit))
		s.mu.Unlock()
		go closeConn() // nobody who sends waits for that
	}
	return nil
}

// largest returns the Writer with the largest backlog. That takes a look at each, but
// only when the Budget is spent, and then a large backlog goes.
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
