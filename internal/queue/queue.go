// Package queue holds messages until a connection takes them: in blocks, in a queue for each
// connection, in a log for messages to many, and in a history. It knows nothing of connections.
package queue

import (
	"iter"
	"slices"
	"sort"
)

// maxParts and maxGather are the most segments, and the most bytes of them, that are copied
// together for one conn.Write. They are small because a stalled peer keeps the copy, too.
const (
	maxParts  = 64
	maxGather = 16 << 10
)

// keptSegments is the most segments that an empty queue keeps room for while the flusher lives.
const keptSegments = 64

// A Queue holds the messages accepted by a Writer and not yet taken by the connection. It is a
// list of segments, each a run of messages in a block. A Queue is not safe for concurrent use;
// the Writer's lock guards it.
//
// One growing []byte would be simpler. It was measured 6 to 10 times slower than a mutex around
// conn.Write once messages reach 16 KiB, because growing copies the backlog again and again,
// and touches cold memory.
type Queue struct {
	segments []segment  // segments[head:] are queued, the oldest first
	inline   [1]segment // first memory of segments, so a short queue allocates no list
	tail     *Block     // block for copied messages, or nil
	bytes    int64      // of queued messages, including one that is partly written
	tracker  *Tracker   // nil if nobody tracks the shared blocks
	head     int32      // slots before it are zero, so they keep no block alive
	inFlight int32      // messages at the front that the last Peek touches
}

// A segment is a queued run of messages. Several queues may hold segments of the same block: a
// message to a thousand Writers is one block, with a segment in each of their queues.
type segment struct {
	Run
	written int // offset in the block up to which bytes are written
}

func (s *segment) unwritten() []byte { return s.Block.buf[s.written:s.end()] }

// begun reports whether the connection has taken part of the segment's first message.
func (s *segment) begun() bool { return s.written > s.start() }

// A Tracker receives each change in how often a queue refers to a shared block, and keeps what is
// written. The queue's lock is held during the calls.
type Tracker struct {
	Hold  func(*Block) // once more, because a segment was split or is kept; nil if nobody counts
	LetGo func(*Block) // once less

	// Written gets the messages that are completely written. Nil means that they are let go. The
	// garbage collector gets the blocks then, because Written refers to parts of them.
	Written *Queue

	MaxBlock int // largest size of a block that Written may refer to, in bytes
}

func (t *Tracker) hold(b *Block) {
	if t != nil && t.Hold != nil && b.shared {
		t.Hold(b)
	}
}

func (t *Tracker) letGo(b *Block) {
	if t != nil && t.LetGo != nil && b.shared {
		t.LetGo(b)
	}
}

// keepsWritten reports whether written messages stay in memory.
func (q *Queue) keepsWritten() bool { return q.tracker != nil && q.tracker.Written != nil }

// newBlock returns an empty block of at least size bytes for copied messages.
func (q *Queue) newBlock(size int) *Block {
	b := newBlock(size)
	if q.keepsWritten() {
		b.class = unpooled
	}
	return b
}

// removeWritten removes the messages of s before index next, because they are written. It adds them
// to r.
func (q *Queue) removeWritten(r *Removed, s *segment, next int32) {
	if q.keepsWritten() && s.First < next {
		q.tracker.Written.keepRun(Run{s.Block, s.First, next})
	}
	r.remove(s, next)
}

// keepRun queues r, and makes it known to the tracker.
func (q *Queue) keepRun(r Run) {
	if !q.EndsBefore(r) {
		q.tracker.hold(r.Block)
	}
	q.Push(r)
}

// Copy returns a queue of the same messages for use by several queues, without shared blocks of
// several messages.
func (q *Queue) Copy() *Queue {
	c := new(Queue)
	for r := range q.Runs() {
		if r.Block.kept {
			c.Push(r)
			continue
		}
		for _, p := range r.Messages() {
			c.keep(p)
		}
	}
	c.Share()
	return c
}

// Of returns a queue of messages for use by several queues. It copies all but long messages.
func Of(messages [][]byte) *Queue {
	q := new(Queue)
	for _, p := range messages {
		q.keep(p)
	}
	q.Share()
	return q
}

