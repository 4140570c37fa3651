package sendq_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/sendqtest"
)

func TestWriterWhole(t *testing.T) {
	over(t, transports, func(t *testing.T, conn, peer net.Conn) {
		w := sendq.NewWriter(conn, nil)
		arrived := async(func() arrival { return receive(peer) })
		const senders, messages = 8, 60
		var wg sync.WaitGroup
		for sender := range senders {
			wg.Go(func() {
				for i := range messages {
					assert.NoError(t, send(w, i, frame(sender, i, size(i))))
					if i%10 == 0 {
						assert.NoError(t, send(w, i/10, nil)) // no bytes, but a message
					}
				}
			})
		}
		wg.Wait()
		require.NoError(t, w.Close())

		got := <-arrived
		require.NoError(t, got.err, "each message has its checksum")
		require.Len(t, got.order, senders)
		for sender := range senders {
			require.Len(t, got.order[sender], messages)
		}
		require.EqualValues(t, senders*(messages+messages/10), w.Stats().Written)
	})
}

func TestWriterInOrder(t *testing.T) {
	t.Run("of one goroutine", func(t *testing.T) {
		over(t, transports, func(t *testing.T, conn, peer net.Conn) {
			w := sendq.NewWriter(conn, nil)
			arrived := async(func() arrival { return receive(peer) })
			const senders, messages = 8, 300
			var wg sync.WaitGroup
			for sender := range senders {
				wg.Go(func() {
					for i := range messages {
						assert.NoError(t, send(w, rand.Int(), frame(sender, i, size(i)>>8)))
					}
				})
			}
			wg.Wait()
			require.NoError(t, w.Close())

			got := <-arrived
			require.NoError(t, got.err)
			for sender := range senders {
				require.Equal(t, upTo(messages), got.order[sender])
			}
		})
	})

	t.Run("across goroutines", func(t *testing.T) {
		over(t, transports, func(t *testing.T, conn, peer net.Conn) {
			w := sendq.NewWriter(conn, nil)
			arrived := async(func() arrival { return receive(peer) })
			const senders, messages = 8, 100
			var (
				mu   sync.Mutex // makes the order of acceptance known
				next int
				wg   sync.WaitGroup
			)
			for range senders {
				wg.Go(func() {
					for range messages {
						mu.Lock()
						// Long messages are queued in another way than short ones.
						assert.NoError(t, send(w, rand.Int(), frame(0, next, next%5*5000)))
						next++
						mu.Unlock()
					}
				})
			}
			wg.Wait()
			require.NoError(t, w.Close())

			got := <-arrived
			require.NoError(t, got.err)
			require.Equal(t, upTo(senders*messages), got.order[0])
		})
	})
}

func TestWriterNeverInTheWay(t *testing.T) {
	t.Run("a stalled peer", func(t *testing.T) {
		over(t, bounded(transports), func(t *testing.T, conn, _ net.Conn) {
			w := sendq.NewWriter(conn, nil)
			b := sendq.NewBroker(nil)
			require.NoError(t, b.Register("stalled", w))
			const messages, length = 64, 256 << 10 // more than the kernel buffers
			for range messages {
				require.NoError(t, w.Send(make([]byte, length)))
			}
			for i := range 1000 {
				require.NoError(t, send(w, i, []byte("small")))
			}
			s := w.Stats()
			require.Positive(t, s.Pending)
			require.NoError(t, w.Err())
			require.Empty(t, slices.Collect(w.Undelivered()))

			// Other Writers are not delayed.
			otherConn, otherPeer := pipePair(t)
			other := sendq.NewWriter(otherConn, nil)
			require.NoError(t, b.Register("other", other))
			arrived := async(func() content { return readAll(otherPeer) })
			require.Equal(t, 2, b.Broadcast([]byte("all")))
			require.NoError(t, b.Send("other", []byte(" other")))
			require.NoError(t, other.Close())
			require.Equal(t, content{"all other", nil}, <-arrived)

			require.NoError(t, w.CloseNow())
		})
	})

	t.Run("no lock is held across a call into the connection", func(t *testing.T) {
		for name, end := range ends {
			t.Run(name, func(t *testing.T) {
				conn := hooked(sendqtest.NewConn())
				var w *sendq.Writer
				conn.Enter = func(string) {
					if w != nil { // else in NewWriter
						w.Stats()
						w.Write(nil) // accepted or refused, but never stuck
						w.Err()
						w.Done()
						for range w.Undelivered() {
						}
					}
				}
				w = sendq.NewWriter(conn, nil)
				require.NoError(t, w.Send([]byte("message")))
				end(w)
				<-w.Done()
			})
		}
	})
}

