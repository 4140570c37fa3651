package queue

import (
	"bytes"
	"cmp"
	"weak"
)

// maxLogBlock is the largest size of a log's block, in bytes. A Writer with one message of a
// block pending keeps the whole block alive. But with small blocks, a Writer with a backlog has
// more segments.
const maxLogBlock = 128 << 10

// A Log copies messages to several Writers into blocks, one message after the other. Successive
// messages for a Writer make one segment in its queue, and the backlog of many stalled Writers
// is one copy. A Log keeps no block alive: a block lives as long as a queue refers to it. A Log
// is not safe for concurrent use.
type Log struct {
	MaxBlock int                 // largest size of a block in bytes; 0 means maxLogBlock
	open     weak.Pointer[Block] // block for the next message, if it is alive and has room
}

// Append copies messages into one block and returns the copies. It copies the first message,
// and as many of the next ones as belong in the same block. There must be at least one message.
func (l *Log) Append(messages [][]byte) Run {
	if len(messages[0]) > MaxCopied {
		return Shared(messages[0])
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

// Shared returns a run of one message for several queues. The message is a copy of p in a new block.
func Shared(p []byte) Run {
	r := Lone(bytes.Clone(p))
	r.Block.shared = true
	return r
}

// room returns a block with room for a message of n bytes.
func (l *Log) room(n int) *Block {
	b := l.open.Value()
	if b != nil && b.fits(n) {
		return b
	}
	size := MinBlock
	if b != nil { // the open block is full and still pending somewhere
		size = min(2*len(b.buf), cmp.Or(l.MaxBlock, maxLogBlock))
	}
	b = &Block{buf: make([]byte, max(size, n+endSize)), class: unpooled, shared: true}
	l.open = weak.Make(b)
	return b
}
