package queue

import (
	"iter"
	"slices"
	"sort"
)

// maxParts and maxGather bound how many segments, and how many bytes of them, are copied
// together for one conn.Write: a peer that stalls keeps the copy too.
const (
	maxParts  = 64
	maxGather = 16 << 10
)

// keptSegments bounds the list that a queue keeps for its next backlog while its
// flusher lives.
const keptSegments = 64

// A Queue holds the messages that a Writer has accepted and the connection has
// not taken yet: a list of segments, each a run of messages in a block. It is not
// safe for concurrent use; the Writer's lock guards it.
//
// One growing []byte would be simpler, and was measured 6 to 10 times slower than
// a mutex around conn.Write once messages reach 16 KiB: growing copies the backlog
// again and again, and touches cold memory.
type Queue struct {
	segments []segment  // segments[head:] are queued, the oldest first
	inline   [1]segment // where segments starts: a short queue allocates no list
	tail     *Block     // the block that copied messages are appended to, or nil
	bytes    int64      // in queued messages, including one that is partly written
	tracker  *Tracker   // nil if nobody follows which blocks the queue shares
	head     int32      // the slots before it are zero, so they keep no block alive
	inFlight int32      // how many messages of the front the last peek touches
}

// A segment is a run of messages that is queued. Other queues may hold segments of the same
// block: a message to a thousand Writers is one block, and a segment in each of their queues.
type segment struct {
	Run
	written int // offset in the block up to which the connection has the bytes
}

func (s *segment) unwritten() []byte { return s.Block.buf[s.written:s.end()] }

// Begun reports whether the connection has taken part of the segment's first message.
func (s *segment) begun() bool { return s.written > s.start() }

// A Tracker is told how often a queue refers to a block that queues share.
type Tracker struct {
	Hold  func(*Block) // once more, because a segment was split
	LetGo func(*Block) // once less
}

func (t *Tracker) hold(b *Block) {
	if t != nil && b.shared {
		t.Hold(b)
	}
}

func (t *Tracker) letGo(b *Block) {
	if t != nil && b.shared {
		t.LetGo(b)
	}
}

// Of returns a queue of messages, which others may share. It copies those that are not long.
func Of(messages [][]byte) *Queue {
	q := new(Queue)
	for _, p := range messages {
		q.keep(p)
	}
	q.Share()
	return q
}

// keep queues p, or a copy of it unless it is long.
func (q *Queue) keep(p []byte) {
	if len(p) > MaxCopied {
		q.Push(Lone(p))
	} else {
		q.CopyIn(p)
	}
}

// Track makes t follow the queue, which is empty.
func (q *Queue) Track(t *Tracker) { q.tracker = t }

// Bytes returns the size of the queued messages, one that is partly written included.
func (q *Queue) Bytes() int64 { return q.bytes }

// IsInFlight reports whether bytes that Peek returned are being written.
func (q *Queue) IsInFlight() bool { return q.inFlight > 0 }

// Empty reports whether no message is queued.
func (q *Queue) Empty() bool { return int(q.head) == len(q.segments) }

// queued returns the segments, the oldest first.
func (q *Queue) queued() []segment { return q.segments[q.head:] }

// Extend queues a copy of p if it fits behind the last message, and tells whether it did.
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

// CopyIn queues a copy of p, of at most maxCopied bytes.
func (q *Queue) CopyIn(p []byte) {
	switch {
	case q.tail == nil:
		q.tail = newBlock(len(p) + endSize)
		q.tail.sinceWritten = stalledBlocks
	case !q.tail.fits(len(p)):
		q.tail = q.nextBlock(len(p) + endSize)
	}
	i := int32(q.tail.append(p))
	q.Push(Run{q.tail, i, i + 1})
}

// nextBlock returns the block behind the own one, which is full: of twice its size, if the
// backlog has grown with it. So a queue takes little more than its backlog, and a long one has
// few blocks.
//
// While the connection takes one block after the other, each may be half of the backlog. A
// write goes to the end of a block at most, and with shorter ones a third of all time went
// into the writes.
func (q *Queue) nextBlock(atLeast int) *Block {
	share := int64(8)
	if q.tail.sinceWritten < stalledBlocks {
		share = 2
	}
	b := newBlock(max(atLeast, int(min(int64(2*len(q.tail.buf)), q.bytes/share, maxBlock))))
	b.sinceWritten = q.tail.sinceWritten + 1
	return b
}

