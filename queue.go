package sendq

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

// A queue holds the messages that a Writer has accepted and the connection has
// not taken yet: a list of segments, each a run of messages in a block. It is not
// safe for concurrent use; the Writer's lock guards it.
//
// One growing []byte would be simpler, and was measured 6 to 10 times slower than
// a mutex around conn.Write once messages reach 16 KiB: growing copies the backlog
// again and again, and touches cold memory.
type queue struct {
	segments []segment  // segments[head:] are queued, the oldest first
	one      [1]segment // where segments starts: a short queue allocates no list
	own      *block     // the block that copied messages are appended to, or nil
	bytes    int64      // in queued messages, including one that is partly written
	backlog  *backlog   // what its Budget holds it to account for; nil without a Budget
	head     int32      // the slots before it are zero, so they keep no block alive
	inFlight int32      // how many messages of the front the last peek touches
}

// A segment is the run of messages [first, last) of a block. Other queues may hold
// segments of the same block: a message to a thousand Writers is one block, and a
// segment in each of their queues.
type segment struct {
	block       *block
	written     int // offset in the block up to which the connection has the bytes
	first, last int32
}

func (s *segment) unwritten() []byte { return s.block.buf[s.written:s.end()] }

// start and end are the offsets in the block at which the segment's messages start and end.
func (s *segment) start() int { return s.block.start(int(s.first)) }
func (s *segment) end() int   { return s.block.end(int(s.last) - 1) }

// begun reports whether the connection has taken part of the segment's first message.
func (s *segment) begun() bool { return s.written > s.start() }

func (q *queue) empty() bool { return int(q.head) == len(q.segments) }

// queued returns the segments, the oldest first.
func (q *queue) queued() []segment { return q.segments[q.head:] }

// extend queues a copy of p if it fits behind the last message, and tells whether it did.
func (q *queue) extend(p []byte) bool {
	if q.own == nil || q.empty() || !q.own.fits(len(p)) || len(p) > maxCopied {
		return false
	}
	tail := &q.segments[len(q.segments)-1]
	if tail.block != q.own {
		return false
	}
	q.own.append(p)
	tail.last++
	q.bytes += int64(len(p))
	return true
}

// copyIn queues a copy of p, of at most maxCopied bytes.
func (q *queue) copyIn(p []byte) {
	switch {
	case q.own == nil:
		q.own = newBlock(len(p) + endSize)
		q.own.behind = stalledBlocks
	case !q.own.fits(len(p)):
		q.own = q.nextBlock(len(p) + endSize)
	}
	i := q.own.append(p)
	q.push(q.own, i, i+1)
}

// nextBlock returns the block behind the own one, which is full: of twice its size, if the
// backlog has grown with it. So a queue takes little more than its backlog, and a long one has
// few blocks.
//
// While the connection takes one block after the other, each may be half of the backlog. A
// write goes to the end of a block at most, and with shorter ones a third of all time went
// into the writes.
func (q *queue) nextBlock(atLeast int) *block {
	share := int64(8)
	if q.own.behind < stalledBlocks {
		share = 2
	}
	b := newBlock(max(atLeast, int(min(int64(2*len(q.own.buf)), q.bytes/share, maxBlock))))
	b.behind = q.own.behind + 1
	return b
}

// stalledBlocks is how many blocks are begun while none is written when a connection stalls.
const stalledBlocks = 4

// push queues messages [first, last) of b by reference, and returns their size.
func (q *queue) push(b *block, first, last int) (size int) {
	size = b.end(last-1) - b.start(first)
	q.bytes += int64(size)
	if q.endsBefore(b, first) {
		q.segments[len(q.segments)-1].last = int32(last)
		return size
	}
	if q.segments == nil {
		q.segments = q.one[:0]
	}
	if len(q.segments) == cap(q.segments) && int(q.head) > len(q.segments)/2 {
		// Mostly popped slots: move down rather than grow.
		n := copy(q.segments, q.queued())
		clear(q.segments[n:])
		q.segments, q.head = q.segments[:n], 0
	}
	q.segments = append(q.segments, segment{block: b, first: int32(first), last: int32(last), written: b.start(first)})
	q.forgetOne()
	return size
}

