package sendq_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/internal/faultconn"
)

var errBroken = errors.New("broken on purpose")

// patient bounds Close by more than a test may take: that Close returns at all shows
// that it did not wait for the bound.
var patient = &sendq.WriterOptions{CloseTimeout: time.Hour}

// The guarantees, one test each.

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
			const senders, messages = 8, 500
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
			const senders, messages = 8, 200
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
		over(t, transports, func(t *testing.T, conn, _ net.Conn) {
			w := sendq.NewWriter(conn, nil)
			b := sendq.NewBroker(nil)
			require.NoError(t, b.Register("stalled", w))
			const messages, length = 64, 256 << 10 // more than any kernel buffers
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
		const senders, limit = 32, 3_000_000
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
		over(t, transports, func(t *testing.T, conn, _ net.Conn) {
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
	const total = 64 << 20
	warmUp(10_000)
	for _, tt := range []struct {
		name    string
		writers int
		send    func(w *sendq.Writer, n int)
		size    int // of a message
	}{
		{"short messages, 1000 Writers", 1000, copied, 64},
		{"short messages, one Writer", 1, copied, 64},
		{"by reference, 1000 Writers", 1000, given, 4 << 10},
		{"by reference, one Writer", 1, given, 4 << 10},
		{"both, 1000 Writers", 1000, both, 4 << 10},
		{"long messages, 100 Writers", 100, both, 100 << 10},
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
			writers := min(10_000, 16<<20/backlog)
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
func (s *sink) LocalAddr() net.Addr         { return nil }
func (s *sink) Close() error                { return nil }

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

// The scenarios: how a Writer ends.

func TestWriterCloseFromPipe(t *testing.T) {
	conn, peer := net.Pipe()
	w := sendq.NewWriter(conn, patient)
	farewell := letters(2 << 20)
	require.NoError(t, w.Send(farewell))
	closed := async(w.Close)
	require.Equal(t, content{string(farewell), nil}, readAll(peer))
	require.NoError(t, <-closed)
}

func TestWriterCloseIdle(t *testing.T) {
	over(t, transports, func(t *testing.T, conn, peer net.Conn) {
		w := sendq.NewWriter(conn, patient)
		closed := async(w.Close)
		require.Equal(t, content{}, readAll(peer))
		require.NoError(t, <-closed)
		require.NoError(t, w.Err())
		require.Zero(t, w.Stats())
	})
}

func TestWriterCloseToHalfClosedPeer(t *testing.T) {
	over(t, sockets, func(t *testing.T, conn, peer net.Conn) {
		require.NoError(t, peer.(interface{ CloseWrite() error }).CloseWrite())
		_, err := conn.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
		w := sendq.NewWriter(conn, patient)
		farewell := letters(2 << 20)
		require.NoError(t, w.Send(farewell))
		closed := async(w.Close)
		require.Equal(t, content{string(farewell), nil}, readAll(peer))
		require.NoError(t, <-closed)
	})
}

// A Close that took its bound on each dead peer would use up a server's descriptors.
func TestWriterCloseToPeerThatIsGone(t *testing.T) {
	t.Run("and has closed", func(t *testing.T) {
		over(t, sockets, func(t *testing.T, conn, peer net.Conn) {
			w := sendq.NewWriter(conn, patient)
			require.NoError(t, peer.Close())
			_, err := conn.Read(make([]byte, 1))
			require.ErrorIs(t, err, io.EOF)
			require.NoError(t, w.Close())
		})
	})

	t.Run("and has reset", func(t *testing.T) {
		over(t, sockets, func(t *testing.T, conn, peer net.Conn) {
			w := sendq.NewWriter(conn, patient)
			reset(t, peer)
			_, err := conn.Read(make([]byte, 1))
			require.Error(t, err)
			require.NoError(t, w.Close(), "there was nothing to deliver")
		})
	})

	t.Run("and has reset with bytes on the way", func(t *testing.T) {
		const length = 300 << 10
		for _, tr := range []transport{{"TCP", narrow(tcpPair)}, {"TLS", narrow(tlsPair)}, {"Wrapped", narrow(wrappedPair)}} {
			t.Run(tr.name, func(t *testing.T) {
				conn, peer := tr.pair(t)
				w := sendq.NewWriter(conn, patient)
				require.NoError(t, w.Send(make([]byte, length)))
				require.NoError(t, w.Flush(t.Context()), "the kernel takes it")
				reset(t, peer)
				_, err := conn.Read(make([]byte, 1))
				require.ErrorIs(t, err, syscall.ECONNRESET)
				err = w.Close()
				require.ErrorIs(t, err, syscall.ECONNRESET)
				require.ErrorContains(t, err, "not acknowledged")
				require.Equal(t, err, w.Close())
				require.EqualValues(t, 1, w.Stats().Written)
			})
		}
	})

	t.Run("and resets during Close", func(t *testing.T) {
		over(t, sockets, func(t *testing.T, conn, peer net.Conn) {
			w := sendq.NewWriter(conn, patient)
			require.NoError(t, w.Send(make([]byte, 16<<20)))
			closed := async(w.Close)
			_, err := io.ReadFull(peer, make([]byte, 1<<20))
			require.NoError(t, err)
			reset(t, peer)
			err = <-closed
			requireGone(t, err)
			require.ErrorContains(t, err, "1 (16777216 bytes)")
		})
	})

	t.Run("and resets while Close waits for it to acknowledge", func(t *testing.T) {
		conn, peer := narrow(tcpPair)(t)
		w := sendq.NewWriter(conn, patient)
		require.NoError(t, w.Send(make([]byte, 300<<10)))
		require.NoError(t, w.Flush(t.Context()))
		closed := async(w.Close)
		for w.Send(nil) == nil {
			runtime.Gosched()
		}
		reset(t, peer)
		require.ErrorIs(t, <-closed, syscall.ECONNRESET)
	})
}

// narrow makes pairs whose sender's kernel takes a lot, and the peer's very little.
func narrow(pair func(testing.TB) (conn, peer net.Conn)) func(testing.TB) (conn, peer net.Conn) {
	return func(t testing.TB) (conn, peer net.Conn) {
		conn, peer = pair(t)
		require.NoError(t, innermost(conn).(*net.TCPConn).SetWriteBuffer(1<<20))
		require.NoError(t, innermost(peer).(*net.TCPConn).SetReadBuffer(4<<10))
		return conn, peer
	}
}

func TestWriterCloseTimeout(t *testing.T) {
	t.Run("of a peer that never reads", func(t *testing.T) {
		over(t, transports, func(t *testing.T, conn, _ net.Conn) {
			w := sendq.NewWriter(conn, &sendq.WriterOptions{CloseTimeout: 10 * time.Millisecond})
			require.NoError(t, w.Send(make([]byte, 16<<20)))
			require.NoError(t, w.Send([]byte("more")))
			err := w.Close()
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.ErrorContains(t, err, "2 (16777220 bytes)")
			require.ErrorContains(t, err, "CloseTimeout of 10ms")
			require.ErrorIs(t, w.Err(), context.DeadlineExceeded)
			require.Len(t, slices.Collect(w.Undelivered()), 2)
		})
	})

	t.Run("of bytes that the kernel holds", func(t *testing.T) {
		conn, _ := narrow(tcpPair)(t)
		w := sendq.NewWriter(conn, &sendq.WriterOptions{CloseTimeout: 10 * time.Millisecond})
		require.NoError(t, w.Send(make([]byte, 300<<10)))
		require.NoError(t, w.Flush(t.Context()))
		err := w.Close()
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, "not acknowledged")
		require.EqualValues(t, 1, w.Stats().Written)
	})

	t.Run("is 5 s by default", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			conn := faultconn.New()
			conn.Stall()
			w := sendq.NewWriter(conn, nil)
			require.NoError(t, w.Send([]byte("message")))
			start := time.Now()
			require.ErrorIs(t, w.Close(), context.DeadlineExceeded)
			require.Equal(t, 5*time.Second, time.Since(start))
		})
	})

	t.Run("is not waited for", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			conn := faultconn.New()
			conn.Stall()
			w := sendq.NewWriter(conn, patient)
			require.NoError(t, w.Send([]byte("message")))
			start := time.Now()
			time.AfterFunc(time.Second, conn.Release)
			require.NoError(t, w.Close())
			require.Equal(t, time.Second, time.Since(start))
			require.Equal(t, "message", string(conn.Bytes()))
		})
	})
}

