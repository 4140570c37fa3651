package sendq

import (
	"encoding/binary"
	"math/bits"
	"sync"
)

// The sizes of pooled blocks in bytes: powers of 2 from minBlock on, one for each pool.
const (
	minBlock     = 512
	maxBlock     = 256 << 10
	blockClasses = 10
)

// maxCopied is the largest message that is copied behind others into a pooled
// block. A larger one gets a block of its own, and is copied without the lock.
const maxCopied = 16 << 10

const endSize = 4 // bytes of an entry in a block's index

var blockPools [blockClasses]sync.Pool

// A block holds messages one behind the other, and an index of where each ends.
// The messages fill buf from the front, the index from the back, until they meet:
//
//	| message 0 | message 1 | ... free ... | end of 1 | end of 0 |
//
// One goroutine at a time appends; what has been appended never changes, so any
// number of others may read it meanwhile.
type block struct {
	buf    []byte
	class  int32 // of size minBlock << class, if it is pooled
	shared bool  // messages to many are in it; never changed

	// Owned by whoever appends.
	behind int32 // how many blocks of the queue were begun since one was written, for nextBlock
	used   int   // bytes of messages
	n      int   // messages
}

// Classes of blocks that come from no pool.
const (
	// loneMessage is a block that holds one message and no index: a message too
	// large to share a block, or one whose bytes belong to somebody else.
	loneMessage = -1

	// unpooled is a block to which several queues may refer.
	unpooled = -2
)

// newLone returns a block whose only message is p, without copying it.
func newLone(p []byte) *block {
	return &block{buf: p, class: loneMessage, used: len(p), n: 1}
}

// newBlock returns an empty block of at least size bytes, which is at most maxBlock.
func newBlock(size int) *block {
	class := bits.Len(uint(max(size, minBlock)-1)) - bits.Len(minBlock-1)
	if b, ok := blockPools[class].Get().(*block); ok {
		return b
	}
	return &block{buf: make([]byte, minBlock<<class), class: int32(class)}
}

func (b *block) pooled() bool { return b.class >= 0 }

// recycle gives a pooled block back. No message of it may be in use.
func (b *block) recycle() {
	b.reset()
	blockPools[b.class].Put(b)
}

func (b *block) reset() { b.used, b.n, b.behind = 0, 0, 0 }

// fits tells whether a message of n bytes can be appended.
func (b *block) fits(n int) bool {
	return n <= len(b.buf)-b.used-endSize*(b.n+1)
}

// append copies p, which fits, behind the other messages and returns its index.
func (b *block) append(p []byte) int {
	b.used += copy(b.buf[b.used:], p)
	binary.NativeEndian.PutUint32(b.buf[len(b.buf)-endSize*(b.n+1):], uint32(b.used))
	b.n++
	return b.n - 1
}

// message returns message i.
func (b *block) message(i int) []byte { return b.buf[b.start(i):b.end(i):b.end(i)] }

func (b *block) start(i int) int {
	if i == 0 {
		return 0
	}
	return b.end(i - 1)
}

func (b *block) end(i int) int {
	if b.class == loneMessage {
		return len(b.buf)
	}
	return int(binary.NativeEndian.Uint32(b.buf[len(b.buf)-endSize*(i+1):]))
}