// burstBlock is the size of the first block of a burst, in bytes. Were it as small as that of
// a single message, the writes of a burst would begin small again each time that the flusher
// has caught up. If little comes, Shrink gives it back.
const burstBlock = 64 << 10

// ExpectBurst makes the block that copied messages go to a large one. There is none yet.
func (q *Queue) ExpectBurst() { q.tail = newBlock(burstBlock) }

// HasBlock reports whether there is a block that copied messages go to.
func (q *Queue) HasBlock() bool { return q.tail != nil }

// stalledBlocks is how many blocks are begun while none is written when a connection stalls.
const stalledBlocks = 4

// Push queues the messages of r by reference, and returns their size.
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
		// Mostly popped slots: move down rather than grow.
		n := copy(q.segments, q.queued())
		clear(q.segments[n:])
		q.segments, q.head = q.segments[:n], 0
	}
	q.segments = append(q.segments, segment{r, r.start()})
	q.forgetOne()
	return size
}

// EndsBefore reports whether the last queued message is the one before r in its block, so that
// Push makes the last segment longer.
func (q *Queue) EndsBefore(r Run) bool {
	if q.Empty() {
		return false
	}
	tail := &q.segments[len(q.segments)-1]
	return tail.Block == r.Block && tail.Last == r.First
}

// forgetOne is called when the list has grown: if it has moved away from q.one, that must
// keep no block alive.
func (q *Queue) forgetOne() {
	if len(q.segments) > len(q.inline) {
		q.inline[0] = segment{}
	}
}

// Shrink moves what is queued into a smaller block, if it is little beside the one that
// it is in: a peer that stalls now would keep that. Nothing is in flight.
func (q *Queue) Shrink() {
	if q.tail == nil || len(q.tail.buf) < 16*MinBlock || len(q.queued()) != 1 {
		return
	}
	s := &q.segments[q.head]
	n := s.Last - s.First
	size := q.bytes + endSize*int64(n)
	little := len(q.tail.buf) / 8
	if len(q.tail.buf) <= burstBlock { // which may be the first of a backlog, and is soon copied
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

// Peek returns the next bytes to write: at most limit of them, and of at most the given
// number of messages. They stay valid without the lock until advance. If gathered is not
// nil they are a copy in that block, which is to be recycled then.
//
// Small segments are copied together rather than handed to net.Buffers, which is one system
// call on connections of package net only, and one Write each on all others. There, too,
// one large write beats many vectors, and a wide writev makes Go keep up to 16 KiB for a
// connection ever after.
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

// next returns the next bytes of s to write, at most limit of them and of at most the given
// number of messages, and how many messages they touch.
func (s *segment) next(limit int, messages int64) (part []byte, touched int32) {
	touched = int32(min(int64(s.Last-s.First), messages))
	part = s.Block.buf[s.written:s.Block.end(int(s.First+touched)-1)]
	if len(part) > limit {
		part = part[:limit]
		touched = s.endingBy(s.written+limit-1) + 1
	}
	return part, touched
}

// endingBy returns how many messages of the segment end at offset off or before.
func (s *segment) endingBy(off int) int32 {
	return int32(sort.Search(int(s.Last-s.First), func(i int) bool { return s.Block.end(int(s.First)+i) > off }))
}

// Removed counts messages that have left a queue.
type Removed struct {
	Messages, Size int // Size is in bytes

	// Those of them that were in no shared block.
	OwnMessages, OwnSize int
}

// remove takes the messages of s before the one with the index next off the front.
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

// Advance removes n bytes, which were written, from the front of a queue that was
// peeked at, and with them the messages that are now whole on the connection.
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
		r.remove(s, next)
		if s.First < s.Last {
			break
		}
		n -= rest
		q.pop()
	}
	q.bytes -= int64(r.Size)
	return r
}

// PeekMessage returns the oldest message. It stays valid like peek's bytes.
func (q *Queue) PeekMessage() []byte {
	s := &q.segments[q.head]
	q.inFlight = 1
	return s.Block.message(int(s.First))
}