// keep queues a copy of p, or p itself if it is long.
func (q *Queue) keep(p []byte) {
	if len(p) > MaxCopied {
		q.Push(Lone(p))
	} else {
		q.CopyIn(p)
	}
}

// Track makes t track the queue, which must be empty.
func (q *Queue) Track(t *Tracker) { q.tracker = t }

// Bytes returns the size of the queued messages, including one that is partly written.
func (q *Queue) Bytes() int64 { return q.bytes }

// IsInFlight reports whether bytes returned by Peek are being written.
func (q *Queue) IsInFlight() bool { return q.inFlight > 0 }

// Empty reports whether no message is queued.
func (q *Queue) Empty() bool { return int(q.head) == len(q.segments) }

// queued returns the segments, the oldest first.
func (q *Queue) queued() []segment { return q.segments[q.head:] }

// Extend queues a copy of p if it fits after the last message, and reports whether it did.
func (q *Queue) Extend(p []byte) bool {
	if q.tail == nil || q.Empty() || !q.tail.fits(len(p)) || len(p) > MaxCopied {
		return false
	}
	tail := &q.segments[len(q.segments)-1]
	if tail.Block != q.tail {
		return false
	}
	q.tail.append(p)
	tail.Last++
	q.bytes += int64(len(p))
	return true
}

// ExtendParts is Extend with the parts of one message, of size bytes together.
func (q *Queue) ExtendParts(size int, parts [][]byte) bool {
	if size > MaxCopied || q.tail == nil || !q.tail.fits(size) || !q.Extend(nil) {
		return false
	}
	for _, p := range parts {
		q.tail.lengthen(p)
	}
	q.bytes += int64(size)
	return true
}

// CopyIn queues a copy of p. The size of p is at most MaxCopied.
func (q *Queue) CopyIn(p []byte) {
	switch {
	case q.tail == nil:
		q.tail = q.newBlock(len(p) + endSize)
		q.tail.sinceWritten = stalledBlocks
	case !q.tail.fits(len(p)):
		q.tail = q.nextBlock(len(p) + endSize)
	}
	i := int32(q.tail.append(p))
	q.Push(Run{q.tail, i, i + 1})
}

// nextBlock returns the block after the full tail. It has twice the size, if the backlog has
// grown too. So a queue takes little more memory than its backlog, and a long queue has few
// blocks.
//
// While the connection takes one block after the other, a block may be half of the backlog. A
// write ends at the end of a block at the latest, and with shorter blocks a third of all time
// was spent on the writes.
func (q *Queue) nextBlock(atLeast int) *Block {
	share := int64(8)
	if q.tail.sinceWritten < stalledBlocks {
		share = 2
	}
	most := maxBlock
	if q.keepsWritten() {
		most = min(most, q.tracker.MaxBlock)
	}
	b := q.newBlock(max(atLeast, int(min(int64(2*len(q.tail.buf)), q.bytes/share, int64(most)))))
	b.sinceWritten = q.tail.sinceWritten + 1
	return b
}

// burstBlock is the size of the first block of a burst, in bytes. If it were as small as for a
// single message, the writes of a burst would begin small each time the flusher has caught up.
// If few bytes come, Shrink gives the block back.
const burstBlock = 64 << 10

// ExpectBurst begins a large block for copied messages, unless written messages would keep it alive.
// There must be none yet.
func (q *Queue) ExpectBurst() {
	if !q.keepsWritten() {
		q.tail = newBlock(burstBlock)
	}
}

// HasBlock reports whether there is a block for copied messages.
func (q *Queue) HasBlock() bool { return q.tail != nil }

// If stalledBlocks blocks are begun and none is written, the connection has stalled.
const stalledBlocks = 4

// Push queues the messages of r by reference, and returns their size in bytes.
func (q *Queue) Push(r Run) (size int) {
	size = r.end() - r.start()
	q.bytes += int64(size)
	if q.EndsBefore(r) {
		q.segments[len(q.segments)-1].Last = r.Last
		return size
	}
	if q.segments == nil {
		q.segments = q.inline[:0]
	}
	if len(q.segments) == cap(q.segments) && int(q.head) > len(q.segments)/2 {
		// Most slots are popped: move down rather than grow.
		n := copy(q.segments, q.queued())
		clear(q.segments[n:])
		q.segments, q.head = q.segments[:n], 0
	}
	q.segments = append(q.segments, segment{r, r.start()})
	q.clearInline()
	return size
}

