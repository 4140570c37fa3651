package queue

import (
	"iter"
	"slices"
)

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

// Share lets other queues refer to the messages.
func (q *Queue) Share() {
	for _, s := range q.queued() {
		if s.Block.pooled() {
			s.Block.class = unpooled
		}
	}
}

// IsBound reports whether the first message, if there is one, is for one connection only.
func (q *Queue) IsBound() bool { return !q.Empty() && q.segments[q.head].Block.bound }

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
