package sendq

import (
	"cmp"
	"fmt"
	"slices"
	"sync"

	"github.com/sendq-go/sendq/internal/queue"
	"github.com/sendq-go/sendq/internal/set"
)

// A Budget limits the bytes of memory that the pending messages of any number of Writers take
// together. Give it to each of them in its WriterOptions. If a message would exceed the Budget,
// the Writer with the largest backlog ends with ErrSlowConsumer, then the next one if necessary,
// until there is room.
//
// A message counts as its size plus 64 bytes, unless Writers share it. Broadcast, Publish and
// SendTo queue references to one copy. The copy counts once, however many of the Writers have
// it pending. Each Writer adds 64 bytes for a run of such messages, not for each of them. Copies
// lie in blocks of up to 128 KiB; a message over 16 KiB has its own block. A block counts as a
// whole as long as any of the Writers has part of it pending. If a block of several messages is
// larger than a quarter of the Budget, each Writer gets its own copies instead.
//
// The backlog of a Writer counts as what the Writer alone adds to the Budget, plus its share of
// each shared block. If ten Writers have a block pending, a tenth of the block counts for each.
//
// A Writer stops counting at the moment it ends, or begins its Farewell. Its undelivered messages
// stay in memory as long as the Writer does.
//
// All methods may be called from any goroutine at any time.
type Budget struct {
	limit int

	// mu guards the fields below. It may be taken while a Writer's lock is held, but no
	// Writer's lock may be taken while mu is held.
	mu      sync.Mutex
	pending int64
	holders []*backlog                 // backlogs that are not empty, in no order
	shared  set.Map[*queue.Block, int] // number of references to each shared block
	largest []candidate                // to end next, the largest last; as of the last look at holders
}

// A candidate is a backlog whose Writer the Budget may end, with the size it had.
type candidate struct {
	*backlog
	size int64
}

// A backlog is the Budget's account of a Writer's pending messages. Budget.mu guards it.
type backlog struct {
	writer   *Writer
	unshared int64 // what it adds to Budget.pending, apart from shared blocks
	place    int   // in Budget.holders, from 1; 0 if it is not there
	closed   error // why it no longer counts; nil while it does

	// The shared blocks of the queue's segments, and of those that a keeper has. For counted of
	// the first, unshared includes sharedCost; a segment that split off another adds nothing, and
	// neither does one that is kept.
	queued, kept blockList
	counted      int
}

// A blockList is the shared blocks of the segments of a queue, one element for each segment, almost
// in the queue's order.
type blockList struct {
	blocks []*queue.Block // blocks[head:]
	head   int
}

// minBlocks is the number of shared blocks that a Budget must have room for.
const minBlocks = 4

// sharedCost is the cost of a reference to a run of messages in a shared block.
const sharedCost = messageOverhead

// NewBudget returns a Budget of limit bytes. It panics if limit is not positive.
func NewBudget(limit int) *Budget {
	if limit <= 0 {
		panic(fmt.Sprintf("sendq: NewBudget: limit is not positive: %d", limit))
	}
	return &Budget{limit: limit}
}

// isSmallFor reports whether the Budget is too small for a shared block of several messages.
func (b *Budget) isSmallFor(shared *queue.Block) bool {
	return b != nil && shared.IsShared() && !shared.IsLone() && shared.Size() > b.limit/minBlocks
}

// isSmallForAny reports whether isSmallFor holds for any queued block.
func (b *Budget) isSmallForAny(q *queue.Queue) bool {
	for r := range q.Runs() {
		if b.isSmallFor(r.Block) {
			return true
		}
	}
	return false
}

// PendingBytes returns the number of bytes that the Writers have pending together, as the Budget
// counts them. It never exceeds the limit.
func (b *Budget) PendingBytes() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return int(b.pending)
}

// A charge is what messages add to a Writer's backlog.
type charge struct {
	unshared int64          // apart from the shared blocks
	blocks   []*queue.Block // the shared blocks, one element for each new segment
	inFront  bool           // the segments come before the queued ones
	kept     bool           // the segments are written and kept, so they count for nothing themselves
}

// chargeOf returns what the messages of q add to a backlog when they come before its other
// messages.
func chargeOf(q *queue.Queue) charge {
	c := keptChargeOf(q)
	c.kept, c.inFront = false, true
	c.unshared += sharedCost * int64(len(c.blocks))
	return c
}

