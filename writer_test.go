package sendq_test

import (
	"bytes"
	"crypto/tls"
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

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/internal/faultconn"
)

// The guarantees of a Writer, one test each.

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

			// Nor are others held up.
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
				conn := faultconn.New()
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

func TestWriterOneFlusher(t *testing.T) {
	t.Run("at a time", func(t *testing.T) {
		over(t, transports, func(t *testing.T, conn, peer net.Conn) {
			watched := faultconn.Wrap(conn)
			w := sendq.NewWriter(watched, nil)
			arrived := async(func() arrival { return receive(peer) })
			var wg sync.WaitGroup
			for sender := range 32 {
				wg.Go(func() {
					for i := range 50 {
						assert.NoError(t, send(w, i, frame(sender, i, i)))
						if i%10 == 0 {
							assert.NoError(t, w.Flush(t.Context())) // let the queue run empty
						}
					}
				})
			}
			wg.Wait()
			require.NoError(t, w.Close())
			require.NoError(t, (<-arrived).err)
			require.Equal(t, 1, watched.Together())
		})
	})

	t.Run("none while idle", func(t *testing.T) {
		// A bubble does not end before its goroutines do: the test fails if one is
		// parked, though the Writer lives on.
		synctest.Test(t, func(t *testing.T) {
			conn := faultconn.New()
			w := sendq.NewWriter(conn, nil)
			require.NoError(t, w.Send([]byte("message")))
			require.NoError(t, w.Flush(t.Context()))
			synctest.Wait()
		})
	})

	t.Run("none is missed", func(t *testing.T) {
		// Each message comes just when the flusher of the one before it leaves.
		w := sendq.NewWriter(faultconn.New(), nil)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for range 5000 {
					assert.NoError(t, w.Send([]byte("m")))
					assert.NoError(t, w.Flush(t.Context()))
				}
			})
		}
		wg.Wait()
		require.NoError(t, w.Close())
	})
}

func TestWriterAccountedFor(t *testing.T) {
	over(t, transports, func(t *testing.T, conn, peer net.Conn) {
		const senders, limit = 32, 1_500_000
		faulty := faultconn.Wrap(conn)
		faulty.Fault = faultconn.FailAt(limit, errBroken)
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

		// The peer has what was written and a part of the next message.
		got := []byte((<-arrived).bytes)
		require.Len(t, got, limit)
		require.GreaterOrEqual(t, int64(limit), s.WrittenBytes)
		written, torn := got[:s.WrittenBytes], got[s.WrittenBytes:]
		require.True(t, bytes.HasPrefix(undelivered[0], torn))

		// What was written and what was not are all that was sent, in order.
		all := receive(io.MultiReader(bytes.NewReader(written), bytes.NewReader(rest)))
		require.NoError(t, all.err)
		for sender := range senders {
			require.Equal(t, upTo(frames[sender]), all.order[sender])
		}
	})
}