// EndsBefore reports whether the last queued message comes right before r in the same block.
// Then Push makes the last segment longer.
func (q *Queue) EndsBefore(r Run) bool {
	if q.Empty() {
		return false
	}
	tail := &q.segments[len(q.segments)-1]
	return tail.Block == r.Block && tail.Last == r.First
}

// clearInline clears inline after the list has grown out of it, so that inline keeps no block
// alive.
func (q *Queue) clearInline() {
	if len(q.segments) > len(q.inline) {
		q.inline[0] = segment{}
	}
}

// Shrink moves the queued messages into a smaller block if they are small compared with their
// block. Otherwise a peer that stalls now would keep the large block. Nothing may be in flight.
func (q *Queue) Shrink() {
	if q.tail == nil || len(q.tail.buf) < 16*MinBlock || len(q.queued()) != 1 || q.keepsWritten() {
		return
	}
	s := &q.segments[q.head]
	n := s.Last - s.First
	size := q.bytes + endSize*int64(n)
	little := len(q.tail.buf) / 8
	if len(q.tail.buf) <= burstBlock { // perhaps the first of a backlog, and quickly copied
		little = len(q.tail.buf) / 2
	}
	if s.Block != q.tail || size > int64(little) {
		return
	}
	b := newBlock(int(size))
	for i := s.First; i < s.Last; i++ {
		b.append(s.Block.message(int(i)))
	}
	*s = segment{Run{b, 0, n}, s.written - s.start()}
	q.tail.Recycle()
	q.tail = b
}

// Peek returns the next bytes to write: at most limit bytes, of at most the given number of
// messages. They stay valid without the lock until Advance. If gathered is not nil, next is a
// copy in that block, and the caller must recycle it after the write.
//
// Small segments are copied together rather than passed to net.Buffers. net.Buffers is one
// system call only on connections of package net, and one Write for each segment on all others.
// Even on connections of package net, one large write beats many vectors, and after a wide
// writev Go keeps up to 16 KiB for the connection from then on.
func (q *Queue) Peek(limit int, messages int64) (next []byte, gathered *Block) {
	next, q.inFlight = q.segments[q.head].next(limit, messages)
	limit = int(min(int64(limit), maxGather, q.bytes))
	rest := q.segments[q.head+1:]
	if len(rest) == 0 || len(next) >= limit || int64(q.inFlight) == messages {
		return next, nil
	}
	gathered = newBlock(limit)
	next = append(gathered.buf[:0], next...)
	for i := range rest[:min(len(rest), maxParts)] {
		part, touched := rest[i].next(limit-len(next), messages-int64(q.inFlight))
		next = append(next, part...)
		q.inFlight += touched
		if len(next) == limit || int64(q.inFlight) == messages {
			break
		}
	}
	return next, gathered
}

// next returns the next bytes of s to write, at most limit bytes of at most the given number of
// messages. It also returns the number of messages they touch.
func (s *segment) next(limit int, messages int64) (part []byte, touched int32) {
	touched = int32(min(int64(s.Last-s.First), messages))
	part = s.Block.buf[s.written:s.Block.end(int(s.First+touched)-1)]
	if len(part) > limit {
		part = part[:limit]
		touched = s.endingBy(s.written+limit-1) + 1
	}
	return part, touched
}

// endingBy returns the number of messages in the segment that end at offset off or before.
func (s *segment) endingBy(off int) int32 {
	return int32(sort.Search(int(s.Last-s.First), func(i int) bool { return s.Block.end(int(s.First)+i) > off }))
}

// Removed counts messages that have left a queue.
type Removed struct {
	Messages, Size int // Size is in bytes

	// Those of them outside shared blocks.
	OwnMessages, OwnSize int
}

// Add adds the counts of o.
func (r *Removed) Add(o Removed) {
	r.Messages += o.Messages
	r.Size += o.Size
	r.OwnMessages += o.OwnMessages
	r.OwnSize += o.OwnSize
}