// endsBefore reports whether the last queued message is the one before message i of b, so that
// the last segment can be extended.
func (q *queue) endsBefore(b *block, i int) bool {
	if q.empty() {
		return false
	}
	tail := &q.segments[len(q.segments)-1]
	return tail.block == b && int(tail.last) == i
}

// forgetOne is called when the list has grown: if it has moved away from q.one, that must
// keep no block alive.
func (q *queue) forgetOne() {
	if len(q.segments) > len(q.one) {
		q.one[0] = segment{}
	}
}

// shrink moves what is queued into a smaller block, if it is little beside the one that
// it is in: a peer that stalls now would keep that. Nothing is in flight.
func (q *queue) shrink() {
	if q.own == nil || len(q.own.buf) < 16*minBlock || len(q.queued()) != 1 {
		return
	}
	s := &q.segments[q.head]
	n := s.last - s.first
	size := q.bytes + endSize*int64(n)
	little := len(q.own.buf) / 8
	if len(q.own.buf) <= burstBlock { // which may be the first of a backlog, and is soon copied
		little = len(q.own.buf) / 2
	}
	if s.block != q.own || size > int64(little) {
		return
	}
	b := newBlock(int(size))
	for i := s.first; i < s.last; i++ {
		b.append(s.block.message(int(i)))
	}
	*s = segment{block: b, last: n, written: s.written - s.start()}
	q.own.recycle()
	q.own = b
}

// peek returns the next bytes to write: at most limit of them, and of at most the given
// number of messages. They stay valid without the lock until advance. If gathered is not
// nil they are a copy in that block, which is to be recycled then.
//
// Small segments are copied together rather than handed to net.Buffers, which is one system
// call on connections of package net only, and one Write each on all others. There, too,
// one large write beats many vectors, and a wide writev makes Go keep up to 16 KiB for a
// connection ever after.
func (q *queue) peek(limit int, messages int64) (next []byte, gathered *block) {
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
	touched = int32(min(int64(s.last-s.first), messages))
	part = s.block.buf[s.written:s.block.end(int(s.first+touched)-1)]
	if len(part) > limit {
		part = part[:limit]
		touched = s.endingBy(s.written+limit-1) + 1
	}
	return part, touched
}

// endingBy returns how many messages of the segment end at offset off or before.
func (s *segment) endingBy(off int) int32 {
	return int32(sort.Search(int(s.last-s.first), func(i int) bool { return s.block.end(int(s.first)+i) > off }))
}

// removed are messages that have left a queue.
type removed struct {
	messages int
	size     int   // in bytes
	alone    int64 // what they cost their Budget beside the blocks that queues share
}

// remove takes the messages of s before the one with the index next off the front.
func (r *removed) remove(s *segment, next int32) {
	n, size := int(next-s.first), s.block.start(int(next))-s.start()
	r.messages += n
	r.size += size
	if !s.block.shared {
		r.alone += costOf(n, size)
	}
	s.first = next
}

// advance removes n bytes, which were written, from the front of a queue that was
// peeked at, and with them the messages that are now whole on the connection.
func (q *queue) advance(n int) (r removed) {
	q.inFlight = 0
	for !q.empty() {
		s := &q.segments[q.head]
		rest := len(s.unwritten())
		next := s.last
		if n < rest {
			s.written += n
			next = s.first + s.endingBy(s.written)
		}
		r.remove(s, next)
		if s.first < s.last {
			break
		}
		n -= rest
		q.pop()
	}
	q.bytes -= int64(r.size)
	return r
}

// peekMessage returns the oldest message. It stays valid like peek's bytes.
func (q *queue) peekMessage() []byte {
	s := &q.segments[q.head]
	q.inFlight = 1
	return s.block.message(int(s.first))
}

