package queue

import (
	"bytes"
	"cmp"
	"weak"
)

// maxLogBlock bounds a block of a log. A Writer that has a single message of it pending
// keeps the whole; and each Writer with a backlog has a segment for each.
const maxLogBlock = 128 << 10

// A Log is where messages to several Writers are copied, one behind the other. So a Writer
// that gets several in a row queues them as one segment, and what is pending for many
// that stall is one copy. It keeps nothing alive itself: a block lives as long as a queue
// refers to it. It is not safe for concurrent use.
type Log struct {
	MaxBlock int                 // bounds a block; 0 means maxLogBlock
	open     weak.Pointer[Block] // where the next message goes, if it fits and there is one
}

// Append copies as many of the messages, of which there is one, as belong in one block, and
// returns the copies.
func (l *Log) Append(messages [][]byte) Run {
	if len(messages[0]) > MaxCopied {
		r := Lone(bytes.Clone(messages[0]))
		r.Block.shared = true
		return r
	}
	b := l.room(len(messages[0]))
	first := b.n
	for _, p := range messages {
		if len(p) > MaxCopied || !b.fits(len(p)) {
			break
		}
		b.append(p)
	}
	return Run{b, int32(first), int32(b.n)}
}

// room returns a block into which a message of n bytes fits.
func (l *Log) room(n int) *Block {
	b := l.open.Value()
	if b != nil && b.fits(n) {
		return b
	}
	size := MinBlock
	if b != nil { // it was filled before nobody had any of it pending
		size = min(2*len(b.buf), cmp.Or(l.MaxBlock, maxLogBlock))
	}
	b = &Block{buf: make([]byte, max(size, n+endSize)), class: unpooled, shared: true}
	l.open = weak.Make(b)
	return b
}