// remove removes the messages of s before index next, and counts them.
func (r *Removed) remove(s *segment, next int32) {
	n, size := int(next-s.First), s.Block.start(int(next))-s.start()
	r.Messages += n
	r.Size += size
	if !s.Block.shared {
		r.OwnMessages += n
		r.OwnSize += size
	}
	s.First = next
}

// Advance removes the first n bytes of a queue after a Peek, because they are written. It
// counts the messages that are now completely written.
func (q *Queue) Advance(n int) (r Removed) {
	q.inFlight = 0
	for !q.Empty() {
		s := &q.segments[q.head]
		rest := len(s.unwritten())
		next := s.Last
		if n < rest {
			s.written += n
			next = s.First + s.endingBy(s.written)
		}
		q.removeWritten(&r, s, next)
		if s.First < s.Last {
			break
		}
		n -= rest
		q.pop()
	}
	q.bytes -= int64(r.Size)
	return r
}

// PeekMessage returns the oldest message. It stays valid without the lock until AdvanceMessage.
func (q *Queue) PeekMessage() []byte {
	s := &q.segments[q.head]
	q.inFlight = 1
	return s.Block.message(int(s.First))
}

// AdvanceMessage removes the oldest message if it was completely written, and otherwise keeps
// it.
func (q *Queue) AdvanceMessage(written bool) (r Removed) {
	q.inFlight = 0
	if !written {
		return r
	}
	s := &q.segments[q.head]
	q.removeWritten(&r, s, s.First+1)
	q.bytes -= int64(r.Size)
	s.written = s.start()
	if s.First == s.Last {
		q.pop()
	}
	return r
}

// Begun returns the number of messages at the front that the connection has, or may have, a
// part of. These are the messages in flight, or one that is partly written: between two writes
// of one message nothing is in flight.
func (q *Queue) Begun() int {
	if q.inFlight == 0 && !q.Empty() && q.segments[q.head].begun() {
		return 1
	}
	return int(q.inFlight)
}

// SizeOf returns the size in bytes of the first n messages.
func (q *Queue) SizeOf(n int) (size int) {
	for i := q.head; n > 0; i++ {
		r := q.segments[i].Run
		r.Last = r.First + int32(min(n, r.Len()))
		size += r.Size()
		n -= r.Len()
	}
	return size
}

// split returns the index of the segment that begins with message n from the front. If
// necessary, it divides a segment.
func (q *Queue) split(n int) int {
	i := int(q.head)
	for i < len(q.segments) && n >= int(q.segments[i].Last-q.segments[i].First) {
		n -= int(q.segments[i].Last - q.segments[i].First)
		i++
	}
	if n > 0 {
		i = q.insert(i, q.segments[i])
		front, rest := &q.segments[i], &q.segments[i+1]
		front.Last = front.First + int32(n)
		rest.First = front.Last
		rest.written = rest.start()
		q.tracker.hold(rest.Block)
		i++
	}
	return i
}

// insert puts s before segment i, and returns the new index of s.
func (q *Queue) insert(i int, s segment) int {
	if q.head > 0 { // a free slot is near, and many segments may follow
		copy(q.segments[q.head-1:], q.segments[q.head:i])
		q.head--
		q.segments[i-1] = s
		return i - 1
	}
	q.segments = slices.Insert(q.segments, i, s)
	q.clearInline()
	return i
}

// PushAt queues the messages of r by reference after the first n.
func (q *Queue) PushAt(n int, r Run) {
	i := q.split(n)
	if i == len(q.segments) {
		q.Push(r)
		return
	}
	q.insert(i, segment{r, r.start()})
	q.bytes += int64(r.Size())
}

// Urgent returns the number and the size in bytes of the urgent messages among the first n.
func (q *Queue) Urgent(n int) (messages, size int) {
	for i := q.head; n > 0; i++ {
		s := &q.segments[i]
		if s.Block.urgent {
			messages++
			size += s.Size()
		}
		n -= s.Len()
	}
	return messages, size
}

// Droppable yields the runs of messages that are neither begun nor kept, the oldest first, each
// with the number of messages before it.
func (q *Queue) Droppable() iter.Seq2[int, Run] {
	return func(yield func(int, Run) bool) {
		begun, before := q.Begun(), 0
		for _, s := range q.queued() {
			r := s.Run
			r.First += int32(max(0, min(begun-before, r.Len())))
			before += int(r.First - s.First)
			if r.Len() > 0 && !r.Block.kept && !yield(before, r) {
				return
			}
			before += r.Len()
		}
	}
}