func TestWriterEndsOnce(t *testing.T) {
	t.Run("well", func(t *testing.T) {
		over(t, transports, func(t *testing.T, conn, peer net.Conn) {
			w := sendq.NewWriter(conn, patient)
			arrived := async(func() content { return readAll(peer) })
			require.NoError(t, w.Send([]byte("message")))
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() { assert.NoError(t, w.Close()) })
				wg.Go(func() { assert.NoError(t, w.Shutdown(t.Context())) })
			}
			wg.Wait()
			require.Equal(t, content{"message", nil}, <-arrived)
			for _, end := range ends {
				require.NoError(t, end(w), "after the end")
			}
			canceled, cancel := context.WithCancel(t.Context())
			cancel()
			require.NoError(t, w.Shutdown(canceled))
			require.NoError(t, w.Err())
		})
	})

	t.Run("badly", func(t *testing.T) {
		over(t, transports, func(t *testing.T, conn, _ net.Conn) {
			w := sendq.NewWriter(conn, patient)
			for range 64 {
				require.NoError(t, w.Send(make([]byte, 256<<10)))
			}
			outcomes := make(chan error, 8)
			for range 4 {
				go func() { outcomes <- w.Close() }()
				go func() { outcomes <- w.Shutdown(t.Context()) }()
			}
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() { assert.NoError(t, w.CloseNow()) })
			}
			wg.Wait()
			first := <-outcomes
			require.ErrorIs(t, first, net.ErrClosed)
			for range cap(outcomes) - 1 {
				require.EqualError(t, <-outcomes, first.Error())
			}
			require.NoError(t, w.CloseNow())
			require.EqualError(t, w.Close(), first.Error())
		})
	})

	t.Run("at the first bound", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			conn := faultconn.New()
			conn.Stall()
			w := sendq.NewWriter(conn, patient)
			require.NoError(t, w.Send([]byte("message")))
			start := time.Now()
			closed := async(w.Close)
			ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errBroken)
			defer cancel()
			require.ErrorIs(t, w.Shutdown(ctx), errBroken)
			require.ErrorIs(t, <-closed, errBroken)
			require.Equal(t, time.Second, time.Since(start))
		})
	})
}