func TestWriterAccountedFor(t *testing.T) {
	over(t, transports, func(t *testing.T, conn, peer net.Conn) {
		const senders, limit = 32, 1_500_000
		faulty := sendqtest.Wrap(conn)
		faulty.FailAfter(limit, errBroken)
		w := sendq.NewWriter(faulty, nil)
		arrived := async(func() content { return readAll(peer) })

		var accepted, acceptedBytes atomic.Int64
		frames := make([]int, senders) // accepted, by sender
		var wg, snapshots sync.WaitGroup
		for sender := range senders {
			wg.Go(func() {
				for i := 0; ; i++ {
					p := frame(sender, i, size(i)>>4)
					if err := send(w, i, p); err != nil {
						assert.ErrorIs(t, err, net.ErrClosed)
						assert.ErrorIs(t, err, errBroken)
						frames[sender] = i
						return
					}
					accepted.Add(1)
					acceptedBytes.Add(int64(len(p)))
					if i%10 == 0 && send(w, i/10, nil) == nil {
						accepted.Add(1)
					}
					if i%20 == 0 {
						w.Flush(t.Context()) // keeps the backlog short
					}
				}
			})
		}
		for range 2 {
			snapshots.Go(func() {
				var last sendq.WriterStats
				for ended := false; !ended; {
					select {
					case <-w.Done():
						ended = true
					default:
					}
					s := w.Stats()
					assertConserved(t, s)
					assert.GreaterOrEqual(t, s.Accepted, last.Accepted)
					assert.GreaterOrEqual(t, s.Written, last.Written)
					assert.GreaterOrEqual(t, s.Undelivered, last.Undelivered)
					last = s
					runtime.Gosched()
				}
			})
		}
		wg.Wait()
		snapshots.Wait()
		<-w.Done()

		s := w.Stats()
		assertConserved(t, s)
		require.Equal(t, accepted.Load(), s.Accepted)
		require.Equal(t, acceptedBytes.Load(), s.AcceptedBytes)
		require.Zero(t, s.Pending)
		require.Zero(t, s.PendingBytes)
		undelivered := slices.Collect(w.Undelivered())
		require.EqualValues(t, len(undelivered), s.Undelivered)
		rest := bytes.Join(undelivered, nil)
		require.EqualValues(t, len(rest), s.UndeliveredBytes)

		// The peer has the written messages and a part of the next one.
		got := []byte((<-arrived).bytes)
		require.Len(t, got, limit)
		require.GreaterOrEqual(t, int64(limit), s.WrittenBytes)
		written, torn := got[:s.WrittenBytes], got[s.WrittenBytes:]
		require.True(t, bytes.HasPrefix(undelivered[0], torn))

		// The written and the undelivered messages together are all messages, in order.
		all := receive(io.MultiReader(bytes.NewReader(written), bytes.NewReader(rest)))
		require.NoError(t, all.err)
		for sender := range senders {
			require.Equal(t, upTo(frames[sender]), all.order[sender])
		}
	})
}

func TestWriterMemoryComesBack(t *testing.T) {
	copied := func(w *sendq.Writer, n int) { w.Write(zeros[:n]) }
	given := func(w *sendq.Writer, n int) { w.Send(make([]byte, n)) }
	both := func(w *sendq.Writer, n int) { copied(w, n/2); given(w, n/2) }
	const total = 8 << 20
	warmUp(1000)
	for _, tt := range []struct {
		name    string
		writers int
		send    func(w *sendq.Writer, n int)
		size    int // of a message
	}{
		{"short messages, 100 Writers", 100, copied, 64},
		{"short messages, one Writer", 1, copied, 64},
		{"by reference, 100 Writers", 100, given, 4 << 10},
		{"by reference, one Writer", 1, given, 4 << 10},
		{"both, 100 Writers", 100, both, 4 << 10},
		{"long messages, 10 Writers", 10, both, 100 << 10},
	} {
		t.Run(tt.name, func(t *testing.T) {
			goroutines := runtime.NumGoroutine()
			before := heap()
			writers, release := stalled(tt.writers, total/tt.writers, tt.size, tt.send)
			release()
			for _, w := range writers {
				require.NoError(t, w.Flush(t.Context()))
			}
			for runtime.NumGoroutine() > goroutines {
				runtime.Gosched() // a flusher that had its last word a moment ago, and nothing else
			}
			// Other allocations of the process matter only if there are few Writers.
			require.Less(t, heap()-before, 512*tt.writers+16<<10)
			runtime.KeepAlive(writers)
		})
	}

	for _, backlog := range []int{64, 1 << 10, 10 << 10, 40 << 10, 100 << 10, 1 << 20} {
		t.Run(fmt.Sprintf("a backlog of %d bytes costs no multiple", backlog), func(t *testing.T) {
			writers := min(1000, 1<<20/backlog)
			before := heap()
			all, release := stalled(writers, backlog, 64, copied)
			cost := (heap() - before) / writers
			release()
			for _, w := range all {
				require.NoError(t, w.Close())
			}
			const fixed = 2 << 10            // the Writer, its flusher and a first block
			copied := min(2*backlog, 16<<10) // one write of the flusher
			require.Less(t, cost, 2*backlog+copied+fixed)
		})
	}
}