// DropOldest removes the oldest messages that Droppable yields, at most the given number, and
// all from one run. It returns how many messages stay before them. There must be one to remove.
func (q *Queue) DropOldest(most int) (r Removed, before int) {
	before = q.Begun()
	i := q.split(before)
	for ; q.segments[i].Block.kept; i++ {
		before++
	}
	s := &q.segments[i]
	r.remove(s, s.First+int32(min(most, s.Len())))
	q.bytes -= int64(r.Size)
	if s.First < s.Last {
		s.written = s.start()
		return r, before
	}
	// Few segments are begun, but many may be queued, so close the gap from the front. The
	// garbage collector gets the block, because part of it may be in flight.
	q.tracker.letGo(s.Block)
	copy(q.segments[q.head+1:i+1], q.segments[q.head:i])
	q.segments[q.head] = segment{}
	q.head++
	if q.Empty() {
		q.emptied()
	}
	return r, before
}

// pop removes the oldest segment. All its messages are written.
func (q *Queue) pop() {
	s := q.segments[q.head]
	q.segments[q.head] = segment{}
	q.head++
	q.tracker.letGo(s.Block)
	isOwn := s.Block.pooled() || q.keepsWritten() && !s.Block.shared
	if isOwn && s.Block != q.tail && int(s.Last) == s.Block.n {
		if s.Block.pooled() {
			s.Block.Recycle()
		}
		if q.tail != nil {
			q.tail.sinceWritten = 0
		}
	}
	if q.Empty() {
		q.emptied()
	}
}

// emptied prepares the memory of an empty queue for the next message.
func (q *Queue) emptied() {
	q.head, q.segments = 0, q.segments[:0]
	if cap(q.segments) > keptSegments {
		q.segments = nil
	}
	if q.tail != nil && !q.keepsWritten() {
		q.tail.reset() // nothing refers to its messages any longer
	}
}

// Release gives back the memory that an empty queue has kept for the next message. If written
// messages are kept, the next message still goes after them, because many small blocks would take
// much memory.
func (q *Queue) Release() {
	switch {
	case q.tail == nil:
	case !q.keepsWritten():
		q.tail.Recycle()
		q.tail = nil
	case q.tracker.Written.Empty():
		q.tail = nil
	}
	q.segments = nil
}

// Share lets other queues refer to the messages.
func (q *Queue) Share() {
	for _, s := range q.queued() {
		if s.Block.pooled() {
			s.Block.class = unpooled
		}
	}
}

// Portable returns a queue of the messages that are not for one connection. The messages must be
// shared.
func (q *Queue) Portable() *Queue {
	p := new(Queue)
	for r := range q.Runs() {
		if !r.Block.bound {
			p.Push(r)
		}
	}
	return p
}

// Insert queues the messages of another queue after the first n, and returns how many. They
// must be shared, and are written from their start again.
func (q *Queue) Insert(n int, other *Queue) (messages int) {
	inserted := slices.Clone(other.queued())
	for i := range inserted {
		s := &inserted[i]
		s.written = s.start()
		messages += int(s.Last - s.First)
	}
	at := q.split(n)
	q.segments = slices.Insert(q.segments, at, inserted...)
	q.clearInline()
	q.bytes += other.bytes
	return messages
}

// Len returns the number of queued messages. It takes time for each segment.
func (q *Queue) Len() (n int) {
	for _, s := range q.queued() {
		n += s.Len()
	}
	return n
}

// Runs yields the queued messages as runs, the oldest first. A partly written message is
// yielded whole.
func (q *Queue) Runs() iter.Seq[Run] {
	return func(yield func(Run) bool) {
		for _, s := range q.queued() {
			if !yield(s.Run) {
				return
			}
		}
	}
}

// All yields the queued messages, the oldest first. A partly written message is yielded whole.
func (q *Queue) All() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for _, s := range q.queued() {
			for i := range s.Len() {
				if !yield(s.Message(i)) {
					return
				}
			}
		}
	}
}