// advanceMessage removes the oldest message, which was written whole if written is
// true, and else stays.
func (q *queue) advanceMessage(written bool) (r removed) {
	q.inFlight = 0
	if !written {
		return r
	}
	s := &q.segments[q.head]
	r.remove(s, s.first+1)
	q.bytes -= int64(r.size)
	s.written = s.start()
	if s.first == s.last {
		q.pop()
	}
	return r
}

// begun returns how many messages at the front the connection has, or may have, a part of,
// and their size: those in flight, or one that is partly written. Between two writes of one
// message nothing is in flight.
func (q *queue) begun() (messages, size int) {
	n := q.inFlight
	if n == 0 && !q.empty() && q.segments[q.head].begun() {
		n = 1
	}
	messages = int(n)
	for i := q.head; n > 0; i++ {
		s := &q.segments[i]
		last := min(s.last, s.first+n)
		size += s.block.start(int(last)) - s.start()
		n -= last - s.first
	}
	return messages, size
}

// split returns where in the list message n from the front begins, and divides a segment
// if need be.
func (q *queue) split(n int) int {
	i := int(q.head)
	for i < len(q.segments) && n >= int(q.segments[i].last-q.segments[i].first) {
		n -= int(q.segments[i].last - q.segments[i].first)
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
		front.last = front.first + int32(n)
		rest.first = front.last
		rest.written = rest.start()
		q.backlog.hold(rest.block)
		i++
	}
	return i
}

// dropOldest removes the oldest message that is not begun, of which there is one.
func (q *queue) dropOldest() (r removed) {
	begun, _ := q.begun()
	i := q.split(begun)
	s := &q.segments[i]
	r.remove(s, s.first+1)
	q.bytes -= int64(r.size)
	if s.first < s.last {
		s.written = s.start()
		return r
	}
	// Few segments are begun, but many may be queued: close the gap from the front. The block
	// goes to the garbage collector, because part of it may be in flight.
	q.backlog.letGo(s.block)
	copy(q.segments[q.head+1:i+1], q.segments[q.head:i])
	q.segments[q.head] = segment{}
	q.head++
	if q.empty() {
		q.emptied()
	}
	return r
}

// pop removes the oldest segment, whose messages are all written.
func (q *queue) pop() {
	s := q.segments[q.head]
	q.segments[q.head] = segment{}
	q.head++
	q.backlog.letGo(s.block)
	if s.block != q.own && s.block.pooled() && int(s.last) == s.block.n {
		s.block.recycle()
		if q.own != nil {
			q.own.behind = 0
		}
	}
	if q.empty() {
		q.emptied()
	}
}

// emptied makes the memory of a queue that has become empty ready for the next message.
func (q *queue) emptied() {
	q.head, q.segments = 0, q.segments[:0]
	if cap(q.segments) > keptSegments {
		q.segments = nil
	}
	if q.own != nil {
		q.own.reset() // nothing refers to its messages any more
	}
}

// release gives back what an empty queue has kept for the next message.
func (q *queue) release() {
	if q.own != nil {
		q.own.recycle()
		q.own = nil
	}
	q.segments = nil
}

// share lets other queues refer to the messages.
func (q *queue) share() {
	for _, s := range q.queued() {
		if s.block.pooled() {
			s.block.class = unpooled
		}
	}
}

// insert queues the messages of another queue behind the first n and returns how many. They
// must be shared; what was written of them counts no more.
func (q *queue) insert(n int, other *queue) (messages int) {
	inserted := slices.Clone(other.queued())
	for i := range inserted {
		s := &inserted[i]
		s.written = s.start()
		messages += int(s.last - s.first)
	}
	at := q.split(n)
	q.segments = slices.Insert(q.segments, at, inserted...)
	q.forgetOne()
	q.bytes += other.bytes
	return messages
}

// all yields the queued messages, the oldest first, a partly written one whole.
func (q *queue) all() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for _, s := range q.queued() {
			for i := s.first; i < s.last; i++ {
				if !yield(s.block.message(int(i))) {
					return
				}
			}
		}
	}
}
