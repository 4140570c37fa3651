package sendq_test

import (
	"context"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/internal/faultconn"
)

// What one may ask of a Writer that lives.

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

// To an idle Writer on a socket a short message is written by its sender: no goroutine is in
// between, and the message is on its way when Write returns.
func TestWriterIdleWrites(t *testing.T) {
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
			// Errors are those of conn.Write.
			require.NoError(t, conn.Close())
			_, want := conn.Write([]byte("message"))
			w.WriteString("message")
			<-w.Done()
			require.Equal(t, want.Error(), w.Err().Error())
			require.ErrorIs(t, w.Err(), net.ErrClosed)

			// When the kernel takes no more, nobody waits, and the limits hold.
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

func TestWriterOnEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := sendq.NewWriter(faultconn.New(), nil)
		var causes []error
		note := func() { causes = append(causes, w.Err()) }
		w.OnEnd(note)
		stop := w.OnEnd(func() { t.Error("called although it was stopped") })
		late := w.OnEnd(func() {})
		require.True(t, stop())
		require.False(t, stop())
		synctest.Wait()
		require.Empty(t, causes)
		w.CloseNow()
		synctest.Wait()
		require.Equal(t, []error{sendq.ErrClosed}, causes)
		require.False(t, late(), "it has been called")
		w.OnEnd(note)
		synctest.Wait()
		require.Len(t, causes, 2, "at once when it is too late")
	})
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
