package sendq

import (
	"bytes"
	"context"
	"math"
	"net"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq/internal/faultconn"
)

// FuzzQueue compares a queue with a list of messages. Each two bytes of the input are
// an operation and its size.
func FuzzQueue(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{copyIn, 10, copyIn, 0, advance, 5, copyIn, 3, advance, 255})
	f.Add(bytes.Repeat([]byte{copyIn, 255}, 300))                                      // many blocks
	f.Add(bytes.Repeat([]byte{copyIn, 200, advance, 150}, 200))                        // a block's end, partly written
	f.Add(bytes.Repeat([]byte{copyIn, 9, pushLone, 9, pushShared, 0, copyIn, 0}, 100)) // mixed blocks
	f.Add(append(bytes.Repeat([]byte{pushShared, 1, copyIn, 4}, 90), bytes.Repeat([]byte{advance, 90}, 200)...))
	f.Add(bytes.Repeat([]byte{copyIn, 0, pushLone, 0, advance, 0}, 50)) // empty messages
	f.Add(bytes.Repeat([]byte{copyIn, 77, copyIn, 0, pushLone, 3, advanceOne, 0, advanceOne, 0}, 50))
	f.Add(bytes.Repeat([]byte{copyIn, 120, copyIn, 130, advance, 255, advance, 255}, 50)) // empty again and again
	f.Add(bytes.Repeat([]byte{copyIn, 0}, 300))                                           // an index as large as its block
	f.Add([]byte{copyIn, 9, copyIn, 9, advance, 9, advance, 9, copyIn, 132, copyIn, 131}) // just too large, just not
	f.Add(bytes.Repeat([]byte{copyIn, 100, copyIn, 7, copyIn, 7, advance, 105, drop, 0, drop, 0, insert, 0}, 60))
	f.Add(slices.Concat(bytes.Repeat([]byte{copyIn, 100, release, 0}, 200), bytes.Repeat([]byte{advance, 90, shrink, 0}, 300)))
	f.Fuzz(func(t *testing.T, operations []byte) {
		operations = operations[:min(len(operations), 600)]
		// Two queues share blocks with each other, and pools with all.
		shared := newLone([]byte("shared by two queues"))
		var queues [2]queue
		var models [2]model
		for i := 0; i+1 < len(operations); i += 2 {
			q, m := &queues[i/2%2], &models[i/2%2]
			size := sizes[operations[i+1]]
			p := bytes.Repeat([]byte{byte(i)}, size)
			switch operations[i] % opCount {
			case copyIn:
				p = p[:min(size, maxCopied)]
				q.copyIn(p)
				m.push(bytes.Clone(p))
				clear(p)
			case pushLone:
				q.push(newLone(p), 0, 1)
				m.push(p)
			case pushShared:
				q.push(shared, 0, 1)
				m.push(shared.message(0))
			case advance:
				if !q.empty() {
					n := min(size, m.bytes-m.written)
					requireNext(t, m, q, n)
					r := q.advance(n)
					wantMessages, wantBytes := m.advance(n)
					require.Equal(t, wantMessages, r.messages)
					require.Equal(t, wantBytes, r.size)
				}
			case advanceOne:
				if !q.empty() && m.written == 0 {
					require.True(t, bytes.Equal(m.messages[0], q.peekMessage()))
					q.advanceMessage(true)
					m.pop()
				}
			case release:
				if q.empty() {
					q.release()
				}
			case shrink:
				q.shrink()
			case drop:
				q.inFlight = 0
				if begun, size := q.begun(); begun < len(m.messages) {
					require.Equal(t, len(slices.Concat(m.messages[:begun]...)), size)
					require.Equal(t, len(m.messages[begun]), q.dropOldest().size)
					m.bytes -= len(m.messages[begun])
					m.messages = slices.Delete(m.messages, begun, begun+1)
				}
			case insert: // what the other queue has, which is not used any more
				other, otherModel := &queues[1-i/2%2], &models[1-i/2%2]
				q.inFlight = 0
				other.share()
				begun, _ := q.begun()
				require.Equal(t, len(otherModel.messages), q.insert(begun, other))
				m.messages = slices.Insert(m.messages, begun, otherModel.messages...)
				m.bytes += otherModel.bytes
				*other, *otherModel = queue{}, model{}
			}
			require.Equal(t, len(m.messages) == 0, q.empty())
			require.EqualValues(t, m.bytes, q.bytes)
			requireNext(t, m, q, 300)
			if i%64 == 0 {
				requireSame(t, m, q)
			}
		}
		for i := range queues {
			requireSame(t, &models[i], &queues[i])
		}
	})
}

// The operations of FuzzQueue.
const (
	copyIn = iota
	pushLone
	pushShared
	advance
	advanceOne
	release
	shrink
	drop
	insert
	opCount
)

// sizes are what a byte of the input stands for: lengths about those of blocks, and
// short ones.
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

// A model is what a queue ought to be.
type model struct {
	messages [][]byte
	written  int // bytes of the first that are written
	bytes    int // in all messages
}

func (m *model) push(p []byte) {
	m.messages = append(m.messages, p)
	m.bytes += len(p)
}

