package sendq

import (
	"cmp"
	"fmt"
	"slices"
	"sync"

	"github.com/sendq-go/sendq/internal/queue"
	"github.com/sendq-go/sendq/internal/set"
)

// A Budget bounds the memory of what any number of Writers have pending together: it is
// given to each in its WriterOptions. When a message would exceed it, the Writer with the
// largest backlog ends with ErrSlowConsumer, and if need be the next, until there is room.
//
// Each message counts 64 bytes more than its size. A Broker queues a message to many as a
// reference to one copy. The copy counts once, however many of the Writers have it pending,
// and each of them adds 64 bytes for its reference to a run of messages. Copies lie in
// blocks of up to 128 KiB; a block counts whole, until none of the Writers has any of it
// pending. In a Budget of less than four such blocks, each Writer gets a copy of its own.
//
// The size of a backlog is what it adds to the Budget, and its part of each block that it
// shares: a block that ten Writers have pending is a tenth of it in the backlog of each.
//
// A Writer that ends does not count from that moment on. The messages that its Undelivered
// yields stay in memory as long as the Writer does.
type Budget struct {
	limit int

	// mu guards what follows. A Writer's lock may be held when it is taken, but not
	// the other way round.
	mu      sync.Mutex
	pending int64
	holders []*backlog                 // those that are not empty, in no order
	shared  set.Map[*queue.Block, int] // how often the backlogs refer to a shared block
	largest []candidate                // to end next, the last first; as of the last look at all holders
}

// A candidate is a backlog whose Writer the Budget may end, and how large it was.
type candidate struct {
	*backlog
	size int64
}