func TestWriterNeverTorn(t *testing.T) {
	write := func(w *sendq.Writer, _ int, p []byte) error { return send(w, 0, p) }
	give := func(w *sendq.Writer, _ int, p []byte) error { return w.Send(p) }
	small := [][]byte{[]byte("a"), nil, []byte("bc"), []byte("d"), nil, nil, []byte("efghi"), []byte("jk"), nil}
	large := [][]byte{[]byte("a"), letters(20 << 10), nil, []byte("bc"), letters(300 << 10), letters(16 << 10), nil}
	for _, tt := range []struct {
		name     string
		send     func(*sendq.Writer, int, []byte) error
		messages [][]byte
	}{
		{"copied", write, small},
		{"by reference", give, small},
		{"both", send, small},
		{"large, copied", write, large},
		{"large, by reference", give, large},
		{"large, both", send, large},
	} {
		t.Run(tt.name, func(t *testing.T) {
			stream := bytes.Join(tt.messages, nil)
			for _, n := range interestingOffsets(tt.messages) {
				conn := faultconn.New()
				conn.Fault = faultconn.FailAt(n, errBroken)
				w := sendq.NewWriter(conn, nil)
				// The first message goes out alone, the others all wait behind it.
				waiting := conn.Stall()
				for i, p := range tt.messages {
					require.NoError(t, tt.send(w, i, slices.Clone(p)))
					if i == 0 {
						<-waiting
					}
				}
				flushed := async(func() error { return w.Flush(t.Context()) })
				conn.Release()
				<-w.Done()

				first, writtenBytes := 0, 0
				for writtenBytes+len(tt.messages[first]) <= n {
					writtenBytes += len(tt.messages[first])
					first++
				}
				require.Equal(t, string(stream[:n]), string(conn.Bytes()), "fails at byte %d", n)
				require.Zero(t, conn.Late(), "fails at byte %d", n)
				requireMessages(t, tt.messages[first:], w.Undelivered())
				stats := w.Stats()
				stats.Writes, stats.PeakPendingBytes = 0, 0
				require.Equal(t, sendq.WriterStats{
					Accepted: int64(len(tt.messages)), AcceptedBytes: int64(len(stream)),
					Written: int64(first), WrittenBytes: int64(writtenBytes),
					Undelivered:      int64(len(tt.messages) - first),
					UndeliveredBytes: int64(len(stream) - writtenBytes),
				}, stats)
				require.Equal(t, errBroken, w.Err())
				require.ErrorIs(t, <-flushed, errBroken)
				require.ErrorIs(t, w.Close(), errBroken)
				require.ErrorIs(t, conn.Close(), net.ErrClosed, "the Writer has closed it")
			}
		})
	}

	t.Run("the reader wakes", func(t *testing.T) {
		over(t, transports, func(t *testing.T, conn, _ net.Conn) {
			faulty := faultconn.Wrap(conn)
			faulty.Fault = faultconn.FailAt(0, errBroken)
			read := async(func() error { _, err := faulty.Read(make([]byte, 1)); return err })
			w := sendq.NewWriter(faulty, nil)
			require.NoError(t, w.Send([]byte("message")))
			require.Error(t, <-read)
			<-w.Done()
			require.Equal(t, errBroken, w.Err())
		})
	})

	t.Run("beneath TLS", func(t *testing.T) {
		// The connection fails within a record, after n bytes.
		for n := range 120 {
			inner, innerPeer := tcpPair(t)
			faulty := faultconn.Wrap(inner)
			conn, peer := tls.Server(faulty, tlsConfig()), tls.Client(innerPeer, tlsConfig())
			handshake := async(conn.Handshake)
			require.NoError(t, peer.Handshake())
			require.NoError(t, <-handshake)
			faulty.Fault = faultconn.FailAt(n, errBroken)
			w := sendq.NewWriter(conn, nil)
			arrived := async(func() content { return readAll(peer) })

			waiting := faulty.Stall()
			messages := [][]byte{[]byte("a"), []byte("bcd"), letters(100)}
			for i, p := range messages {
				require.NoError(t, send(w, i, slices.Clone(p)))
				if i == 0 {
					<-waiting
				}
			}
			faulty.Release()
			<-w.Done()
			require.ErrorIs(t, w.Err(), errBroken)
			// Beyond the records that went out whole the peer has nothing.
			s := w.Stats()
			require.Equal(t, string(bytes.Join(messages[:s.Written], nil)), (<-arrived).bytes)
			requireMessages(t, messages[s.Written:], w.Undelivered())
		}
	})
}