func (m *model) pop() int {
	size := len(m.messages[0])
	m.messages = m.messages[1:]
	m.bytes -= size
	return size
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
func requireNext(t testing.TB, m *model, q *queue, limit int) {
	t.Helper()
	if q.empty() {
		return
	}
	for _, messages := range []int64{1, 2, math.MaxInt64} {
		next, gathered := q.peek(limit, messages)
		require.True(t, bytes.HasPrefix(m.next(limit), next))
		require.LessOrEqual(t, int64(q.inFlight), messages)
		require.True(t, len(next) > 0 || len(m.next(limit)) == 0 || len(m.next(1)) == 0 || len(m.messages[0]) == 0)
		if gathered != nil {
			gathered.recycle()
		}
	}
}

func requireSame(t testing.TB, m *model, q *queue) {
	t.Helper()
	require.True(t, slices.EqualFunc(m.messages, slices.Collect(q.all()), bytes.Equal))
}

// What no longer waits must not be remembered, which only memory would tell outside.
func TestQueueForgetsCanceledFlushes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := faultconn.New()
		conn.Stall()
		w := NewWriter(conn, nil)
		require.NoError(t, w.Send([]byte("message")))
		ctx, cancel := context.WithCancel(t.Context())
		var flushed []chan error
		for range 10 {
			result := make(chan error)
			flushed = append(flushed, result)
			go func() { result <- w.Flush(ctx) }()
		}
		synctest.Wait()
		require.NotNil(t, w.audience)
		cancel()
		for _, result := range flushed {
			require.ErrorIs(t, <-result, context.Canceled)
		}
		require.Nil(t, w.audience)
		conn.Release()
		require.NoError(t, w.Close())
	})
}

// An empty queue keeps no message alive, and none of its blocks once it is released.
func TestQueueForgetsWhatIsWritten(t *testing.T) {
	for _, lone := range []int{1, 2, 3, keptSegments, 1000} {
		var q queue
		for range lone {
			q.push(newLone([]byte("message")), 0, 1)
			q.copyIn([]byte("message"))
		}
		slots := q.segments
		q.advance(int(q.bytes))
		require.True(t, q.empty())
		for _, s := range slots {
			require.Zero(t, s)
		}
		require.LessOrEqual(t, cap(q.segments), keptSegments)
		q.release()
		require.Zero(t, q)
	}
}

// An idle Writer takes at most 256 bytes of heap, everything included.
func TestWriterIsSmall(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			address := "127.0.0.1:0"
			if network == "unix" {
				address = filepath.Join(t.TempDir(), "socket")
			}
			listener, err := net.Listen(network, address)
			require.NoError(t, err)
			defer listener.Close()
			conn, err := net.Dial(network, listener.Addr().String())
			require.NoError(t, err)
			defer conn.Close()
			writers := make([]*Writer, 10_000)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for i := range writers {
				writers[i] = NewWriter(conn, nil)
			}
			runtime.ReadMemStats(&after)
			each := (after.TotalAlloc - before.TotalAlloc) / uint64(len(writers))
			require.LessOrEqual(t, each, uint64(256))
		})
	}
}

// The rest of a long backlog does not keep the memory of all.
func TestQueueShrinks(t *testing.T) {
	var q queue
	for range 50_000 {
		q.copyIn(make([]byte, 64))
	}
	q.advance(int(q.bytes) - 1000)
	require.Equal(t, maxBlock, len(q.own.buf))
	q.shrink()
	require.LessOrEqual(t, len(q.own.buf), 4*minBlock)
	require.Len(t, slices.Collect(q.all()), 16)
}

// A queue that is short but never empty does not get ever larger blocks.
func TestQueueStaysSmall(t *testing.T) {
	var q queue
	for range 100_000 {
		q.copyIn(make([]byte, 10))
		if q.bytes > 100 {
			q.peek(10, 1)
			q.advance(10)
		}
	}
	require.LessOrEqual(t, len(q.own.buf), 4*minBlock)
}

// Dropping moves the list, of which nothing must stay behind.
func TestQueueForgetsWhatIsDropped(t *testing.T) {
	var q queue
	for range 10 {
		q.copyIn([]byte("message"))
	}
	q.peek(10, 5)
	for range 5 {
		require.Equal(t, 7, q.dropOldest().size)
	}
	require.EqualValues(t, 14, q.bytes-3*7)
	q.advance(35)
	require.True(t, q.empty())
	q.release()
	require.Zero(t, q)
}

// A burst begins with a large block. If the connection stalls then, the backlog costs no multiple.
func TestQueueOfABurstThatStalls(t *testing.T) {
	message := bytes.Repeat([]byte("x"), 64)
	for n := 1; n < burstBlock/(64+endSize); n += 50 {
		var q queue
		q.own = newBlock(burstBlock)
		for range n {
			q.copyIn(message)
		}
		q.shrink()
		require.LessOrEqual(t, len(q.own.buf), max(minBlock, 2*n*(64+endSize)), "%d messages", n)
		require.Equal(t, n, len(slices.Collect(q.all())))
		for m := range q.all() {
			require.Equal(t, message, m)
		}
	}
}
