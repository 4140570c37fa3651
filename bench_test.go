package sendq_test

import (
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/sendqtest"
)

// BenchmarkSend measures a 64-byte message over loopback TCP with one sender: through a Writer with
// and without limits, in the two ways most programs use, and at the limit of the connection.
func BenchmarkSend(b *testing.B) {
	message := make([]byte, 64)

	for _, bb := range []struct {
		name string
		opts *sendq.WriterOptions
	}{
		{"Writer", nil},
		{"Writer, MaxPending of 1 MiB, Block", &sendq.WriterOptions{MaxPending: 1 << 20, Overflow: sendq.Block}},
		{"Writer, every limit", &sendq.WriterOptions{MaxPending: 1 << 20, Overflow: sendq.Block, MaxAge: time.Minute,
			WriteTimeout: time.Minute, Budget: sendq.NewBudget(1 << 30)}},
	} {
		b.Run(bb.name, func(b *testing.B) {
			w := sendq.NewWriter(drained(b), bb.opts)
			b.ReportAllocs()
			for b.Loop() {
				w.Write(message)
			}
			require.NoError(b, w.Flush(context.Background()))
		})
	}

	b.Run("channel, one write per message", func(b *testing.B) {
		conn := drained(b)
		queue := make(chan []byte, 256)
		var writer sync.WaitGroup
		writer.Go(func() {
			for p := range queue {
				conn.Write(p)
			}
		})
		b.ReportAllocs()
		for b.Loop() {
			queue <- append([]byte(nil), message...)
		}
		close(queue)
		writer.Wait()
	})

	b.Run("mutex around conn.Write", func(b *testing.B) {
		conn := drained(b)
		var mu sync.Mutex
		b.ReportAllocs()
		for b.Loop() {
			mu.Lock()
			conn.Write(message)
			mu.Unlock()
		}
	})

	b.Run("limit", func(b *testing.B) {
		conn := drained(b)
		buf := make([]byte, 0, 256<<10)
		for b.Loop() {
			if len(buf)+64 > cap(buf) {
				conn.Write(buf)
				buf = buf[:0]
			}
			buf = append(buf, message...)
		}
	})
}

// BenchmarkFlush measures a message of 1 KiB on TCP while other goroutines write and flush small ones.
func BenchmarkFlush(b *testing.B) {
	for _, flushers := range []int{0, 16} {
		b.Run(fmt.Sprintf("beside %d goroutines that flush", flushers), func(b *testing.B) {
			w := sendq.NewWriter(drained(b), &sendq.WriterOptions{MaxPending: 1 << 20, Overflow: sendq.Block})
			ctx, cancel := context.WithCancel(b.Context())
			var flushes atomic.Int64
			var flushing sync.WaitGroup
			for range flushers {
				flushing.Go(func() {
					for message := make([]byte, 64); ctx.Err() == nil; time.Sleep(100 * time.Microsecond) {
						w.Write(message)
						w.Flush(ctx)
						flushes.Add(1)
					}
				})
			}
			message := make([]byte, 1024)
			for b.Loop() {
				w.Write(message)
			}
			b.ReportMetric(float64(flushes.Load())/b.Elapsed().Seconds(), "flushes/s")
			cancel()
			flushing.Wait()
			w.CloseNow()
		})
	}
}

// BenchmarkRoundTrip measures a 64-byte message and its answer on an idle connection, with
// conn.Write and with a Writer.
func BenchmarkRoundTrip(b *testing.B) {
	for _, name := range []string{"conn.Write", "Writer"} {
		b.Run(name, func(b *testing.B) {
			conn, peer := tcpPair(b)
			go io.CopyBuffer(struct{ io.Writer }{peer}, struct{ io.Reader }{peer}, make([]byte, 64))
			out := io.Writer(conn)
			if name == "Writer" {
				out = sendq.NewWriter(conn, nil)
			}
			message := make([]byte, 64)
			b.ReportAllocs()
			for b.Loop() {
				out.Write(message)
				io.ReadFull(conn, message)
			}
		})
	}
}

// BenchmarkPublish measures queueing a 64-byte message for 1,000 members of a room whose peers do
// not read: alone and as one of 64 in a Batch, with and without limits. The figures are per
// message.
func BenchmarkPublish(b *testing.B) {
	for _, bb := range []struct {
		name string
		opts *sendq.WriterOptions
	}{
		{"no limit", nil},
		{"every limit", &sendq.WriterOptions{MaxPending: math.MaxInt, MaxAge: time.Hour, WriteTimeout: time.Hour, Budget: sendq.NewBudget(math.MaxInt)}},
	} {
		broker := sendq.NewBroker(nil)
		for i := range 1000 {
			require.NoError(b, broker.Register(memberName(i), sendq.NewWriter(stalledPeer(), bb.opts)))
			require.NoError(b, broker.Room("room").Join(memberName(i)))
		}
		message := make([]byte, 64)
		b.Run("Room.Publish, "+bb.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				broker.Room("room").Publish(message)
			}
		})
		b.Run("Batch, "+bb.name, func(b *testing.B) {
			batch := broker.NewBatch()
			b.ReportAllocs()
			for n := 0; b.Loop(); n++ {
				if batch.Publish("room", message); n%64 == 63 {
					batch.Flush()
				}
			}
		})
		broker.CloseNow()
	}
}

// drained returns a TCP connection whose peer reads everything.
func drained(b *testing.B) net.Conn {
	conn, peer := connect(b, "tcp", "127.0.0.1:0")
	go io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{peer}, make([]byte, 256<<10))
	return conn
}

// BenchmarkResume lets a connection fail and its peer come back.
func BenchmarkResume(b *testing.B) {
	broker := sendq.NewBroker(&sendq.BrokerOptions{Linger: time.Hour})
	conn := sendqtest.NewConn()
	w := sendq.NewWriter(conn, keeping)
	require.NoError(b, broker.Register("bob", w))
	b.ReportAllocs()
	for b.Loop() {
		_ = w.Fail(io.EOF)
		w = sendq.NewWriter(conn, keeping)
		if _, err := broker.Resume(b.Context(), "bob", w, 0, nil); err != nil {
			b.Fatal(err)
		}
	}
}