func TestWriterShutdownCanceled(t *testing.T) {
	over(t, transports, func(t *testing.T, conn, _ net.Conn) {
		w := sendq.NewWriter(conn, patient)
		for range 64 {
			require.NoError(t, w.Send(make([]byte, 256<<10)))
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errBroken)
		require.ErrorIs(t, w.Shutdown(ctx), errBroken)
		require.ErrorIs(t, w.Err(), errBroken)
		s := w.Stats()
		require.Positive(t, s.Undelivered)
		require.Zero(t, s.Pending)
	})
}

func TestWriterCloseNowIdle(t *testing.T) {
	over(t, transports, func(t *testing.T, conn, peer net.Conn) {
		w := sendq.NewWriter(conn, nil)
		require.NoError(t, w.CloseNow())
		require.Equal(t, sendq.ErrClosed, w.Err())
		_, err := conn.Write([]byte("x"))
		require.Error(t, err, "the connection is closed")
		require.Empty(t, readAll(peer).bytes)
	})
}

// On a pipe the goodbye of TLS fails when the connection beneath is closed first, and
// the pipe itself never tells that it was closed already.
func TestWriterCloseNowTLSOverPipe(t *testing.T) {
	inner, innerPeer := pipePair(t)
	conn, peer := tls.Server(inner, tlsConfig()), tls.Client(innerPeer, tlsConfig())
	arrived := async(func() content { return readAll(peer) })
	w := sendq.NewWriter(conn, nil)
	require.NoError(t, w.Send([]byte("message")))
	require.NoError(t, w.Flush(t.Context()))
	require.NoError(t, w.CloseNow())
	require.Equal(t, "message", (<-arrived).bytes)
}

