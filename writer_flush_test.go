package sendq_test

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/sendqtest"
)

func TestWriterOneFlusher(t *testing.T) {
	t.Run("at a time", func(t *testing.T) {
		over(t, transports, func(t *testing.T, conn, peer net.Conn) {
			watched := hooked(sendqtest.Wrap(conn))
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
		// A bubble ends after its goroutines. So the test fails if one is parked, although the
		// Writer still lives.
		synctest.Test(t, func(t *testing.T) {
			conn := sendqtest.NewConn()
			w := sendq.NewWriter(conn, nil)
			require.NoError(t, w.Send([]byte("message")))
			require.NoError(t, w.Flush(t.Context()))
			synctest.Wait()
		})
	})

	t.Run("none is missed", func(t *testing.T) {
		// Each message comes just when the flusher of the previous one leaves.
		w := sendq.NewWriter(sendqtest.NewConn(), nil)
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
				conn := hooked(sendqtest.NewConn())
				conn.FailAfter(n, errBroken)
				w := sendq.NewWriter(conn, nil)
				// The first message goes out alone, and the others wait for it.
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
			faulty := sendqtest.Wrap(conn)
			faulty.FailAfter(0, errBroken)
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
			faulty := sendqtest.Wrap(inner)
			conn, peer := tls.Server(faulty, tlsConfig()), tls.Client(innerPeer, tlsConfig())
			handshake := async(conn.Handshake)
			require.NoError(t, peer.Handshake())
			require.NoError(t, <-handshake)
			faulty.FailAfter(n, errBroken)
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
			// The peer has nothing but whole records.
			s := w.Stats()
			require.Equal(t, string(bytes.Join(messages[:s.Written], nil)), (<-arrived).bytes)
			requireMessages(t, messages[s.Written:], w.Undelivered())
		}
	})
}

// interestingOffsets returns all offsets in short messages, and otherwise those near the ends of
// messages and of large writes. The end itself is not included.
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

func TestWriterCoalesces(t *testing.T) {
	over(t, transports, func(t *testing.T, conn, peer net.Conn) {
		watched := sendqtest.Wrap(conn)
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

// The sender itself writes a short message to an idle Writer on a socket, so the message is in
// transit when Write returns.
func TestWriterIdleWrites(t *testing.T) {
	needSocketWrites(t)
	for _, tr := range []transport{{"TCP", tcpPair}, {"Unix", unixPair}} {
		t.Run(tr.name, func(t *testing.T) {
			conn, peer := tr.pair(t)
			w := sendq.NewWriter(conn, nil)
			for i := range 10 {
				require.NoError(t, send(w, i, []byte("message")))
				require.Zero(t, w.Stats().Pending)
				message := make([]byte, len("message"))
				_, err := io.ReadFull(peer, message)
				require.NoError(t, err)
				require.Equal(t, "message", string(message))
				time.Sleep(time.Millisecond) // or it counts as of one burst
			}
			// Errors come from conn.Write.
			require.NoError(t, conn.Close())
			_, want := conn.Write([]byte("message"))
			w.WriteString("message")
			<-w.Done()
			require.Equal(t, want.Error(), w.Err().Error())
			require.ErrorIs(t, w.Err(), net.ErrClosed)

			// When the kernel takes no more, nobody waits, and the limits apply.
			conn, _ = tr.pair(t)
			w = sendq.NewWriter(conn, &sendq.WriterOptions{WriteTimeout: 100 * time.Millisecond})
			for w.Stats().PendingBytes < 8<<20 { // so the kernel is full, whatever it has grown to
				if w.Send(make([]byte, 10_000)) != nil {
					break // this has taken so long that the limit was reached
				}
			}
			<-w.Done()
			require.ErrorIs(t, w.Err(), sendq.ErrSlowConsumer)
			assertConserved(t, w.Stats())
		})
	}
}

func TestMessageFramed(t *testing.T) {
	conn := sendqtest.NewConn()
	waiting := conn.Stall()
	w := sendq.NewWriter(conn, &sendq.WriterOptions{MessageFramed: true})
	w.WriteString("one")
	<-waiting
	w.WriteString("three")
	w.WriteString("")
	w.WriteString("seven")
	conn.Release()
	require.NoError(t, w.Close())
	require.Equal(t, []int{3, 5, 0, 5}, conn.Sizes())
}

// Even if the inner connection is a stream socket, no message is split or lost when the kernel
// takes no more for a while.
func TestMessageFramedOverTCP(t *testing.T) {
	conn, peer := tcpPair(t)
	w := sendq.NewWriter(conn, &sendq.WriterOptions{MessageFramed: true, CloseTimeout: time.Hour})
	const messages = 2000
	for i := range messages {
		require.NoError(t, w.Send(frame(0, i, 10_000)))
		if i%10 == 0 {
			time.Sleep(10 * time.Microsecond) // to be idle now and then
		}
	}
	arrived := async(func() arrival { return receive(peer) })
	require.NoError(t, w.Close())
	got := <-arrived
	require.NoError(t, got.err)
	require.Equal(t, upTo(messages), got.order[0])
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
				watched := sendqtest.Wrap(conn)
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

	// Package net waits for room, but not for an empty datagram: it returns EAGAIN.
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
		faulty := hooked(sendqtest.Wrap(conn))
		faulty.Fault = func([]byte) (int, error) { return 0, errBroken }
		w := sendq.NewWriter(faulty, nil)
		require.NoError(t, w.Send(nil))
		<-w.Done()
		require.Equal(t, errBroken, w.Err())
		require.EqualValues(t, 1, w.Stats().Undelivered, "the connection did not take it")
	})
}

// requireDatagram requires that conn receives want next.
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
	if runtime.GOOS != "linux" {
		t.Skip("a write does not wait for room: it fails with ENOBUFS on BSD")
	}
	addr := &net.UnixAddr{Name: socketPath(t), Net: "unixgram"}
	peer, err := net.ListenUnixgram("unixgram", addr)
	require.NoError(t, err)
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

// A write deadline set by someone else ends the Writer like any other error, because part of a
// message may be on the connection.
func TestWriterDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := sendqtest.NewConn()
		conn.Stall()
		require.NoError(t, conn.SetWriteDeadline(time.Now().Add(time.Second)))
		w := sendq.NewWriter(conn, nil)
		require.NoError(t, w.Send([]byte("message")))
		<-w.Done()
		require.ErrorIs(t, w.Err(), os.ErrDeadlineExceeded)
	})
}