// keptChargeOf returns what the messages of q add to a backlog when they are written and kept.
func keptChargeOf(q *queue.Queue) charge {
	c := charge{kept: true}
	for r := range q.Runs() {
		if r.Block.IsShared() {
			c.blocks = append(c.blocks, r.Block)
		} else {
			c.unshared += costOf(r.Len(), r.Size())
		}
	}
	return c
}

// reserve adds c to the backlog of w, and ends other Writers if there is too little room. If w
// itself must end, reserve returns the reason, and w no longer counts. The lock of w is held. A
// nil Budget has room for everything.
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
	for ; b.pending+cost > int64(b.limit); cost = b.cost(&c) { // it grows when others drop a block
		if cost > int64(b.limit) { // only in a takeover; sent messages have been checked
			b.close(l, fmt.Errorf("%w: Budget of %d bytes cannot hold %d", ErrSlowConsumer, b.limit, cost))
			return l.closed
		}
		last := b.takeLargest()
		b.close(last.backlog, fmt.Errorf("%w: Budget of %d bytes exceeded; this Writer had the largest backlog (%d bytes)",
			ErrSlowConsumer, b.limit, last.size))
		if last.backlog == l {
			return l.closed
		}
		go last.writer.dismiss(last.closed)
	}
	b.add(l, &c, cost)
	return nil
}

// These limit the cost of finding the Writers to end. A look at all holders takes 2 ms for
// 100,000 of them, and 13 µs for 1,000. One look finds many candidates, because one message may
// end many Writers with a shared backlog. For the next message only a few of the other
// candidates are remembered, because they may no longer be the largest.
const (
	candidates          = 64
	holdersPerCandidate = 1000 // holders for each candidate that is remembered
)

// takeLargest removes and returns the largest backlog. There must be one. If there are more
// than holdersPerCandidate holders, it may return one that was the largest a moment ago and is
// still large.
//
// A heap of all backlogs would be exact, but cannot keep its order, because a Writer's share of
// a block grows when others drop theirs.
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

// forgetCandidates forgets all but the n largest candidates.
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
	size := l.unshared
	for _, blocks := range [...]*blockList{&l.queued, &l.kept} {
		for _, shared := range blocks.all() {
			size += int64(shared.Size() / b.shared.Get(shared))
		}
	}
	return size
}

