package sendq_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/sendqtest"
)

// A hub of one's own keeps its Writers in a map, and writes to all of them at once.
func ExampleWriteAll() {
	conn, peer := dialed()
	defer peer.Close()
	clients := make(map[string]*sendq.Writer)
	clients["ann"] = sendq.NewWriter(conn, nil)
	clients["bob"] = sendq.NewWriter(conn, nil)
	clients["bob"].CloseNow()

	n := sendq.WriteAll(maps.Values(clients), []byte("hello\n"), func(w *sendq.Writer, err error) {
		fmt.Println("bob is gone:", w == clients["bob"] && errors.Is(err, net.ErrClosed))
	})
	fmt.Println("accepted:", n)
	// Output:
	// bob is gone: true
	// accepted: 1
}

func TestWriteAll(t *testing.T) {
	t.Run("over connections", func(t *testing.T) {
		over(t, transports, func(t *testing.T, conn, peer net.Conn) {
			w := sendq.NewWriter(conn, nil)
			arrived := async(func() content { return readAll(peer) })
			var want []byte
			for i := range 100 {
				p := fmt.Appendf(nil, "%d %s\n", i, letters(i*i*7%20_000))
				want = append(want, p...)
				require.Equal(t, 1, sendq.WriteAll(slices.Values([]*sendq.Writer{w}), p, nil))
				clear(p) // it is the caller's again
			}
			require.NoError(t, w.Close())
			require.Equal(t, content{string(want), nil}, <-arrived)
		})
	})

	t.Run("reports who refuses", func(t *testing.T) {
		full, _ := stuck(t, &sendq.WriterOptions{MaxPending: 100, Overflow: sendq.Block})
		lossy, _ := stuck(t, &sendq.WriterOptions{MaxPending: 100, Overflow: sendq.DropNewest})
		closed := sendq.NewWriter(sendqtest.NewConn(), nil)
		require.NoError(t, closed.CloseNow())
		good := sendq.NewWriter(sendqtest.NewConn(), nil)
		refused := make(map[*sendq.Writer]error)
		n := sendq.WriteAll(slices.Values([]*sendq.Writer{full, good, lossy, closed, good}), counted(100), func(w *sendq.Writer, err error) {
			require.NoError(t, good.Flush(t.Context()), "a Writer that has accepted is awake")
			refused[w] = err
		})
		require.Equal(t, 2, n)
		require.Len(t, refused, 3)
		require.ErrorIs(t, refused[full], sendq.ErrWouldBlock)
		require.ErrorIs(t, refused[lossy], sendq.ErrDropped)
		require.ErrorIs(t, refused[closed], net.ErrClosed)
		require.NoError(t, good.Close())
	})

	t.Run("wakes the others if the iteration panics", func(t *testing.T) {
		w := sendq.NewWriter(sendqtest.NewConn(), nil)
		require.Panics(t, func() {
			sendq.WriteAll(func(yield func(*sendq.Writer) bool) { yield(w); panic("iteration") }, []byte("message"), nil)
		})
		require.NoError(t, w.Flush(t.Context()))
		require.NoError(t, w.Close())
	})
}

// The caller does not write to idle Writers, and stalled ones share one copy.
func TestWriteAllSharesOneCopy(t *testing.T) {
	const size = 10 << 10
	const backlog, writers = 100, 50
	budget := sendq.NewBudget(1 << 30)
	var all []*sendq.Writer
	for range writers {
		w, _ := stuck(t, &sendq.WriterOptions{Budget: budget})
		all = append(all, w)
	}
	before := budget.PendingBytes()
	for range backlog {
		require.Equal(t, writers, sendq.WriteAll(slices.Values(all), make([]byte, size), nil))
	}
	require.Equal(t, backlog*(size+64*writers), budget.PendingBytes()-before)
	for _, w := range all {
		w.CloseNow()
	}
	require.Zero(t, budget.PendingBytes())
}

// BenchmarkWriteAll measures a 64-byte message to 500 idle Writers on TCP: in a loop of Write,
// through WriteAll, and through a Broker. Only the call is measured, not the wait for the writes.
func BenchmarkWriteAll(b *testing.B) {
	const writers = 500
	var all []*sendq.Writer
	broker := sendq.NewBroker(nil)
	for i := range writers {
		w := sendq.NewWriter(drained(b), nil)
		require.NoError(b, broker.Register(memberName(i), w))
		all = append(all, w)
	}
	message := make([]byte, 64)
	for _, bb := range []struct {
		name string
		send func()
	}{
		{"Write in a loop", func() {
			for _, w := range all {
				w.Write(message)
			}
		}},
		{"WriteAll", func() { sendq.WriteAll(slices.Values(all), message, nil) }},
		{"Broadcast", func() { broker.Broadcast(message) }},
	} {
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				bb.send()
				b.StopTimer()
				for _, w := range all {
					require.NoError(b, w.Flush(context.Background()))
				}
				b.StartTimer()
			}
		})
	}
}