func TestWriterCloseDelivers(t *testing.T) {
	t.Run("a long farewell", func(t *testing.T) {
		over(t, sockets, func(t *testing.T, conn, peer net.Conn) {
			// The peer has sent what nobody reads, more than one byte of which has
			// surely arrived: that makes the kernel reset a connection that is just
			// closed.
			unread := letters(16 << 10)
			_, err := peer.Write(unread)
			require.NoError(t, err)
			_, err = conn.Read(make([]byte, 1))
			require.NoError(t, err)

			w := sendq.NewWriter(conn, patient)
			farewell := letters(2 << 20)
			require.NoError(t, w.Send(farewell))
			closed := async(w.Close)
			// And it goes on sending, until it cannot.
			chatter := async(func() error {
				for {
					if _, err := peer.Write(unread); err != nil {
						return err
					}
				}
			})
			got := readAll(peer)
			require.NoError(t, got.err)
			require.Len(t, got.bytes, len(farewell))
			require.Equal(t, string(farewell), got.bytes)
			require.NoError(t, <-closed)
			require.NoError(t, w.Err())
			peer.Close()
			require.Error(t, <-chatter)
		})
	})

	t.Run("while senders are sending", func(t *testing.T) {
		over(t, transports, func(t *testing.T, conn, peer net.Conn) {
			w := sendq.NewWriter(conn, patient)
			arrived := async(func() arrival { return receive(peer) })
			const senders = 8
			accepted := make([]int, senders)
			midway := make(chan struct{}, senders)
			var wg sync.WaitGroup
			for sender := range senders {
				wg.Go(func() {
					for i := 0; ; i++ {
						if err := send(w, i, frame(sender, i, size(i)>>6)); err != nil {
							assert.ErrorIs(t, err, net.ErrClosed)
							accepted[sender] = i
							return
						}
						if i == 50 {
							midway <- struct{}{}
						}
						if i > 50 {
							w.Flush(t.Context()) // keeps the backlog short
						}
					}
				})
			}
			for range senders {
				<-midway
			}
			require.NoError(t, w.Close())
			wg.Wait()
			got := <-arrived
			require.NoError(t, got.err)
			for sender := range senders {
				require.Equal(t, upTo(accepted[sender]), got.order[sender])
			}
			require.Empty(t, slices.Collect(w.Undelivered()))
		})
	})

	t.Run("CloseNow interrupts", func(t *testing.T) {
		over(t, bounded(transports), func(t *testing.T, conn, _ net.Conn) {
			w := sendq.NewWriter(conn, patient)
			for range 64 {
				require.NoError(t, w.Send(make([]byte, 256<<10)))
			}
			closed := async(w.Close)
			for w.Send(nil) == nil { // until Close has begun
				runtime.Gosched()
			}
			require.NoError(t, w.CloseNow())
			require.ErrorIs(t, <-closed, net.ErrClosed)
			require.Equal(t, sendq.ErrClosed, w.Err())
			s := w.Stats()
			require.Positive(t, s.Undelivered)
			require.EqualValues(t, len(slices.Collect(w.Undelivered())), s.Undelivered)
		})
	})

	t.Run("CloseNow interrupts a TLS handshake", func(t *testing.T) {
		inner, _ := tcpPair(t)
		faulty := faultconn.Wrap(inner)
		begun := faulty.Stall()
		w := sendq.NewWriter(tls.Client(faulty, tlsConfig()), patient)
		require.NoError(t, w.Send([]byte("message")))
		<-begun
		require.NoError(t, w.CloseNow())
		requireMessages(t, [][]byte{[]byte("message")}, w.Undelivered())
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
			// What else the process allocates meanwhile matters only beside few Writers.
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
			copied := min(2*backlog, 16<<10) // what the flusher writes together
			require.Less(t, cost, 2*backlog+copied+fixed)
		})
	}
}

// stalled returns Writers on connections that take nothing until release is called, each
// with a backlog of messages of the given size.
func stalled(writers, backlog, size int, send func(w *sendq.Writer, n int)) (all []*sendq.Writer, release func()) {
	conn := &sink{open: make(chan struct{})}
	all = make([]*sendq.Writer, writers)
	for i := range all {
		all[i] = sendq.NewWriter(conn, nil)
		for range max(backlog/size, 1) {
			send(all[i], size)
		}
	}
	return all, func() { close(conn.open) }
}

var zeros [128 << 10]byte

// A sink takes everything once it is open. It keeps nothing, so that what is left of
// a Writer's memory can be measured.
type sink struct {
	net.Conn
	open chan struct{}
}

func (s *sink) Write(p []byte) (int, error) { <-s.open; return len(p), nil }
func (s *sink) LocalAddr() net.Addr         { return pipeAddr{} }
func (s *sink) Close() error                { return nil }

// A pipeAddr is that of a net.Pipe: Close does not wait for a peer.
type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe" }

// warmUp has n goroutines at a time, so that what the runtime keeps of them for the
// next ones is not counted as some Writer's.
func warmUp(n int) {
	var wg sync.WaitGroup
	end := make(chan struct{})
	for range n {
		wg.Go(func() { <-end })
	}
	close(end)
	wg.Wait()
}

// heap returns how many bytes are reachable.
func heap() int {
	for range 3 { // a sync.Pool lasts for two
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}