func TestWriterCopies(t *testing.T) {
	for _, length := range []int{1, 100, 16 << 10, 16<<10 + 1, 100 << 10} {
		conn := sendqtest.NewConn()
		conn.Stall()
		w := sendq.NewWriter(conn, nil)
		mine, given := letters(length), letters(length)
		n, err := w.Write(mine)
		require.NoError(t, err)
		require.Equal(t, length, n)
		clear(mine)
		require.NoError(t, w.Send(given))
		n, err = w.WriteString(string(given))
		require.NoError(t, err)
		require.Equal(t, length, n)
		require.NoError(t, w.CloseNow())

		got := slices.Collect(w.Undelivered())
		require.Len(t, got, 3)
		require.Equal(t, string(given), string(got[0]), "Write copies")
		require.Same(t, unsafe.SliceData(given), unsafe.SliceData(got[1]), "Send does not")
		require.Equal(t, string(given), string(got[2]))
		for _, p := range got {
			require.Equal(t, len(p), cap(p), "appending to one message must not change the next")
		}
	}
}

func TestWriterEmptyMessages(t *testing.T) {
	over(t, transports, func(t *testing.T, conn, peer net.Conn) {
		watched := sendqtest.Wrap(conn)
		w := sendq.NewWriter(watched, patient)
		for i := range 1000 {
			require.NoError(t, send(w, i, nil))
			if i < 100 {
				require.NoError(t, w.Flush(t.Context())) // one alone
			}
		}
		// Nobody reads yet, and on a pipe even an empty write would wait.
		require.NoError(t, w.Flush(t.Context()))
		require.Empty(t, watched.Sizes())
		arrived := async(func() content { return readAll(peer) })
		require.NoError(t, w.Close())
		require.Equal(t, content{}, <-arrived)
		require.EqualValues(t, 1000, w.Stats().Written)
	})
}

func TestNewWriterPanics(t *testing.T) {
	require.PanicsWithValue(t, "sendq: NewWriter: conn is nil", func() { sendq.NewWriter(nil, nil) })
	require.PanicsWithValue(t, "sendq: NewWriter: CloseTimeout is negative: -1s", func() {
		sendq.NewWriter(sendqtest.NewConn(), &sendq.WriterOptions{CloseTimeout: -time.Second})
	})
}

func TestWriterCopiesOptions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := sendqtest.NewConn()
		conn.Stall()
		opts := &sendq.WriterOptions{CloseTimeout: time.Second}
		w := sendq.NewWriter(conn, opts)
		opts.CloseTimeout = time.Hour
		require.NoError(t, w.Send([]byte("message")))
		start := time.Now()
		require.Error(t, w.Close())
		require.Equal(t, time.Second, time.Since(start))
	})
}

// panickingContext panics in Done.
type panickingContext struct{ context.Context }

func (panickingContext) Done() <-chan struct{} { panic("Done") }

// lateContext panics when it is asked for the cause.
type lateContext struct{ context.Context }

func (lateContext) Value(any) any { panic("Value") }

// A call that panicked does not have its message accepted later.
func TestContextPanicsLate(t *testing.T) {
	w, conn := stuck(t, &sendq.WriterOptions{MaxPending: 550, Overflow: sendq.Block})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.Panics(t, func() { w.WriteContext(lateContext{ctx}, counted(500)) })
	require.Panics(t, func() { w.Flush(lateContext{ctx}) })
	conn.Release()
	require.NoError(t, w.Close())
	require.Len(t, conn.Bytes(), 36)
}

