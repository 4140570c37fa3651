package queue

import (
	"encoding/binary"
	"math/bits"
	"sync"
)

// Sizes of pooled blocks in bytes: powers of 2, from MinBlock to maxBlock, with one pool for
// each.
const (
	MinBlock     = 512
	maxBlock     = 256 << 10
	blockClasses = 10
)

// MaxCopied is the size of the largest message, in bytes, that is copied into a pooled block
// with others. A larger message gets its own block, and is copied without the lock.
const MaxCopied = 16 << 10

const endSize = 4 // bytes of one entry in a block's index

var blockPools [blockClasses]sync.Pool

// A Block holds messages, one after the other, and an index of their ends. The messages fill
// buf from the front, and the index fills it from the back, until they meet:
//
//	| message 0 | message 1 | ... free ... | end of 1 | end of 0 |
//
// Only one goroutine appends at a time. Appended bytes never change, so other goroutines may
// read them concurrently.
type Block struct {
	buf    []byte
	class  int32 // of size MinBlock << class, if it is pooled
	shared bool  // holds messages to several queues; never changed
	kept   bool  // its message must not be dropped; never changed
	urgent bool  // its message goes before others; never changed
	bound  bool  // its message is for one connection, and not passed on to another; never changed

	// Owned by the goroutine that appends.
	sinceWritten int32 // blocks begun since the queue last had one written, for nextBlock
	used         int   // bytes of messages
	n            int   // number of messages
}

// Classes of blocks that come from no pool.
const (
	// loneMessage is a block with one message and no index: the message is too large to share a
	// block, or its bytes belong to somebody else.
	loneMessage = -1

	// unpooled is a block that several queues may refer to.
	unpooled = -2
)

// Lone returns a run of one message in a new block. The message is p itself, not a copy.
func Lone(p []byte) Run {
	return Run{&Block{buf: p, class: loneMessage, used: len(p), n: 1}, 0, 1}
}

// Kept is Lone for a message that must not be dropped.
func Kept(p []byte) Run {
	r := Lone(p)
	r.Block.kept = true
	return r
}

// Bound is Kept for a message that is for one connection.
func Bound(p []byte) Run {
	r := Kept(p)
	r.Block.bound = true
	return r
}

// Urgent is Bound for a message that goes before others.
func Urgent(p []byte) Run {
	r := Bound(p)
	r.Block.urgent = true
	return r
}

// newBlock returns an empty block of at least size bytes. size is at most maxBlock.
func newBlock(size int) *Block {
	class := bits.Len(uint(max(size, MinBlock)-1)) - bits.Len(MinBlock-1)
	if b, ok := blockPools[class].Get().(*Block); ok {
		return b
	}
	return &Block{buf: make([]byte, MinBlock<<class), class: int32(class)}
}

// IsShared reports whether the block was made for several queues.
func (b *Block) IsShared() bool { return b.shared }

// IsLone reports whether the block holds a single message and has no room for others.
func (b *Block) IsLone() bool { return b.class == loneMessage }

// IsKept reports whether the block holds a message that must not be dropped.
func (b *Block) IsKept() bool { return b.kept }

// Size returns the memory that the block takes, in bytes.
func (b *Block) Size() int { return len(b.buf) }

func (b *Block) pooled() bool { return b.class >= 0 }

// Recycle returns a pooled block to its pool. None of its messages may be in use.
func (b *Block) Recycle() {
	b.reset()
	blockPools[b.class].Put(b)
}

func (b *Block) reset() { b.used, b.n, b.sinceWritten = 0, 0, 0 }

// fits reports whether a message of n bytes can be appended.
func (b *Block) fits(n int) bool {
	return n <= len(b.buf)-b.used-endSize*(b.n+1)
}

// append copies p after the other messages and returns its index. p must fit.
func (b *Block) append(p []byte) int {
	b.used += copy(b.buf[b.used:], p)
	binary.NativeEndian.PutUint32(b.buf[len(b.buf)-endSize*(b.n+1):], uint32(b.used))
	b.n++
	return b.n - 1
}

// lengthen appends p to the last message. p must fit.
func (b *Block) lengthen(p []byte) {
	b.used += copy(b.buf[b.used:], p)
	binary.NativeEndian.PutUint32(b.buf[len(b.buf)-endSize*b.n:], uint32(b.used))
}

// message returns message i.
func (b *Block) message(i int) []byte { return b.buf[b.start(i):b.end(i):b.end(i)] }

func (b *Block) start(i int) int {
	if i == 0 {
		return 0
	}
	return b.end(i - 1)
}

func (b *Block) end(i int) int {
	if b.class == loneMessage {
		return len(b.buf)
	}
	return int(binary.NativeEndian.Uint32(b.buf[len(b.buf)-endSize*(i+1):]))
}

// A Run is the messages [First, Last) of a block. A Run is never empty.
type Run struct {
	Block       *Block
	First, Last int32
}

// Len returns the number of messages.
func (r Run) Len() int { return int(r.Last - r.First) }

// Size returns the size of the messages in bytes.
func (r Run) Size() int { return r.end() - r.start() }

// start and end are the offsets in the block of the first byte of the messages and the byte
// after the last.
func (r Run) start() int { return r.Block.start(int(r.First)) }
func (r Run) end() int   { return r.Block.end(int(r.Last) - 1) }

// Message returns message i of the run.
func (r Run) Message(i int) []byte { return r.Block.message(int(r.First) + i) }

// Unbound returns r without the mark of Bound.
func (r Run) Unbound() Run {
	if !r.Block.bound {
		return r
	}
	return Kept(r.Message(0))
}

// Messages returns the messages. They share the memory of the block.
func (r Run) Messages() [][]byte {
	messages := make([][]byte, r.Len())
	for i := range messages {
		messages[i] = r.Message(i)
	}
	return messages
}
