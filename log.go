package sendq

import (
	"bytes"
	"cmp"
	"weak"
)

// maxLogBlock bounds a block of a log. A Writer that has a single message of it pending
// keeps the whole; and each Writer with a backlog has a segment for each.
const maxLogBlock = 128 << 10

// A log is where messages to several Writers are copied, one behind the other. So a Writer
// that gets several in a row queues them as one segment, and what is pending for many
// that stall is one copy. It keeps nothing alive itself: a block lives as long as a queue
// refers to it. It is not safe for concurrent use.
type log struct {
	maxBlock int                 // bounds a block; 0 means maxLogBlock
	open     weak.Pointer[block] // where the next message goes, if it fits and there is one
}

// append copies as many of the messages, of which there is one, as belong in one block, and
// returns where they are.
func (l *log) append(messages [][]byte) (b *block, first, last int) {
	if len(messages[0]) > maxCopied {
		b = newLone(bytes.Clone(messages[0]))
		b.shared = true
		return b, 0, 1
	}
	b = l.room(len(messages[0]))
	first = b.n
	for _, p := range messages {
		if len(p) > maxCopied || !b.fits(len(p)) {
			break
		}
		b.append(p)
	}
	return b, first, b.n
}

// room returns a block into which a message of n bytes fits.
func (l *log) room(n int) *block {
	b := l.open.Value()
	if b != nil && b.fits(n) {
		return b
	}
	size := minBlock
	if b != nil { // it was filled before nobody had any of it pending
		size = min(2*len(b.buf), cmp.Or(l.maxBlock, maxLogBlock))
	}
	b = &block{buf: make([]byte, max(size, n+endSize)), class: unpooled, shared: true}
	l.open = weak.Make(b)
	return b
}