// A nil Context panics with a message. If a Context panics, the Writer goes on, and no lock is left
// in a wrong state.
func TestBadContexts(t *testing.T) {
	for name, call := range map[string]func(w *sendq.Writer, ctx context.Context){
		"WriteContext": func(w *sendq.Writer, ctx context.Context) { w.WriteContext(ctx, counted(500)) },
		"Flush":        func(w *sendq.Writer, ctx context.Context) { w.Flush(ctx) },
		"WaitPending":  func(w *sendq.Writer, ctx context.Context) { w.WaitPending(ctx, 0) },
		"Shutdown":     func(w *sendq.Writer, ctx context.Context) { w.Shutdown(ctx) },
	} {
		t.Run(name, func(t *testing.T) {
			w, conn := stuck(t, &sendq.WriterOptions{MaxPending: 550, Overflow: sendq.Block})
			require.PanicsWithValue(t, "sendq: nil Context", func() { call(w, nil) })
			require.PanicsWithValue(t, "Done", func() { call(w, panickingContext{t.Context()}) })
			conn.Release()
			require.NoError(t, w.Close())
		})
	}
	b := sendq.NewBroker(nil)
	var none context.Context
	require.PanicsWithValue(t, "sendq: nil Context", func() { b.Shutdown(none) })
	require.PanicsWithValue(t, "sendq: nil Context", func() { b.Events(none) })
}

// A doneContext is done, and has no error, which no Context should.
type doneContext struct{ context.Context }

func (doneContext) Done() <-chan struct{} {
	done := make(chan struct{})
	close(done)
	return done
}

func (doneContext) Err() error { return nil }

func TestContextWithoutCause(t *testing.T) {
	ctx := doneContext{context.Background()}
	w, conn := stuck(t, &sendq.WriterOptions{MaxPending: 550, Overflow: sendq.Block})
	defer conn.Release()
	_, err := w.WriteContext(ctx, counted(500))
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, w.Flush(ctx), context.Canceled)
	err = w.Shutdown(ctx)
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorContains(t, err, "undelivered messages: 1 (36 bytes)")
}

// The parts are one message, on an idle Writer and on a busy one, and may be reused.
func TestWriteParts(t *testing.T) {
	conn := sendqtest.NewConn()
	waiting := conn.Stall()
	w := sendq.NewWriter(conn, nil)
	header, body := []byte("head|"), []byte("body.")
	require.Equal(t, 10, first(w.WriteParts(header, body)))
	<-waiting
	require.Equal(t, 0, first(w.WriteParts()))
	for i := range 1000 { // many blocks
		header[0] = byte('a' + i%26)
		require.Equal(t, 10, first(w.WriteParts(header, nil, body)))
		clear(header[1:])
		copy(header[1:], "ead|")
	}
	long := make([]byte, 20_000)
	require.Equal(t, 40_000, first(w.WriteParts(long, long)))
	require.EqualValues(t, 1003, w.Stats().Accepted)
	require.EqualValues(t, 1001*10+40_000, w.Stats().AcceptedBytes)
	w.CloseNow()
	i := 0
	for p := range w.Undelivered() {
		switch i++; {
		case i == 1:
			require.Equal(t, "head|body.", string(p))
		case i == 2:
			require.Empty(t, p)
		case i == 1003:
			require.Len(t, p, 40_000)
		default:
			require.Equal(t, string(rune('a'+(i-3)%26))+"ead|body.", string(p))
		}
	}
	require.Equal(t, 1003, i)
	require.ErrorIs(t, second(w.WriteParts(header, body)), net.ErrClosed)
}

// WriteParts observes limits as Write does.
func TestWritePartsWithLimits(t *testing.T) {
	w, _ := stuck(t, &sendq.WriterOptions{MaxPending: 500})
	require.NoError(t, second(w.WriteParts(make([]byte, 36), make([]byte, 100))))
	require.ErrorIs(t, second(w.WriteParts(make([]byte, 400), make([]byte, 100))), sendq.ErrTooLarge)
	require.ErrorIs(t, second(w.WriteParts(make([]byte, 37), make([]byte, 100))), sendq.ErrSlowConsumer)
}