// AdvanceMessage removes the oldest message, which was written whole if written is
// true, and else stays.
func (q *Queue) AdvanceMessage(written bool) (r Removed) {
	q.inFlight = 0
	if !written {
		return r
	}
	s := &q.segments[q.head]
	r.remove(s, s.First+1)
	q.bytes -= int64(r.Size)
	s.written = s.start()
	if s.First == s.Last {
		q.pop()
	}
	return r
}

// Begun returns how many messages at the front the connection has, or may have, a part of,
// and their size: those in flight, or one that is partly written. Between two writes of one
// message nothing is in flight.
func (q *Queue) Begun() (messages, size int) {
	n := q.inFlight
	if n == 0 && !q.Empty() && q.segments[q.head].begun() {
		n = 1
	}
	messages = int(n)
	for i := q.head; n > 0; i++ {
		s := &q.segments[i]
		last := min(s.Last, s.First+n)
		size += s.Block.start(int(last)) - s.start()
		n -= last - s.First
	}
	return messages, size
}

// split returns where in the list message n from the front begins, and divides a segment
// if need be.
func (q *Queue) split(n int) int {
	i := int(q.head)
	for i < len(q.segments) && n >= int(q.segments[i].Last-q.segments[i].First) {
		n -= int(q.segments[i].Last - q.segments[i].First)
		i++
	}
	if n > 0 {
		if q.head > 0 { // a free slot is near, and there may be many segments behind
			copy(q.segments[q.head-1:], q.segments[q.head:i+1])
			q.head--
			i--
		} else {
			q.segments = slices.Insert(q.segments, i, q.segments[i])
			q.forgetOne()
		}
		front, rest := &q.segments[i], &q.segments[i+1]
		front.Last = front.First + int32(n)
		rest.First = front.Last
		rest.written = rest.start()
		q.tracker.hold(rest.Block)
		i++
	}
	return i
}

// DropOldest removes the oldest message that is not begun, of which there is one.
func (q *Queue) DropOldest() (r Removed) {
	begun, _ := q.Begun()
	i := q.split(begun)
	s := &q.segments[i]
	r.remove(s, s.First+1)
	q.bytes -= int64(r.Size)
	if s.First < s.Last {
		s.written = s.start()
		return r
	}
	// Few segments are begun, but many may be queued: close the gap from the front. The block
	// goes to the garbage collector, because part of it may be in flight.
	q.tracker.letGo(s.Block)
	copy(q.segments[q.head+1:i+1], q.segments[q.head:i])
	q.segments[q.head] = segment{}
	q.head++
	if q.Empty() {
		q.emptied()
	}
	return r
}

// pop removes the oldest segment, whose messages are all written.
func (q *Queue) pop() {
	s := q.segments[q.head]
	q.segments[q.head] = segment{}
	q.head++
	q.tracker.letGo(s.Block)
	if s.Block != q.tail && s.Block.pooled() && int(s.Last) == s.Block.n {
		s.Block.Recycle()
		if q.tail != nil {
			q.tail.sinceWritten = 0
		}
	}
	if q.Empty() {
		q.emptied()
	}
}

// emptied makes the memory of a queue that has become empty ready for the next message.
func (q *Queue) emptied() {
	q.head, q.segments = 0, q.segments[:0]
	if cap(q.segments) > keptSegments {
		q.segments = nil
	}
	if q.tail != nil {
		q.tail.reset() // nothing refers to its messages any more
	}
}

// Release gives back what an empty queue has kept for the next message.
func (q *Queue) Release() {
	if q.tail != nil {
		q.tail.Recycle()
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

// Insert queues the messages of another queue behind the first n and returns how many. They
// must be shared; what was written of them counts no more.
func (q *Queue) Insert(n int, other *Queue) (messages int) {
	inserted := slices.Clone(other.queued())
	for i := range inserted {
		s := &inserted[i]
		s.written = s.start()
		messages += int(s.Last - s.First)
	}
	at := q.split(n)
	q.segments = slices.Insert(q.segments, at, inserted...)
	q.forgetOne()
	q.bytes += other.bytes
	return messages
}

// Runs yields the queued messages as runs, the oldest first, a partly written message whole.
func (q *Queue) Runs() iter.Seq[Run] {
	return func(yield func(Run) bool) {
		for _, s := range q.queued() {
			if !yield(s.Run) {
				return
			}
		}
	}
}

// All yields the queued messages, the oldest first, a partly written one whole.
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