// The goodbye of TLS waits 5 s for a peer that takes nothing.
func TestWriterCloseNowSaysNoGoodbye(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner, innerPeer := net.Pipe()
		faulty := faultconn.Wrap(inner)
		conn, peer := tls.Server(faulty, tlsConfig()), tls.Client(innerPeer, tlsConfig())
		arrived := async(func() content { return readAll(peer) })
		w := sendq.NewWriter(conn, nil)
		require.NoError(t, w.Send([]byte("message")))
		require.NoError(t, w.Flush(t.Context()))
		faulty.Stall()
		start := time.Now()
		w.CloseNow()
		require.Zero(t, time.Since(start))
		require.Equal(t, "message", (<-arrived).bytes)
	})
}

func TestWriterCloseNowReturnsTheConnectionsError(t *testing.T) {
	w := sendq.NewWriter(failingClose{faultconn.New()}, nil)
	require.Equal(t, errBroken, w.CloseNow())
	require.NoError(t, w.CloseNow())
}

type failingClose struct{ *faultconn.Conn }

func (c failingClose) Close() error {
	c.Conn.Close()
	return errBroken
}

func TestWriterPeerResets(t *testing.T) {
	over(t, sockets, func(t *testing.T, conn, peer net.Conn) {
		w := sendq.NewWriter(conn, patient)
		require.NoError(t, w.Send([]byte("message")))
		_, err := io.ReadFull(peer, make([]byte, 7))
		require.NoError(t, err)
		reset(t, peer)
		for err == nil {
			if err = w.Send([]byte("message")); err == nil {
				w.Flush(t.Context())
			}
		}
		<-w.Done()
		requireGone(t, err)
		require.ErrorIs(t, err, net.ErrClosed)
		requireGone(t, w.Err())
		assertConserved(t, w.Stats())
	})
}

func TestWriterUseAfterEnd(t *testing.T) {
	canceled, cancel := context.WithCancelCause(t.Context())
	cancel(errBroken)
	for _, tt := range []struct {
		name  string
		conn  func(*faultconn.Conn)
		end   func(*sendq.Writer) error
		cause error
	}{
		{"Close", func(*faultconn.Conn) {}, (*sendq.Writer).Close, nil},
		{"CloseNow", func(*faultconn.Conn) {}, (*sendq.Writer).CloseNow, sendq.ErrClosed},
		{
			"Shutdown in vain", func(c *faultconn.Conn) { c.Stall() },
			func(w *sendq.Writer) error { return w.Shutdown(canceled) }, errBroken,
		},
		{
			"a failed write", func(c *faultconn.Conn) { c.Fault = faultconn.FailAt(0, errBroken) },
			func(w *sendq.Writer) error { return w.Flush(t.Context()) }, errBroken,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conn := faultconn.New()
			w := sendq.NewWriter(conn, nil)
			tt.conn(conn)
			before := w.Done()
			select {
			case <-before:
				t.Fatal("done before the end")
			default:
			}
			require.NoError(t, w.Err())
			require.NoError(t, w.Send([]byte("message")))
			tt.end(w)

			<-before
			<-w.Done()
			require.Equal(t, before, w.Done())
			require.Equal(t, tt.cause, w.Err())
			stats := w.Stats()
			n, err := w.Write([]byte("late"))
			require.Zero(t, n)
			_, err2 := w.WriteString("late")
			for _, err := range []error{err, err2, w.Send([]byte("late")), second(w.Write(make([]byte, 100<<10)))} {
				require.ErrorIs(t, err, net.ErrClosed)
				require.ErrorIs(t, err, sendq.ErrClosed)
				if tt.cause != nil {
					require.ErrorIs(t, err, tt.cause)
				}
			}
			require.Equal(t, stats, w.Stats(), "what is refused does not count")
		})
	}

	t.Run("Done asked for only then", func(t *testing.T) {
		w := sendq.NewWriter(faultconn.New(), nil)
		require.NoError(t, w.CloseNow())
		<-w.Done()
	})
}

func second[A, B any](_ A, b B) B { return b }

// The scenarios: what one may ask of a living Writer.