// A backlog is what a Writer has pending in the eyes of its Budget, whose lock guards it.
type backlog struct {
	writer *Writer
	alone  int64 // what it adds to Budget.pending, shared blocks aside
	index  int   // in Budget.holders, while alone is not 0
	closed error // why it counts no more; nil while it does

	// blocks[head:] are the shared blocks of the queue's segments, one element for each
	// segment, almost in the queue's order. The first counted of them count in alone.
	blocks  []*queue.Block
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

// isSmallFor reports whether a block that holds messages of others too is too large a part of
// the Budget.
func (b *Budget) isSmallFor(shared *queue.Block) bool {
	return b != nil && shared.IsShared() && !shared.IsLone() && shared.Size() > b.limit/minBlocks
}

// isSmallForAny is isSmallFor for all that is queued.
func (b *Budget) isSmallForAny(q *queue.Queue) bool {
	for r := range q.Runs() {
		if b.isSmallFor(r.Block) {
			return true
		}
	}
	return false
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
	alone  int64          // beside the shared blocks
	blocks []*queue.Block // the shared blocks, an element for each new segment
	first  bool           // the segments come before those that are queued
}

// chargeOf returns what the queue's messages add to a backlog, in front of others.
func chargeOf(q *queue.Queue) charge {
	c := charge{first: true}
	for r := range q.Runs() {
		if r.Block.IsShared() {
			c.alone += sharedCost
			c.blocks = append(c.blocks, r.Block)
		} else {
			c.alone += costOf(r.Len(), r.Size())
		}
	}
	return c
}

// reserve adds c to the backlog of w, and ends other Writers if that takes it. It fails if
// w must end, and w counts no more then. The lock of w is held. A nil Budget has room for
// everything.
func (b *Budget) reserve(w *Writer, c charge) error {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	l := &w.limits.backlog
	if l.closed != nil { // another sender has just ended w
		return l.closed
	}
	cost := b.cost(&c)
	if b.pending+cost > int64(b.limit) {
		b.forgetCandidates(len(b.holders) / holdersPerCandidate)
	}
	for ; b.pending+cost > int64(b.limit); cost = b.cost(&c) { // more, when nobody else refers to its blocks
		if cost > int64(b.limit) { // of a takeover; what is sent has been checked
			b.close(l, fmt.Errorf("%w: Budget of %d bytes cannot hold %d", ErrSlowConsumer, b.limit, cost))
			return l.closed
		}
		last := b.takeLargest()
		b.close(last.backlog, fmt.Errorf("%w: Budget of %d bytes exceeded; this Writer had the largest backlog (%d bytes)",
			ErrSlowConsumer, b.limit, last.size))
		if last.backlog == l {
			return l.closed
		}
		go last.writer.abort(last.closed) // takes its lock, and then closes its connection
	}
	b.add(l, &c, cost)
	return nil
}

// These bound what it costs to find whom to end. A look at all holders takes 2 ms when there are
// 100,000, and 13 µs for 1,000. It finds many, because one message may end many who share a
// backlog. Few of those that are left are remembered for the next message, because they may no
// longer be the largest by then.
const (
	candidates          = 64
	holdersPerCandidate = 1000 // of those that are remembered
)

// takeLargest returns the largest backlog; there must be one. With more than holdersPerCandidate
// holders it may be one that was the largest a moment ago and still is large.
//
// A heap of all backlogs would be exact, but no order can be kept: a Writer's part of a block
// grows when others let go of it.
func (b *Budget) takeLargest() candidate {
	for len(b.largest) > 0 {
		last := b.popLargest()
		if size := b.sizeOf(last.backlog); size >= last.size/2 && size > 0 {
			return candidate{last.backlog, size}
		}
	}
	n := candidates + len(b.holders)/holdersPerCandidate
	for _, l := range b.holders {
		c := candidate{l, b.sizeOf(l)}
		if len(b.largest) == n && c.size <= b.largest[0].size {
			continue
		}
		i, _ := slices.BinarySearchFunc(b.largest, c, func(a, c candidate) int { return cmp.Compare(a.size, c.size) })
		b.largest = slices.Insert(b.largest, i, c)
		b.forgetCandidates(n)
	}
	return b.popLargest()
}

// forgetCandidates forgets all but the n largest.
func (b *Budget) forgetCandidates(n int) {
	b.largest = slices.Delete(b.largest, 0, max(0, len(b.largest)-n))
}

func (b *Budget) popLargest() candidate {
	last := len(b.largest) - 1
	c := b.largest[last]
	b.largest = slices.Delete(b.largest, last, last+1)
	return c
}

func (b *Budget) sizeOf(l *backlog) int64 {
	size := l.alone
	for _, shared := range l.blocks[l.head:] {
		size += int64(shared.Size() / b.shared.Get(shared))
	}
	return size
}

// reserveLast adds to the backlog of w as many of the last charges as there is room for
// without the end of any Writer, and returns how many it leaves out. An eighth of the Budget
// stays free, or the next message would end somebody. The lock of w is held.
func (b *Budget) reserveLast(w *Writer, cs []charge) (left int) {
	if b == nil {
		return 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	l := &w.limits.backlog
	for left = len(cs); left > 0 && l.closed == nil; left-- {
		c := &cs[left-1]
		cost := b.cost(c)
		if b.pending+cost > int64(b.limit-b.limit/8) {
			break
		}
		b.add(l, c, cost)
	}
	return left
}

// release takes what r has removed off the backlog of w.
func (b *Budget) release(w *Writer, r queue.Removed) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if l := &w.limits.backlog; l.closed == nil {
		b.grow(l, -costOf(r.OwnMessages, r.OwnSize))
	}
}

// leave makes w, which ends, count no more.
func (b *Budget) leave(w *Writer) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if l := &w.limits.backlog; l.closed == nil {
		b.close(l, ErrClosed)
	}
}

// hold counts another segment of a shared block, which split off one that counts already.
func (l *backlog) hold(shared *queue.Block) {
	b := l.writer.limits.Budget
	b.mu.Lock()
	defer b.mu.Unlock()
	if l.closed == nil {
		l.prepend(shared)
		b.refer(shared)
	}
}

