// Package queue holds messages until a connection takes them: in blocks, in a queue for each
// connection, in a log for messages to many, and in a history. It knows nothing of connections.
package queue

import "iter"

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
