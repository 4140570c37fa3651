package queue

import (
	"encoding/binary"
	"math/bits"
	"sync"
)

// The sizes of pooled blocks in bytes: powers of 2 from MinBlock on, one for each pool.
const (
	MinBlock     = 512
	maxBlock     = 256 << 10
	blockClasses = 10
)

// MaxCopied is the largest message that is copied behind others into a pooled
// block. A larger one gets a block of its own, and is copied without the lock.
const MaxCopied = 16 << 10

const endSize = 4 // bytes of an entry in a block's index

var blockPools [blockClasses]sync.Pool

// A Block holds messages one behind the other, and an index of where each ends.
// The messages fill buf from the front, the index from the back, until they meet:
//
//	| message 0 | message 1 | ... free ... | end of 1 | end of 0 |
//
// One goroutine at a time appends; what has been appended never changes, so any
// number of others may read it meanwhile.
type Block struct {
	buf    []byte
	class  int32 // of size minBlock << class, if it is pooled
	shared bool  // messages to many are in it; never changed

	// Owned by whoever appends.
	sinceWritten int32 // how many blocks of the queue were begun since one was written, for nextBlock
	used         int   // bytes of messages
	n            int   // messages
}

// Classes of blocks that come from no pool.
const (
	// loneMessage is a block that holds one message and no index: a message too
	// large to share a block, or one whose bytes belong to somebody else.
	loneMessage = -1

	// unpooled is a block to which several queues may refer.
	unpooled = -2
)

// Lone returns the only message of a new block, which is p itself.
func Lone(p []byte) Run {
	return Run{&Block{buf: p, class: loneMessage, used: len(p), n: 1}, 0, 1}
}

// newBlock returns an empty block of at least size bytes, which is at most maxBlock.
func newBlock(size int) *Block {
	class := bits.Len(uint(max(size, MinBlock)-1)) - bits.Len(MinBlock-1)
	if b, ok := blockPools[class].Get().(*Block); ok {
		return b
	}
	return &Block{buf: make([]byte, MinBlock<<class), class: int32(class)}
}

// IsShared reports whether several queues may refer to the block from the start.
func (b *Block) IsShared() bool { return b.shared }

// IsLone reports whether the block holds a single message, and can hold no other.
func (b *Block) IsLone() bool { return b.class == loneMessage }

// Size returns how much memory the block takes, in bytes.
func (b *Block) Size() int { return len(b.buf) }

func (b *Block) pooled() bool { return b.class >= 0 }

// Recycle gives a pooled block back. No message of it may be in use.
func (b *Block) Recycle() {
	b.reset()
	blockPools[b.class].Put(b)
}

func (b *Block) reset() { b.used, b.n, b.sinceWritten = 0, 0, 0 }

// fits tells whether a message of n bytes can be appended.
func (b *Block) fits(n int) bool {
	return n <= len(b.buf)-b.used-endSize*(b.n+1)
}

// append copies p, which fits, behind the other messages and returns its index.
func (b *Block) append(p []byte) int {
	b.used += copy(b.buf[b.used:], p)
	binary.NativeEndian.PutUint32(b.buf[len(b.buf)-endSize*(b.n+1):], uint32(b.used))
	b.n++
	return b.n - 1
}

// Message returns Message i.
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

// A Run is the messages [First, Last) of a block, of which there is one at least.
type Run struct {
	Block       *Block
	First, Last int32
}

// Len returns the number of messages.
func (r Run) Len() int { return int(r.Last - r.First) }

// Size returns the bytes of the messages.
func (r Run) Size() int { return r.end() - r.start() }

// start and end are the offsets in the block at which the messages start and end.
func (r Run) start() int { return r.Block.start(int(r.First)) }
func (r Run) end() int   { return r.Block.end(int(r.Last) - 1) }

// Message returns message i of the run.
func (r Run) Message(i int) []byte { return r.Block.message(int(r.First) + i) }

// Messages returns the messages.
func (r Run) Messages() [][]byte {
	messages := make([][]byte, r.Len())
	for i := range messages {
		messages[i] = r.Message(i)
	}
	return messages
}