// letGo ends the reference of a segment to a shared block.
func (l *backlog) letGo(shared *queue.Block) {
	b := l.writer.limits.Budget
	b.mu.Lock()
	defer b.mu.Unlock()
	if l.closed != nil {
		return
	}
	l.remove(shared)
	b.drop(shared)
	if left := len(l.blocks) - l.head; l.counted > left {
		l.counted = left
		b.grow(l, -sharedCost)
	}
}

// keptBlocks bounds the list that an empty backlog keeps for the next blocks.
const keptBlocks = 64

// remove removes an element from blocks.
func (l *backlog) remove(shared *queue.Block) {
	// It is the first or close to it, so the others move up, not down.
	i := slices.Index(l.blocks[l.head:], shared)
	copy(l.blocks[l.head+1:], l.blocks[l.head:l.head+i])
	l.blocks[l.head] = nil
	if l.head++; l.head < len(l.blocks) {
		return
	}
	l.blocks, l.head = l.blocks[:0], 0
	if cap(l.blocks) > keptBlocks {
		l.blocks = nil
	}
}

// prepend adds elements to the front of blocks.
func (l *backlog) prepend(shared ...*queue.Block) {
	if len(shared) <= l.head {
		l.head -= len(shared)
		copy(l.blocks[l.head:], shared)
	} else {
		l.blocks = slices.Insert(l.blocks, l.head, shared...)
	}
}

// append adds elements to blocks.
func (l *backlog) append(shared ...*queue.Block) {
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
	var seen map[*queue.Block]bool
	if len(c.blocks) > 1 { // of a takeover
		seen = make(map[*queue.Block]bool)
	}
	for _, shared := range c.blocks {
		if b.shared.Get(shared) == 0 && !seen[shared] {
			cost += int64(shared.Size())
		}
		if seen != nil {
			seen[shared] = true
		}
	}
	return cost
}

// add adds c, for which there is room, to l, and cost to pending.
func (b *Budget) add(l *backlog, c *charge, cost int64) {
	if len(c.blocks) > 0 {
		b.addBlocks(l, c)
	}
	b.pending += cost - c.alone // grow adds the rest
	b.grow(l, c.alone)
}

// addBlocks notes that l refers to the shared blocks of c.
func (b *Budget) addBlocks(l *backlog, c *charge) {
	for _, shared := range c.blocks {
		b.refer(shared)
	}
	if c.first {
		l.prepend(c.blocks...)
	} else {
		l.append(c.blocks...)
	}
	l.counted += len(c.blocks)
}

func (b *Budget) refer(shared *queue.Block) { b.shared.Put(shared, b.shared.Get(shared)+1) }

// drop takes back what refer did.
func (b *Budget) drop(shared *queue.Block) {
	if n := b.shared.Get(shared) - 1; n > 0 {
		b.shared.Put(shared, n)
	} else {
		b.shared.Remove(shared)
		b.pending -= int64(shared.Size())
	}
}

// grow changes what l adds to pending, shared blocks aside.
func (b *Budget) grow(l *backlog, alone int64) {
	wasEmpty := l.alone == 0
	l.alone += alone
	b.pending += alone
	switch isEmpty := l.alone == 0; {
	case wasEmpty && !isEmpty:
		l.index = len(b.holders)
		b.holders = append(b.holders, l)
	case isEmpty && !wasEmpty:
		last := len(b.holders) - 1
		b.holders[l.index] = b.holders[last]
		b.holders[l.index].index = l.index
		b.holders[last] = nil
		b.holders = b.holders[:last]
		if set.IsSparse(last, cap(b.holders)) {
			b.holders = slices.Clone(b.holders)
		}
	}
}

// close makes l count no more, because of cause.
func (b *Budget) close(l *backlog, cause error) {
	l.closed = cause
	for _, shared := range l.blocks[l.head:] {
		b.drop(shared)
	}
	l.blocks, l.head, l.counted = nil, 0, 0
	b.grow(l, -l.alone)
}
