package sendq

import (
	"container/heap"
	"fmt"
	"slices"
	"sync"
)

// A Budget bounds the memory of what any number of Writers have pending together: it is
// given to each in its WriterOptions. When a message would exceed it, the Writer with the
// largest backlog ends with ErrSlowConsumer, and if need be the next, until there is room.
// The size of a backlog is measured as MaxPending measures it.
//
// Each message counts 64 bytes more than its size. A Broker queues a message to many as a
// reference to one copy. The copy counts once, however many of the Writers have it pending,
// and each of them adds 64 bytes for its reference to a run of messages. Copies lie in
// blocks of up to 128 KiB; a block counts whole, until none of the Writers has any of it
// pending. In a Budget of less than four such blocks, each Writer gets a copy of its own.
//
// A Writer that ends does not count from that moment on. The messages that its Undelivered
// yields stay in memory as long as the Writer does.
type Budget struct {
	limit int

	// mu guards what follows. A Writer's lock may be held when it is taken, but not
	// the other way round.
	mu       sync.Mutex
	pending  int64
	backlogs backlogs           // those that are not empty
	shared   table[*block, int] // how often the backlogs refer to a shared block
}

// A backlog is what a Writer has pending in the eyes of its Budget, whose lock guards it.
type backlog struct {
	budget *Budget
	size   int64 // by the measure of MaxPending
	index  int   // in Budget.backlogs, if size is not 0
	alone  int64 // what it adds to Budget.pending, shared blocks aside
	over   error // why it counts no more; nil while it does

	// blocks[head:] are the shared blocks of the queue's segments, one element for each
	// segment, almost in the queue's order. The first counted of them count in alone.
	blocks  []*block
	head    int
	counted int
}

// minBlocks is how many shared blocks a Budget must have room for.
const minBlocks = 4

// sharedCost is what a reference to a run of messages in a shared block counts for.
const sharedCost = messageOverhead

// NewBudget returns a Budget of limit bytes. It panics if limit is not positive.
func NewBudget(limit int) *Budget {
	if limit <= 0 {
		panic(fmt.Sprintf("sendq: NewBudget: limit is not positive: %d", limit))
	}
	return &Budget{limit: limit}
}

// isSmallFor reports whether a block is shared and too large a part of the Budget.
func (b *Budget) isSmallFor(shared *block) bool {
	return b != nil && shared.shared && len(shared.buf) > b.limit/minBlocks
}

// Pending returns what the Writers have pending together, in bytes, counted as the Budget
// counts. It never exceeds the limit.
func (b *Budget) Pending() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return int(b.pending)
}

// A charge is what messages add to the backlog of a Writer.
type charge struct {
	size   int64    // by the measure of MaxPending
	alone  int64    // beside the shared blocks
	blocks []*block // the shared blocks, an element for each new segment
	first  bool     // the segments come before those that are queued
}

// charge returns what the queue's messages add to a backlog, in front of others.
func (q *queue) charge() charge {
	c := charge{size: q.bytes, first: true}
	for _, s := range q.queued() {
		n := int64(s.last - s.first)
		c.size += messageOverhead * n
		if s.block.shared {
			c.alone += sharedCost
			c.blocks = append(c.blocks, s.block)
		} else {
			c.alone += int64(s.end()-s.start()) + messageOverhead*n
		}
	}
	return c
}

// reserve adds c to the backlog of w, and ends other Writers if that takes it. It fails if
// w must end. The lock of w is held. A nil Budget has room for everything.
func (b *Budget) reserve(w *Writer, c charge) error {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if over := w.limits.backlog.over; over != nil { // another sender has just ended w
		return over
	}
	cost := b.cost(&c)
	if cost > int64(b.limit) { // of a takeover; what is sent has been checked
		return fmt.Errorf("%w: the Budget of %d bytes cannot hold %d", ErrSlowConsumer, b.limit, cost)
	}
	for ; b.pending+cost > int64(b.limit); cost = b.cost(&c) {
		largest := b.backlogs[0]
		slow := fmt.Errorf("%w: the Budget of %d bytes is spent, and this backlog was the largest: %d",
			ErrSlowConsumer, b.limit, largest.limits.backlog.size)
		if largest == w {
			return slow
		}
		b.close(largest, slow)
		go largest.abort(slow) // takes its lock, and then closes its connection
	}
	b.add(w, &c, cost)
	return nil
}