func TestWriterFlush(t *testing.T) {
	t.Run("when all is written", func(t *testing.T) {
		over(t, transports, func(t *testing.T, conn, peer net.Conn) {
			w := sendq.NewWriter(conn, nil)
			require.NoError(t, w.Flush(t.Context()), "before the first message")
			arrived := async(func() content { return readAll(peer) })
			for i := range 100 {
				require.NoError(t, send(w, i, []byte("message")))
			}
			require.NoError(t, w.Flush(t.Context()))
			require.EqualValues(t, 100, w.Stats().Written)
			require.NoError(t, w.Close())
			require.Len(t, (<-arrived).bytes, 700)
			require.NoError(t, w.Flush(t.Context()), "after the end")
		})
	})

	t.Run("canceled", func(t *testing.T) {
		conn := faultconn.New()
		waiting := conn.Stall()
		w := sendq.NewWriter(conn, nil)
		require.NoError(t, w.Send([]byte("message")))
		<-waiting
		ctx, cancel := context.WithCancelCause(t.Context())
		patient := async(func() error { return w.Flush(t.Context()) })
		flushed := async(func() error { return w.Flush(ctx) })
		cancel(errBroken)
		require.ErrorIs(t, <-flushed, errBroken)
		require.EqualValues(t, 1, w.Stats().Pending, "the message stays")
		conn.Release()
		require.NoError(t, <-patient, "one call's context is nothing to another")
		require.Equal(t, "message", string(conn.Bytes()))
		require.NoError(t, w.Close())
	})

	t.Run("when the Writer ends first", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			conn := faultconn.New()
			conn.Stall()
			w := sendq.NewWriter(conn, nil)
			require.NoError(t, w.Send([]byte("message")))
			require.NoError(t, w.Send([]byte("another")))
			flushed := async(func() error { return w.Flush(t.Context()) })
			synctest.Wait()
			require.NoError(t, w.CloseNow())
			err := <-flushed
			require.ErrorIs(t, err, net.ErrClosed)
			require.ErrorContains(t, err, "2 (14 bytes)")
			require.EqualError(t, w.Flush(t.Context()), err.Error())
		})
	})

	t.Run("does not wait for later messages", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			conn := faultconn.New()
			may := make(chan struct{})
			conn.Fault = func(p []byte) (int, error) { <-may; return len(p), nil }
			w := sendq.NewWriter(conn, nil)
			require.NoError(t, w.Send([]byte("first")))
			synctest.Wait()
			flushed := async(func() error { return w.Flush(t.Context()) })
			synctest.Wait()
			require.NoError(t, w.Send([]byte("second")))
			second := async(func() error { return w.Flush(t.Context()) })
			may <- struct{}{}
			require.NoError(t, <-flushed)
			synctest.Wait()
			require.Empty(t, second)
			require.EqualValues(t, 1, w.Stats().Pending)
			may <- struct{}{}
			require.NoError(t, <-second)
		})
	})
}

func TestWriterUndelivered(t *testing.T) {
	conn := faultconn.New()
	waiting := conn.Stall()
	w := sendq.NewWriter(conn, nil)
	sent := [][]byte{[]byte("one"), nil, []byte("three"), letters(40 << 10)}
	for i, p := range sent {
		require.NoError(t, send(w, i, slices.Clone(p)))
	}
	<-waiting
	require.Empty(t, slices.Collect(w.Undelivered()), "before the end")
	early := w.Undelivered()
	require.NoError(t, w.CloseNow())

	requireMessages(t, sent, w.Undelivered())
	requireMessages(t, sent, early)
	messages := w.Undelivered()
	for p := range messages {
		require.Equal(t, "one", string(p))
		w.Stats() // no lock is held
		break
	}
	requireMessages(t, sent, messages)
}

