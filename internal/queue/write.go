package queue

import "sort"

// maxParts and maxGather are the most segments, and the most bytes of them, that are copied
// together for one conn.Write. They are small because a stalled peer keeps the copy, too.
const (
	maxParts  = 64
	maxGather = 16 << 10
)

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