// reserveLast adds to the backlog of w as many of the last charges as there is room for
// without the end of any Writer, and returns how many it leaves out. The lock of w is held.
func (b *Budget) reserveLast(w *Writer, cs []charge) (left int) {
	if b == nil {
		return 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for left = len(cs); left > 0 && w.limits.backlog.over == nil; left-- {
		c := &cs[left-1]
		cost := b.cost(c)
		if b.pending+cost > int64(b.limit) {
			break
		}
		b.add(w, c, cost)
	}
	return left
}

// release takes what r has removed off the backlog of w.
func (b *Budget) release(w *Writer, r removed) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if w.limits.backlog.over == nil {
		b.grow(w, -int64(r.size)-messageOverhead*int64(r.messages), -r.alone)
	}
}

// leave makes w, which has ended, count no more.
func (b *Budget) leave(w *Writer) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if w.limits.backlog.over == nil {
		b.close(w, ErrClosed)
	}
}

// hold counts another segment of a shared block, which split off one that counts already.
// A nil backlog has no Budget.
func (l *backlog) hold(shared *block) {
	if l == nil || !shared.shared {
		return
	}
	l.budget.mu.Lock()
	defer l.budget.mu.Unlock()
	if l.over == nil {
		l.append(shared)
		l.budget.refer(shared)
	}
}

// letGo ends the reference of a segment to a shared block.
func (l *backlog) letGo(shared *block) {
	if l == nil || !shared.shared {
		return
	}
	l.budget.mu.Lock()
	defer l.budget.mu.Unlock()
	if l.over != nil {
		return
	}
	// It is the first or close to it, so the others move up, not down.
	i := slices.Index(l.blocks[l.head:], shared)
	copy(l.blocks[l.head+1:], l.blocks[l.head:l.head+i])
	l.blocks[l.head] = nil
	l.head++
	l.budget.drop(shared)
	if left := len(l.blocks) - l.head; l.counted > left {
		l.counted = left
		l.alone -= sharedCost
		l.budget.pending -= sharedCost
	}
}

// append adds an element to blocks.
func (l *backlog) append(shared ...*block) {
	if l.head > len(l.blocks)/2 { // mostly empty: move down rather than grow
		n := copy(l.blocks, l.blocks[l.head:])
		clear(l.blocks[n:])
		l.blocks, l.head = l.blocks[:n], 0
	}
	l.blocks = append(l.blocks, shared...)
}

// cost returns what c would add to pending. mu is held, here and below.
func (b *Budget) cost(c *charge) int64 {
	cost := c.alone
	var seen map[*block]bool
	if len(c.blocks) > 1 { // of a takeover
		seen = make(map[*block]bool)
	}
	for _, shared := range c.blocks {
		if b.shared.get(shared) == 0 && !seen[shared] {
			cost += int64(len(shared.buf))
		}
		if seen != nil {
			seen[shared] = true
		}
	}
	return cost
}

// add adds c, for which there is room, to the backlog of w, and cost to pending.
func (b *Budget) add(w *Writer, c *charge, cost int64) {
	if len(c.blocks) > 0 {
		b.addBlocks(&w.limits.backlog, c)
	}
	b.pending += cost - c.alone // grow adds the rest
	b.grow(w, c.size, c.alone)
}

// addBlocks notes that l refers to the shared blocks of c.
func (b *Budget) addBlocks(l *backlog, c *charge) {
	for _, shared := range c.blocks {
		b.refer(shared)
	}
	if c.first {
		l.blocks = slices.Insert(l.blocks, l.head, c.blocks...)
	} else {
		l.append(c.blocks...)
	}
	l.counted += len(c.blocks)
}

func (b *Budget) refer(shared *block) { b.shared.put(shared, b.shared.get(shared)+1) }

// drop takes back what refer did.
func (b *Budget) drop(shared *block) {
	if n := b.shared.get(shared) - 1; n > 0 {
		b.shared.put(shared, n)
	} else {
		b.shared.remove(shared)
		b.pending -= int64(len(shared.buf))
	}
}

// grow changes the size of the backlog of w, and what it adds to pending alone.
func (b *Budget) grow(w *Writer, size, alone int64) {
	l := &w.limits.backlog
	wasEmpty := l.size == 0
	l.size += size
	l.alone += alone
	b.pending += alone
	switch {
	case wasEmpty && l.size == 0:
	case wasEmpty:
		heap.Push(&b.backlogs, w)
	case l.size == 0:
		heap.Remove(&b.backlogs, l.index)
	default:
		heap.Fix(&b.backlogs, l.index)
	}
}

// close makes w count no more, because of cause.
func (b *Budget) close(w *Writer, cause error) {
	l := &w.limits.backlog
	l.over = cause
	for _, shared := range l.blocks[l.head:] {
		b.drop(shared)
	}
	l.blocks, l.head, l.counted = nil, 0, 0
	b.grow(w, -l.size, -l.alone)
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