func TestWriterCopies(t *testing.T) {
	for _, length := range []int{1, 100, 16 << 10, 16<<10 + 1, 100 << 10} {
		conn := faultconn.New()
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

func TestWriterCoalesces(t *testing.T) {
	over(t, transports, func(t *testing.T, conn, peer net.Conn) {
		watched := faultconn.Wrap(conn)
		waiting := watched.Stall()
		w := sendq.NewWriter(watched, nil)
		arrived := async(func() content { return readAll(peer) })
		require.NoError(t, w.Send([]byte("first")))
		<-waiting
		for range 4000 {
			require.NoError(t, second(w.Write(zeros[:64])))
		}
		for range 1000 {
			require.NoError(t, w.Send(zeros[:64]))
		}
		watched.Release()
		require.NoError(t, w.Close())
		require.Len(t, (<-arrived).bytes, 5+5000*64)
		require.Less(t, len(watched.Sizes()), 50)
		require.LessOrEqual(t, slices.Max(watched.Sizes()), 512<<10, "progress can be seen")
	})
}

func TestWriterEmptyMessages(t *testing.T) {
	over(t, transports, func(t *testing.T, conn, peer net.Conn) {
		watched := faultconn.Wrap(conn)
		w := sendq.NewWriter(watched, patient)
		for i := range 1000 {
			require.NoError(t, send(w, i, nil))
			if i < 100 {
				require.NoError(t, w.Flush(t.Context())) // one alone
			}
		}
		// Nobody reads yet: on a pipe a write of nothing would wait.
		require.NoError(t, w.Flush(t.Context()))
		require.Empty(t, watched.Sizes())
		arrived := async(func() content { return readAll(peer) })
		require.NoError(t, w.Close())
		require.Equal(t, content{}, <-arrived)
		require.EqualValues(t, 1000, w.Stats().Written)
	})
}

func TestWriterDatagrams(t *testing.T) {
	for _, tr := range []transport{{"UDP", udpPair}, {"unixgram", unixgramPair}, {"unixpacket", unixpacketPair}} {
		for _, tt := range []struct {
			name          string
			rounds, round int // how many messages wait at a time
			size          func(i int) int
		}{
			{"of all sizes", 12, 5, func(i int) int { return i % 5 * 300 }},
			{"more than a socket holds", 1, 60, func(i int) int { return 1 + i }},
		} {
			t.Run(tr.name+", "+tt.name, func(t *testing.T) {
				conn, peer := tr.pair(t)
				watched := faultconn.Wrap(conn)
				w := sendq.NewWriter(watched, nil)
				for range tt.rounds {
					waiting := watched.Stall()
					for i := range tt.round {
						require.NoError(t, send(w, i, letters(tt.size(i))))
					}
					<-waiting
					watched.Release()
					for i := range tt.round {
						requireDatagram(t, peer, letters(tt.size(i)))
					}
				}
				require.NoError(t, w.Close())
				require.EqualValues(t, tt.rounds*tt.round, w.Stats().Written)
				require.Len(t, watched.Sizes(), tt.rounds*tt.round)
			})
		}
	}

	// Package net waits until there is room, but not for an empty one: it returns EAGAIN.
	t.Run("empty ones, more than a socket holds", func(t *testing.T) {
		conn, peer := unixgramPair(t)
		w := sendq.NewWriter(conn, nil)
		for range 60 {
			require.NoError(t, w.Send(nil))
		}
		go func() {
			if <-w.Done(); w.Err() != nil {
				peer.Close() // or else it would wait for ever
			}
		}()
		for range 60 {
			requireDatagram(t, peer, nil)
			require.NoError(t, w.Err())
		}
		require.NoError(t, w.Close())
	})

	t.Run("an empty one that fails", func(t *testing.T) {
		conn, _ := udpPair(t)
		faulty := faultconn.Wrap(conn)
		faulty.Fault = func([]byte) (int, error) { return 0, errBroken }
		w := sendq.NewWriter(faulty, nil)
		require.NoError(t, w.Send(nil))
		<-w.Done()
		require.Equal(t, errBroken, w.Err())
		require.EqualValues(t, 1, w.Stats().Undelivered, "the connection did not take it")
	})
}

// requireDatagram requires that want is what conn receives next.
func requireDatagram(t testing.TB, conn net.Conn, want []byte) {
	t.Helper()
	buf := make([]byte, 64<<10)
	n, err := conn.Read(buf)
	if err != io.EOF || len(want) > 0 { // an empty packet looks like the end
		require.NoError(t, err)
	}
	require.Equal(t, string(want), string(buf[:n]))
}

func udpPair(t testing.TB) (conn, peer net.Conn) {
	peer, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	conn, err = net.Dial("udp", peer.LocalAddr().String())
	require.NoError(t, err)
	closeAtEnd(t, conn, peer)
	return conn, peer
}

func unixgramPair(t testing.TB) (conn, peer net.Conn) {
	addr := &net.UnixAddr{Name: socketPath(t), Net: "unixgram"}
	peer, err := net.ListenUnixgram("unixgram", addr)
	if err != nil {
		t.Skip(err)
	}
	conn, err = net.DialUnix("unixgram", nil, addr)
	require.NoError(t, err)
	closeAtEnd(t, conn, peer)
	return conn, peer
}

func unixpacketPair(t testing.TB) (conn, peer net.Conn) {
	if runtime.GOOS != "linux" {
		t.Skip("there are no such sockets")
	}
	return connect(t, "unixpacket", socketPath(t))
}

// The scenarios: connections that break the rules, and arguments that do.

func TestWriterBadCounts(t *testing.T) {
	for _, tt := range []struct {
		name        string
		fault       func([]byte) (int, error)
		wire        string // of "message"
		is          error
		contains    string
		undelivered int64
	}{
		{"short", faultconn.Short(3), "mes", io.ErrShortWrite, "short write", 1},
		{"nothing", faultconn.Short(0), "", io.ErrShortWrite, "short write", 1},
		{"short, with an error", faultconn.FailAt(3, errBroken), "mes", errBroken, "broken", 1},
		{"all, with an error", func(p []byte) (int, error) { return len(p), errBroken }, "message", errBroken, "broken", 0},
		{"negative", func([]byte) (int, error) { return -1, nil }, "", nil, "impossible count", 1},
		{"too many", func(p []byte) (int, error) { return len(p) + 1, nil }, "message", nil, "impossible count", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conn := faultconn.New()
			conn.Fault = tt.fault
			w := sendq.NewWriter(conn, nil)
			require.NoError(t, w.Send([]byte("message")))
			<-w.Done()
			require.ErrorContains(t, w.Err(), tt.contains)
			if tt.is != nil {
				require.ErrorIs(t, w.Err(), tt.is)
			}
			require.Equal(t, tt.wire, string(conn.Bytes()))
			require.Len(t, conn.Sizes(), 1)
			require.Equal(t, tt.undelivered, w.Stats().Undelivered)
			assertConserved(t, w.Stats())
		})
	}
}

func TestNewWriterPanics(t *testing.T) {
	require.PanicsWithValue(t, "sendq: NewWriter: conn is nil", func() { sendq.NewWriter(nil, nil) })
	require.PanicsWithValue(t, "sendq: NewWriter: CloseTimeout is negative: -1s", func() {
		sendq.NewWriter(faultconn.New(), &sendq.WriterOptions{CloseTimeout: -time.Second})
	})
}

func TestWriterCopiesOptions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := faultconn.New()
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

func TestWriterConnWithoutAddress(t *testing.T) {
	w := sendq.NewWriter(nowhere{faultconn.New()}, nil)
	require.NoError(t, w.Send([]byte("message")))
	require.NoError(t, w.Close())
	require.EqualValues(t, 1, w.Stats().Written)
}

type nowhere struct{ *faultconn.Conn }

func (nowhere) LocalAddr() net.Addr { return nil }

// A write deadline that somebody set ends the Writer like any other error, for part of
// a message may be on the connection.
func TestWriterDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := faultconn.New()
		conn.Stall()
		require.NoError(t, conn.SetWriteDeadline(time.Now().Add(time.Second)))
		w := sendq.NewWriter(conn, nil)
		require.NoError(t, w.Send([]byte("message")))
		<-w.Done()
		require.ErrorIs(t, w.Err(), os.ErrDeadlineExceeded)
	})
}

