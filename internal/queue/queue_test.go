package queue

import (
	"bytes"
	"math"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzQueue compares two queues with lists of messages. The bits of keeping say which of them keeps
// what is written. Each pair of input bytes is an operation and its size.
func FuzzQueue(f *testing.F) {
	for _, operations := range [][]byte{
		{},
		{copyIn, 10, copyIn, 0, advance, 5, copyIn, 3, advance, 255},
		bytes.Repeat([]byte{copyIn, 255}, 300),                                      // many blocks
		bytes.Repeat([]byte{copyIn, 200, advance, 150}, 200),                        // a block's end, partly written
		bytes.Repeat([]byte{copyIn, 9, pushLone, 9, pushShared, 0, copyIn, 0}, 100), // mixed blocks
		append(bytes.Repeat([]byte{pushShared, 1, copyIn, 4}, 90), bytes.Repeat([]byte{advance, 90}, 200)...),
		bytes.Repeat([]byte{copyIn, 0, pushLone, 0, advance, 0}, 50), // empty messages
		bytes.Repeat([]byte{copyIn, 77, copyIn, 0, pushLone, 3, advanceOne, 0, advanceOne, 0}, 50),
		bytes.Repeat([]byte{copyIn, 120, copyIn, 130, advance, 255, advance, 255}, 50), // empty again and again
		bytes.Repeat([]byte{copyIn, 0}, 300),                                           // an index as large as its block
		{copyIn, 9, copyIn, 9, advance, 9, advance, 9, copyIn, 132, copyIn, 131},       // just too large, just not
		bytes.Repeat([]byte{copyIn, 100, copyIn, 7, copyIn, 7, advance, 105, drop, 0, drop, 0, insert, 0}, 60),
		bytes.Repeat([]byte{copyIn, 100, copyIn, 100, extend, 100, extend, 100}, 70),
		bytes.Repeat([]byte{copyIn, 30, copyIn, 30, pushKept, 20, copyIn, 40, advance, 30, pushUrgent, 7, advance, 5, drop, 1, drop, 3}, 30),
		slices.Concat(bytes.Repeat([]byte{copyIn, 100, release, 0}, 200), bytes.Repeat([]byte{advance, 90, shrink, 0}, 300)),
		bytes.Repeat([]byte{pushLog, 9, pushLog, 31, copyIn, 9, advance, 20, pushLog, 8, advance, 7, drop, 0, drop, 0}, 40), // rows of one block
		bytes.Repeat([]byte{pushLog, 90, pushLog, 91, advance, 120, advance, 100, letGo, 1, letGo, 0, pushLog, 255, release, 0}, 37),
		bytes.Repeat([]byte{pushLog, 9, copyIn, 9, copyIn, 20, pushLog, 3, pushUrgent, 9, advance, 30, advance, 25, letGo, 0, insert, 0, copyIn, 50}, 20),
		bytes.Repeat([]byte{copyIn, 40, copyIn, 50, advance, 255, advance, 255, release, 0, release, 0, letGo, 127, letGo, 127, release, 0, release, 0}, 30),
		{copyIn, 138, copyIn, 138, advance, 138, advance, 138, copyIn, 9, copyIn, 9, shrink, 0, shrink, 0}, // a large block, mostly written
	} {
		for keeping := range byte(4) {
			f.Add(operations, keeping)
		}
	}
	f.Fuzz(func(t *testing.T, operations []byte, keeping byte) {
		operations = operations[:min(len(operations), 600)]
		// Two queues share blocks with each other, and pools with all.
		shared := Shared([]byte("shared by two queues"))
		log := Log{MaxBlock: 2 << 10}
		var queues [2]*tracked
		var models [2]*model
		for i := range queues {
			queues[i], models[i] = newTracked(keeping>>i&1 > 0), &model{keeps: keeping>>i&1 > 0}
		}
		for i := 0; i+1 < len(operations); i += 2 {
			q, m := queues[i/2%2], models[i/2%2]
			size := sizes[operations[i+1]]
			p := bytes.Repeat([]byte{byte(i)}, size)
			switch operations[i] % opCount {
			case copyIn:
				p = p[:min(size, MaxCopied)]
				q.CopyIn(p)
				m.push(bytes.Clone(p))
				clear(p)
			case extend: // in two parts
				if q.ExtendParts(size, [][]byte{p[:size/2], p[size/2:]}) {
					m.push(bytes.Clone(p))
					clear(p)
				}
			case pushKept:
				q.Push(Kept(p))
				m.insert(len(m.messages), kept, p)
			case pushUrgent:
				q.inFlight = 0
				at := max(q.Begun(), 1+slices.Index(m.kinds, urgent)) // after the first urgent one
				messages, size := q.Urgent(at)
				wantMessages, wantSize := m.count(urgent, at)
				require.Equal(t, wantMessages, messages)
				require.Equal(t, wantSize, size)
				q.PushAt(at, Urgent(p))
				m.insert(at, urgent, p)
			case pushLone:
				q.Push(Lone(p))
				m.push(p)
			case pushShared:
				q.pushShared(shared)
				m.push(shared.Message(0))
			case pushLog: // several messages, of an even size to both
				messages := slices.Repeat([][]byte{p}, 1+size%3)
				for rest := messages; len(rest) > 0; {
					r := log.Append(rest)
					rest = rest[r.Len():]
					for j := range 2 - size%2 {
						queues[(i/2+j)%2].pushShared(r)
					}
				}
				for j := range 2 - size%2 {
					models[(i/2+j)%2].insert(len(models[(i/2+j)%2].messages), ordinary, messages...)
				}
			case advance:
				if !q.Empty() {
					n := min(size, m.bytes-m.written)
					requireNext(t, m, &q.Queue, n)
					r := q.Advance(n)
					wantMessages, wantBytes := m.advance(n)
					require.Equal(t, wantMessages, r.Messages)
					require.Equal(t, wantBytes, r.Size)
				}
			case advanceOne:
				if !q.Empty() && m.written == 0 {
					require.True(t, bytes.Equal(m.messages[0], q.PeekMessage()))
					q.AdvanceMessage(true)
					m.pop()
				}
			case letGo: // of what is written
				for n := 0; n <= size && !q.written.Empty(); n++ {
					r := q.written.AdvanceMessage(true)
					require.Equal(t, 1, r.Messages)
					require.Equal(t, len(m.done[0]), r.Size)
					m.done, m.doneKinds = m.done[1:], m.doneKinds[1:]
				}
			case release:
				if q.Empty() {
					q.Release()
					if q.written.Empty() {
						require.Equal(t, Queue{tracker: q.tracker}, q.Queue, "an idle queue keeps a block")
					}
				}
			case shrink:
				q.Shrink()
			case drop:
				q.inFlight = 0
				begun := q.Begun()
				require.Equal(t, len(slices.Concat(m.messages[:begun]...)), q.SizeOf(begun))
				droppable := 0
				for i, r := range q.Droppable() {
					for j := range r.Len() {
						require.Equal(t, m.messages[i+j], slices.Clip(r.Message(j)))
					}
					require.GreaterOrEqual(t, i, begun)
					droppable += r.Len()
				}
				want, _ := m.count(ordinary, begun)
				all, _ := m.count(ordinary, len(m.messages))
				require.Equal(t, all-want, droppable)
				if droppable > 0 {
					r, before := q.DropOldest(max(1, size))
					require.NotContains(t, m.kinds[begun:before], ordinary)
					require.NotZero(t, r.Messages)
					require.LessOrEqual(t, r.Messages, max(1, size))
					for range r.Messages {
						require.Equal(t, ordinary, m.kinds[before])
						r.Size -= m.remove(before)
					}
					require.Zero(t, r.Size)
				}
			case insert: // what the other queue has kept and queued; it is not used again
				other, otherModel := queues[1-i/2%2], models[1-i/2%2]
				q.inFlight = 0
				estate := new(Queue)
				other.Share()
				for r := range other.written.Runs() {
					estate.Push(r)
				}
				for r := range other.Runs() {
					estate.Push(r)
				}
				begun := q.Begun()
				messages, kinds := slices.Concat(otherModel.done, otherModel.messages), slices.Concat(otherModel.doneKinds, otherModel.kinds)
				require.Equal(t, len(messages), q.Insert(begun, estate))
				q.refer(estate)
				m.insert(begun, ordinary, messages...)
				copy(m.kinds[begun:], kinds)
				queues[1-i/2%2], models[1-i/2%2] = newTracked(otherModel.keeps), &model{keeps: otherModel.keeps}
			}
			require.Equal(t, len(m.messages) == 0, q.Empty())
			require.EqualValues(t, m.bytes, q.bytes)
			requireNext(t, m, &q.Queue, 300)
			for j := range queues {
				queues[j].requireReferences(t)
				if i%64 == 0 {
					requireSame(t, models[j], queues[j])
				}
			}
		}
		for i := range queues {
			requireSame(t, models[i], queues[i])
		}
	})
}

// The operations of FuzzQueue.
const (
	copyIn = iota
	extend
	pushKept
	pushUrgent
	pushLone
	pushShared
	advance
	advanceOne
	release
	shrink
	drop
	insert
	letGo
	pushLog
	opCount
)

// sizes are the lengths that a byte of the input stands for: short ones, and lengths close to
// the sizes of blocks.
var sizes = func() (sizes [256]int) {
	for i := range 128 {
		sizes[i] = i
	}
	special := []int{255, 256, 500, 508, 509, 512, 1000, 4 << 10, 4092, 4093, 16 << 10, 16<<10 + 1}
	for i := range 128 {
		sizes[128+i] = special[i%len(special)]
	}
	return sizes
}()

// A model is a list that does what a queue should do.
type model struct {
	messages [][]byte
	kinds    []kind // of the messages
	written  int    // bytes of the first message that are written
	bytes    int    // in all messages

	keeps     bool // what is written
	done      [][]byte
	doneKinds []kind
}

// A kind is the kind of a message of a model.
type kind int

const (
	ordinary kind = iota
	kept
	urgent
)

func (m *model) push(p []byte) { m.insert(len(m.messages), ordinary, p) }

func (m *model) insert(at int, k kind, messages ...[]byte) {
	m.messages = slices.Insert(m.messages, at, messages...)
	m.kinds = slices.Insert(m.kinds, at, slices.Repeat([]kind{k}, len(messages))...)
	for _, p := range messages {
		m.bytes += len(p)
	}
}

// pop removes the first message, because it is written.
func (m *model) pop() int {
	if m.keeps {
		m.done, m.doneKinds = append(m.done, m.messages[0]), append(m.doneKinds, m.kinds[0])
	}
	return m.remove(0)
}

func (m *model) remove(i int) int {
	size := len(m.messages[i])
	m.messages = slices.Delete(m.messages, i, i+1)
	m.kinds = slices.Delete(m.kinds, i, i+1)
	m.bytes -= size
	return size
}

// count returns the number and the size of the messages of a kind among the first n.
func (m *model) count(k kind, n int) (messages, size int) {
	for i, p := range m.messages[:n] {
		if m.kinds[i] == k {
			messages++
			size += len(p)
		}
	}
	return messages, size
}

func (m *model) advance(n int) (messages, size int) {
	m.written += n
	for len(m.messages) > 0 && m.written >= len(m.messages[0]) {
		popped := m.pop()
		m.written -= popped
		messages++
		size += popped
	}
	return messages, size
}

// next returns the next n bytes to write, or all.
func (m *model) next(n int) (p []byte) {
	from := m.written
	for i := 0; i < len(m.messages) && len(p) < n; i++ {
		p = append(p, m.messages[i][from:]...)
		from = 0
	}
	return p[:min(n, len(p))]
}

// requireNext requires that what q has to write next is right, up to limit bytes.
func requireNext(t testing.TB, m *model, q *Queue, limit int) {
	t.Helper()
	if q.Empty() {
		return
	}
	for _, messages := range []int64{1, 2, math.MaxInt64} {
		next, gathered := q.Peek(limit, messages)
		require.True(t, bytes.HasPrefix(m.next(limit), next))
		require.LessOrEqual(t, int64(q.inFlight), messages)
		require.True(t, len(next) > 0 || len(m.next(limit)) == 0 || len(m.next(1)) == 0 || len(m.messages[0]) == 0)
		if gathered != nil {
			gathered.Recycle()
		}
	}
}

func requireSame(t testing.TB, m *model, q *tracked) {
	t.Helper()
	require.True(t, slices.EqualFunc(m.messages, slices.Collect(q.All()), bytes.Equal))
	require.True(t, slices.EqualFunc(m.done, slices.Collect(q.written.All()), bytes.Equal), "what is kept")
}

// A tracked queue counts its references to shared blocks, as a Budget does.
type tracked struct {
	Queue
	written Queue          // empty unless the queue keeps what is written
	queued  map[*Block]int // references to shared blocks, by the trackers
	kept    map[*Block]int
}

func newTracked(keeps bool) *tracked {
	q := &tracked{queued: make(map[*Block]int), kept: make(map[*Block]int)}
	trackerOf := func(references map[*Block]int) *Tracker {
		return &Tracker{
			Hold: func(b *Block) { references[b]++ },
			LetGo: func(b *Block) {
				if references[b]--; references[b] == 0 {
					delete(references, b)
				}
			},
		}
	}
	t := trackerOf(q.queued)
	if keeps {
		t.Written, t.MaxBlock = &q.written, 4<<10
	}
	q.Track(t)
	q.written.Track(trackerOf(q.kept))
	return q
}

// pushShared queues a run of a shared block. Unless it makes a segment longer, the caller counts the
// reference.
func (q *tracked) pushShared(r Run) {
	if !q.EndsBefore(r) {
		q.queued[r.Block]++
	}
	q.Push(r)
}

// refer counts the references of another queue, whose segments are inserted.
func (q *tracked) refer(other *Queue) {
	for r := range other.Runs() {
		if r.Block.shared {
			q.queued[r.Block]++
		}
	}
}

// requireReferences requires that the trackers know the shared blocks of all segments, and that the
// lists keep nothing alive that has left them.
func (q *tracked) requireReferences(t testing.TB) {
	t.Helper()
	for _, part := range []struct {
		*Queue
		references map[*Block]int
	}{{&q.Queue, q.queued}, {&q.written, q.kept}} {
		references := make(map[*Block]int)
		for r := range part.Runs() {
			if r.Block.shared {
				references[r.Block]++
			}
		}
		require.Equal(t, references, part.references)
		for i, s := range part.segments[:cap(part.segments)] {
			require.Equal(t, int(part.head) <= i && i < len(part.segments), s.Block != nil)
		}
	}
}

// An empty queue keeps no message alive, and after Release none of its blocks.
func TestQueueForgetsWhatIsWritten(t *testing.T) {
	for _, lone := range []int{1, 2, 3, keptSegments, 1000} {
		var q Queue
		for range lone {
			q.Push(Lone([]byte("message")))
			q.CopyIn([]byte("message"))
		}
		slots := q.segments
		q.Advance(int(q.bytes))
		require.True(t, q.Empty())
		for _, s := range slots {
			require.Zero(t, s)
		}
		require.LessOrEqual(t, cap(q.segments), keptSegments)
		q.Release()
		require.Zero(t, q)
	}
}

// The rest of a long backlog does not keep all of its memory.
func TestQueueShrinks(t *testing.T) {
	var q Queue
	for range 50_000 {
		q.CopyIn(make([]byte, 64))
	}
	q.Advance(int(q.bytes) - 1000)
	require.Equal(t, maxBlock, len(q.tail.buf))
	q.Shrink()
	require.LessOrEqual(t, len(q.tail.buf), 4*MinBlock)
	require.Len(t, slices.Collect(q.All()), 16)
}

// A queue that is short but never empty does not get ever larger blocks.
func TestQueueStaysSmall(t *testing.T) {
	var q Queue
	for range 100_000 {
		q.CopyIn(make([]byte, 10))
		if q.bytes > 100 {
			q.Peek(10, 1)
			q.Advance(10)
		}
	}
	require.LessOrEqual(t, len(q.tail.buf), 4*MinBlock)
}

// Dropping moves the list, and nothing dropped must stay in it.
func TestQueueForgetsWhatIsDropped(t *testing.T) {
	var q Queue
	for range 10 {
		q.CopyIn([]byte("message"))
	}
	q.Peek(10, 5)
	for range 5 {
		require.Equal(t, 7, first(q.DropOldest(1)).Size)
	}
	require.EqualValues(t, 14, q.bytes-3*7)
	q.Advance(35)
	require.True(t, q.Empty())
	q.Release()
	require.Zero(t, q)
}

// A burst begins with a large block. If the connection stalls then, the backlog costs no
// multiple of its size.
func TestQueueOfABurstThatStalls(t *testing.T) {
	message := bytes.Repeat([]byte("x"), 64)
	for n := 1; n < burstBlock/(64+endSize); n += 50 {
		var q Queue
		q.tail = newBlock(burstBlock)
		for range n {
			q.CopyIn(message)
		}
		q.Shrink()
		require.LessOrEqual(t, len(q.tail.buf), max(MinBlock, 2*n*(64+endSize)), "%d messages", n)
		require.Equal(t, n, len(slices.Collect(q.All())))
		for m := range q.All() {
			require.Equal(t, message, m)
		}
	}
}

// A connection that has taken everything is not stalled, so the next blocks may be long.
func TestQueueThatWasEmptyGetsLongBlocks(t *testing.T) {
	var q Queue
	q.CopyIn(make([]byte, 64))
	q.Advance(int(q.bytes))
	for q.bytes < 6*MinBlock {
		q.CopyIn(make([]byte, 64))
	}
	require.GreaterOrEqual(t, len(q.tail.buf), 4*MinBlock)
}

// A connection that has taken nothing yet may be stalled, so the first blocks are short. Once
// it takes one, the next are long.
func TestQueueGetsLongBlocksWhenOneIsWritten(t *testing.T) {
	var q Queue
	for q.bytes < 4*MinBlock {
		q.CopyIn(make([]byte, 64))
	}
	require.Len(t, q.tail.buf, MinBlock)
	first := q.segments[q.head]
	q.Advance(first.end())
	last := q.tail
	for q.tail == last {
		q.CopyIn(make([]byte, 64))
	}
	require.Len(t, q.tail.buf, 2*MinBlock)
}

// The memory of the list refers only to what is in the list. Otherwise it would keep written or
// dropped blocks alive.
func TestQueueForgetsWhatHasLeft(t *testing.T) {
	var q Queue
	for i := range 200 {
		q.Push(Lone([]byte("message")))
		if i%50 > 10 {
			if i%2 == 0 {
				q.Advance(len("message"))
			} else {
				q.DropOldest(1)
			}
		}
		for j, kept := range q.segments[:cap(q.segments)] {
			require.Equal(t, int(q.head) <= j && j < len(q.segments), kept.Block != nil)
		}
	}
}

func first[A, B any](a A, _ B) A { return a }

// Copy keeps long and kept messages themselves, and copies the others out of shared blocks.
func TestQueueCopy(t *testing.T) {
	var log Log
	var q Queue
	q.Push(log.Append([][]byte{[]byte("a"), []byte("b"), []byte("c")}))
	q.Push(Kept([]byte("kept")))
	q.CopyIn([]byte("d"))
	c := q.Copy()
	require.Equal(t, slices.Collect(q.All()), slices.Collect(c.All()))
	require.Equal(t, q.bytes, c.bytes)
	n := 0
	for r := range c.Runs() {
		require.False(t, r.Block.IsShared())
		require.False(t, r.Block.pooled())
		if r.Block.IsKept() {
			n++
		}
	}
	require.Equal(t, 1, n)
}
