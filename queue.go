package sendq

import (
	"iter"
	"sort"
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
	head     int        // the slots before it are zero, so they keep no block alive
	one      [1]segment // where segments starts: a short queue allocates no list
	own      *block     // the block that copied messages are appended to, or nil
	bytes    int        // in queued messages, including one that is partly written
}

// A segment is the run of messages [first, last) of a block. Other queues may hold
// segments of the same block: a message to a thousand Writers is one block, and a
// segment in each of their queues.
type segment struct {
	block       *block
	first, last int
	written     int // offset in the block up to which the connection has the bytes
}

func (s *segment) unwritten() []byte { return s.block.buf[s.written:s.block.end(s.last-1)] }

func (q *queue) empty() bool { return q.head == len(q.segments) }

// copyIn queues a copy of p, of at most maxCopied bytes.
func (q *queue) copyIn(p []byte) {
	if q.own == nil || !q.own.fits(len(p)) {
		// Twice the backlog: a short message costs a small block, and a long
		// backlog a few large ones.
		q.own = newBlock(max(2*q.bytes, len(p)))
	}
	q.push(q.own, q.own.append(p))
}

// push queues message i of b by reference.
func (q *queue) push(b *block, i int) {
	q.bytes += b.end(i) - b.start(i)
	if !q.empty() {
		if tail := &q.segments[len(q.segments)-1]; tail.block == b && tail.last == i {
			tail.last++
			return
		}
	}
	if q.segments == nil {
		q.segments = q.one[:0]
	}
	if len(q.segments) == cap(q.segments) && q.head > len(q.segments)/2 {
		// Mostly popped slots: move down rather than grow.
		n := copy(q.segments, q.segments[q.head:])
		clear(q.segments[n:])
		q.segments, q.head = q.segments[:n], 0
	}
	q.segments = append(q.segments, segment{block: b, first: i, last: i + 1, written: b.start(i)})
}

// peek fills parts with the next bytes to write, at most limit of them, and
// returns the filled ones. They stay valid without the lock until advance.
func (q *queue) peek(parts [][]byte, limit int) [][]byte {
	n := 0
	for i := q.head; i < len(q.segments) && n < len(parts) && limit > 0; i++ {
		part := q.segments[i].unwritten()
		part = part[:min(len(part), limit)]
		parts[n] = part
		limit -= len(part)
		n++
	}
	return parts[:n]
}

// advance removes n bytes that were written from the front of a non-empty queue,
// and with them the messages that are now whole on the connection. It returns how
// many these are, and their size in bytes.
func (q *queue) advance(n int) (messages, size int) {
	for !q.empty() {
		s := &q.segments[q.head]
		b, next := s.block, s.last
		rest := len(s.unwritten())
		if n < rest {
			s.written += n
			next = s.first + sort.Search(s.last-s.first, func(i int) bool { return b.end(s.first+i) > s.written })
		}
		messages += next - s.first
		size += b.start(next) - b.start(s.first)
		s.first = next
		if s.first < s.last {
			break
		}
		n -= rest
		q.pop()
	}
	q.bytes -= size
	return messages, size
}

// peekMessage returns the oldest message. It stays valid like peek's bytes.
func (q *queue) peekMessage() []byte {
	s := &q.segments[q.head]
	return s.block.message(s.first)
}

// advanceMessage removes the oldest message, which was written whole.
func (q *queue) advanceMessage() {
	s := &q.segments[q.head]
	q.bytes -= len(s.block.message(s.first))
	s.written = s.block.end(s.first)
	if s.first++; s.first == s.last {
		q.pop()
	}
}

// pop removes the oldest segment, whose messages are all written.
func (q *queue) pop() {
	s := q.segments[q.head]
	q.segments[q.head] = segment{}
	q.head++
	if s.block != q.own && s.block.pooled() && s.last == s.block.n {
		s.block.recycle()
	}
	if q.empty() {
		q.head, q.segments = 0, q.segments[:0]
		if cap(q.segments) > keptSegments {
			q.segments = nil
		}
		if q.own != nil {
			q.own.reset() // nothing refers to its messages any more
		}
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

// all yields the queued messages, the oldest first, a partly written one whole.
func (q *queue) all() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for _, s := range q.segments[q.head:] {
			for i := s.first; i < s.last; i++ {
				if !yield(s.block.message(i)) {
					return
				}
			}
		}
	}
}
