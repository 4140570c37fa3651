package queue

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

// Track makes t track the queue, which must be empty.
func (q *Queue) Track(t *Tracker) { q.tracker = t }