// reserveLast adds the last charges to the backlog of w, as many as fit without the end of a
// Writer. It returns the number of charges it omits. An eighth of the Budget stays free,
// because otherwise the next message would end a Writer. The lock of w is held.
func (b *Budget) reserveLast(w *Writer, cs []charge) (omitted int) {
	if b == nil {
		return 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	l := &w.limits.backlog
	for omitted = len(cs); omitted > 0 && l.closed == nil; omitted-- {
		c := &cs[omitted-1]
		cost := b.cost(c)
		if b.pending+cost > int64(b.limit-b.limit/8) {
			break
		}
		b.add(l, c, cost)
	}
	return omitted
}

// release subtracts the removed messages from the backlog of w. The lock of w is held.
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

// leave makes w stop counting, because it ends. The lock of w is held.
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

// hold counts one more segment of a shared block, split off a segment that counts already. The
// lock of the Writer is held.
func (l *backlog) hold(shared *queue.Block) {
	b := l.writer.limits.Budget
	b.mu.Lock()
	defer b.mu.Unlock()
	if l.closed == nil {
		l.queued.prepend(shared)
		b.refer(shared)
	}
}

// keep counts a segment of a shared block that is written and kept. The lock of the Writer is held.
func (l *backlog) keep(shared *queue.Block) {
	b := l.writer.limits.Budget
	b.mu.Lock()
	defer b.mu.Unlock()
	if l.closed == nil {
		l.kept.append(shared)
		b.refer(shared)
		b.enlist(l)
	}
}

// letGoKept undoes keep.
func (l *backlog) letGoKept(shared *queue.Block) {
	b := l.writer.limits.Budget
	b.mu.Lock()
	defer b.mu.Unlock()
	if l.closed == nil {
		l.kept.remove(shared)
		b.drop(shared)
		b.enlist(l)
	}
}

// letGo drops the reference of a segment to a shared block. The lock of the Writer is held.
func (l *backlog) letGo(shared *queue.Block) {
	b := l.writer.limits.Budget
	b.mu.Lock()
	defer b.mu.Unlock()
	if l.closed != nil {
		return
	}
	l.queued.remove(shared)
	b.drop(shared)
	if remaining := len(l.queued.all()); l.counted > remaining {
		l.counted = remaining
		b.grow(l, -sharedCost)
	}
}

// keptBlocks is the most elements that the list of an empty backlog keeps room for.
const keptBlocks = 64

func (l *blockList) all() []*queue.Block { return l.blocks[l.head:] }

// remove removes one element.
func (l *blockList) remove(shared *queue.Block) {
	// It is the first or close to it, so the ones before it move up.
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

// prepend adds elements to the front.
func (l *blockList) prepend(shared ...*queue.Block) {
	if len(shared) <= l.head {
		l.head -= len(shared)
		copy(l.blocks[l.head:], shared)
	} else {
		l.blocks = slices.Insert(l.blocks, l.head, shared...)
	}
}

// append adds elements to the end.
func (l *blockList) append(shared ...*queue.Block) {
	if l.head > len(l.blocks)/2 { // mostly empty: move down rather than grow
		n := copy(l.blocks, l.blocks[l.head:])
		clear(l.blocks[n:])
		l.blocks, l.head = l.blocks[:n], 0
	}
	l.blocks = append(l.blocks, shared...)
}

// cost returns what c would add to pending. mu is held, here and below.
func (b *Budget) cost(c *charge) int64 {
	cost := c.unshared
	var seen map[*queue.Block]bool
	if len(c.blocks) > 1 { // only in a takeover
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

// add adds c to l, and cost to pending. There must be room.
func (b *Budget) add(l *backlog, c *charge, cost int64) {
	if len(c.blocks) > 0 {
		b.addBlocks(l, c)
	}
	b.pending += cost - c.unshared // grow adds the rest
	b.grow(l, c.unshared)
}

// addBlocks adds the references of l to the shared blocks of c.
func (b *Budget) addBlocks(l *backlog, c *charge) {
	for _, shared := range c.blocks {
		b.refer(shared)
	}
	if c.kept {
		l.kept.append(c.blocks...)
		return
	}
	if c.inFront {
		l.queued.prepend(c.blocks...)
	} else {
		l.queued.append(c.blocks...)
	}
	l.counted += len(c.blocks)
}

func (b *Budget) refer(shared *queue.Block) { b.shared.Put(shared, b.shared.Get(shared)+1) }

// drop undoes one refer.
func (b *Budget) drop(shared *queue.Block) {
	if n := b.shared.Get(shared) - 1; n > 0 {
		b.shared.Put(shared, n)
	} else {
		b.shared.Remove(shared)
		b.pending -= int64(shared.Size())
	}
}

// grow adds n bytes to l and to pending, apart from shared blocks. n may be negative.
func (b *Budget) grow(l *backlog, n int64) {
	l.unshared += n
	b.pending += n
	b.enlist(l)
}

// enlist makes l one of the holders if it is not empty. Otherwise l is none.
func (b *Budget) enlist(l *backlog) {
	switch isEmpty := l.unshared == 0 && len(l.kept.all()) == 0; {
	case l.place == 0 && !isEmpty:
		b.holders = append(b.holders, l)
		l.place = len(b.holders)
	case l.place > 0 && isEmpty:
		last := len(b.holders) - 1
		b.holders[l.place-1] = b.holders[last]
		b.holders[l.place-1].place = l.place
		b.holders[last] = nil
		l.place = 0
		b.holders = b.holders[:last]
		if set.IsSparse(last, cap(b.holders)) {
			b.holders = slices.Clone(b.holders)
		}
	}
}

// close makes l stop counting because of cause.
func (b *Budget) close(l *backlog, cause error) {
	l.closed = cause
	for _, blocks := range [...]*blockList{&l.queued, &l.kept} {
		for _, shared := range blocks.all() {
			b.drop(shared)
		}
		*blocks = blockList{}
	}
	l.counted = 0
	b.grow(l, -l.unshared)
}