// The vocabulary of the tests.

// ends are the ways to end a Writer.
var ends = map[string]func(*sendq.Writer) error{
	"Close":    (*sendq.Writer).Close,
	"CloseNow": (*sendq.Writer).CloseNow,
	"Shutdown": func(w *sendq.Writer) error { return w.Shutdown(context.Background()) },
}

// send sends p in one of the three ways. It may change p.
func send(w *sendq.Writer, way int, p []byte) error {
	var n int
	var err error
	switch way % 3 {
	case 0:
		n, err = w.Write(p)
		defer clear(p) // it is the caller's again
	case 1:
		n, err = w.WriteString(string(p))
	case 2:
		return w.Send(p)
	}
	if err == nil && n != len(p) {
		return fmt.Errorf("wrote %d of %d", n, len(p))
	}
	return err
}

// size returns the length of message i: 0 to 100 KB, short ones most often.
func size(i int) int {
	switch i {
	case 0:
		return 0
	case 1:
		return 100_000
	}
	return rand.IntN(100_001) >> rand.IntN(12)
}

// A frame is a message that tells who sent it, which one it is, how long, and a
// checksum of all that.
func frame(sender, number, length int) []byte {
	p := make([]byte, frameHeader+length)
	for i := range length {
		p[frameHeader+i] = byte(sender + number + i)
	}
	binary.BigEndian.PutUint32(p[0:], uint32(sender))
	binary.BigEndian.PutUint32(p[4:], uint32(number))
	binary.BigEndian.PutUint32(p[8:], uint32(length))
	binary.BigEndian.PutUint32(p[12:], checksum(p))
	return p
}

const frameHeader = 16

func checksum(p []byte) uint32 {
	return crc32.Update(crc32.ChecksumIEEE(p[:12]), crc32.IEEETable, p[frameHeader:])
}

// An arrival is what came in frames: the numbers of each sender's, in order.
type arrival struct {
	order map[int][]int
	err   error // nil if all frames were whole, up to EOF
}

// receive reads r to the end, even after an error, so that no sender is stuck.
func receive(r io.Reader) arrival {
	a := arrival{order: make(map[int][]int)}
	in := bufio.NewReader(r)
	p := make([]byte, frameHeader+100_000)
	for {
		_, err := io.ReadFull(in, p[:frameHeader])
		if err == io.EOF {
			return a
		}
		sender, number := int(binary.BigEndian.Uint32(p[0:])), int(binary.BigEndian.Uint32(p[4:]))
		end := min(frameHeader+int(binary.BigEndian.Uint32(p[8:])), len(p))
		if err == nil {
			_, err = io.ReadFull(in, p[frameHeader:end])
		}
		if err == nil && checksum(p[:end]) != binary.BigEndian.Uint32(p[12:]) {
			err = errors.New("a wrong checksum")
		}
		if err != nil {
			io.Copy(io.Discard, in)
			a.err = err
			return a
		}
		a.order[sender] = append(a.order[sender], number)
	}
}

// A content is what a peer read to the end, and nil for EOF.
type content struct {
	bytes string
	err   error
}

func readAll(r io.Reader) content {
	p, err := io.ReadAll(r)
	return content{string(p), err}
}

// upTo returns 0, 1, ... n-1, or nil if n is 0.
func upTo(n int) (s []int) {
	for i := range n {
		s = append(s, i)
	}
	return s
}

// interestingOffsets returns every offset in messages if they are short, and else those
// about the ends of messages and of large writes. The end itself is not one.
func interestingOffsets(messages [][]byte) (offsets []int) {
	total := len(bytes.Join(messages, nil))
	if total < 1000 {
		return upTo(total)
	}
	end := 0
	ends := []int{32 << 10, 64 << 10, 256 << 10, total}
	for _, p := range messages {
		end += len(p)
		ends = append(ends, end, end+256<<10)
	}
	for _, end := range ends {
		for n := max(end-1, 0); n <= end+1 && n < total; n++ {
			offsets = append(offsets, n)
		}
	}
	slices.Sort(offsets)
	return slices.Compact(offsets)
}

// requireMessages compares messages, an empty one being the same as nil.
func requireMessages(t testing.TB, want [][]byte, got func(func([]byte) bool)) {
	t.Helper()
	var wantStrings, gotStrings []string
	for _, p := range want {
		wantStrings = append(wantStrings, string(p))
	}
	for p := range got {
		gotStrings = append(gotStrings, string(p))
	}
	require.Equal(t, wantStrings, gotStrings)
}

func assertConserved(t testing.TB, s sendq.WriterStats) {
	t.Helper()
	assert.Equal(t, s.Accepted, s.Written+s.Dropped+s.Undelivered+s.Pending)
	assert.Equal(t, s.AcceptedBytes, s.WrittenBytes+s.DroppedBytes+s.UndeliveredBytes+s.PendingBytes)
}

// requireGone requires an error that tells that the peer has gone.
func requireGone(t testing.TB, err error) {
	t.Helper()
	require.Error(t, err)
	require.True(t, errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE), "%v", err)
}
