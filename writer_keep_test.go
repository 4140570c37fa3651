package sendq_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/sendqtest"
)

// A Writer keeps what is written until the peer has acknowledged it.
func TestAcknowledge(t *testing.T) {
	conn := sendqtest.NewConn()
	w := sendq.NewWriter(conn, &sendq.WriterOptions{Keep: 1 << 20})
	for i := range 10 {
		fmt.Fprintf(w, "line %d\n", i)
	}
	require.NoError(t, w.Flush(t.Context()))
	requireKept := func(kept, acknowledged int64) {
		t.Helper()
		s := w.Stats()
		assertConserved(t, s)
		require.EqualValues(t, 10, s.Written)
		require.Equal(t, []int64{kept, 7 * kept, acknowledged}, []int64{s.Kept, s.KeptBytes, s.Acknowledged})
	}
	requireKept(10, 0)
	require.NoError(t, w.Acknowledge(0))
	require.NoError(t, w.Acknowledge(4))
	requireKept(6, 4)
	for _, n := range []int64{-1, 3, 11} {
		require.ErrorIs(t, w.Acknowledge(n), sendq.ErrWrongCount)
	}
	require.EqualError(t, w.Acknowledge(11), "sendq: wrong count of received messages: 11, and 10 were written")
	require.NoError(t, w.Acknowledge(4))
	requireKept(6, 4)
	require.Empty(t, slices.Collect(w.UndeliveredAfter(4)), "it has not ended")
	require.NoError(t, w.CloseNow())
	requireMessages(t, linesFrom(6, 10), w.UndeliveredAfter(6))
	requireMessages(t, linesFrom(4, 10), w.UndeliveredAfter(0))
	require.Empty(t, slices.Collect(w.UndeliveredAfter(10)))
	require.ErrorIs(t, w.Acknowledge(5), net.ErrClosed)
	require.Error(t, sendq.NewWriter(conn, nil).Acknowledge(0), "nothing is kept")
}

// linesFrom returns the lines of TestAcknowledge from i to j.
func linesFrom(i, j int) (lines [][]byte) {
	for ; i < j; i++ {
		lines = append(lines, fmt.Appendf(nil, "line %d\n", i))
	}
	return lines
}

// Keep is a bound. The oldest messages go first.
func TestKeepIsABound(t *testing.T) {
	w := sendq.NewWriter(sendqtest.NewConn(), &sendq.WriterOptions{Keep: 1000})
	for i := range 100 {
		require.NoError(t, w.Send(bytes.Repeat([]byte{byte(i)}, 36)))
		require.NoError(t, w.Flush(t.Context()))
		s := w.Stats()
		require.EqualValues(t, min(i+1, 10), s.Kept)
	}
	require.NoError(t, w.Send(counted(1000)))
	require.NoError(t, w.Flush(t.Context()))
	require.EqualValues(t, 1, w.Stats().Kept)
	require.NoError(t, w.Send(counted(1001)))
	require.NoError(t, w.Flush(t.Context()))
	require.Zero(t, w.Stats().Kept)
	require.NoError(t, w.Send(make([]byte, 36)))
	require.NoError(t, w.Flush(t.Context()))
	require.EqualValues(t, 1, w.Stats().Kept)
	require.NoError(t, w.CloseNow())
}

// The peer may acknowledge a message before the write of it has returned.
func TestAcknowledgeDuringAWrite(t *testing.T) {
	conn := hooked(sendqtest.NewConn())
	var w *sendq.Writer
	conn.Enter = func(method string) {
		if method == "Write" {
			require.NoError(t, w.Acknowledge(1))
		}
	}
	w = sendq.NewWriter(conn, &sendq.WriterOptions{Keep: 1000, MessageFramed: true})
	w.WriteString("message")
	require.NoError(t, w.Flush(t.Context()))
	require.Zero(t, w.Stats().Kept)
	require.EqualValues(t, 1, w.Stats().Acknowledged)
	require.NoError(t, w.Close())
}

// Written and pending messages are there after the end: all sizes and kinds, over real sockets.
func TestUndeliveredAfter(t *testing.T) {
	over(t, transports, func(t *testing.T, conn, peer net.Conn) {
		w := sendq.NewWriter(conn, &sendq.WriterOptions{Keep: 64 << 20})
		var sent [][]byte
		for i := range 400 {
			p := bytes.Repeat([]byte(letters(26)[i%26:i%26+1]), size(i))
			sent = append(sent, p)
			if i%50 == 49 {
				require.NoError(t, second(w.WriteAlways(p)))
			} else {
				require.NoError(t, send(w, i, bytes.Clone(p)))
			}
		}
		all := bytes.Join(sent, nil)
		received := make([]byte, len(all)/2)
		require.NoError(t, second(io.ReadFull(peer, received)))
		require.True(t, bytes.HasPrefix(all, received))
		require.NoError(t, w.CloseNow())
		s := w.Stats()
		assertConserved(t, s)
		require.Equal(t, s.Written, s.Kept)
		for _, n := range []int{0, 1, 7, 50, 200, int(s.Written), 399, 400, 1000} {
			requireMessages(t, sent[min(n, len(sent)):], w.UndeliveredAfter(int64(n)))
		}
		requireMessages(t, sent[s.Written:], w.Undelivered())
	})
}

// What is kept has its place in the order of writing, and what is dropped has none.
func TestUndeliveredAfterUrgentAndDroppedMessages(t *testing.T) {
	w, conn := stuck(t, &sendq.WriterOptions{Keep: 1 << 20, MaxMessages: 4, Overflow: sendq.DropOldest})
	for i := range 6 {
		require.NoError(t, second(fmt.Fprintf(w, "line %d\n", i)))
	}
	require.NoError(t, second(w.WriteUrgent([]byte("pong\n"))))
	conn.Release()
	require.NoError(t, w.Flush(t.Context()))
	require.NoError(t, w.CloseNow())
	var got []string
	for p := range w.UndeliveredAfter(1) { // without what it is stuck in
		got = append(got, string(p))
	}
	require.Equal(t, "pong\nline 3\nline 4\nline 5\n", strings.Join(got, ""))
	require.EqualValues(t, 5, w.Stats().Written)
}

// What is kept counts in the Budget until it is let go, and what members of a room share counts
// once.
func TestKeptMessagesAndTheBudget(t *testing.T) {
	const members = 50
	budget := sendq.NewBudget(1 << 20)
	b := sendq.NewBroker(nil)
	var all []*sendq.Writer
	for i := range members {
		w := sendq.NewWriter(sendqtest.NewConn(), &sendq.WriterOptions{Keep: 100 << 10, Budget: budget})
		require.NoError(t, b.Register(memberName(i), w))
		require.NoError(t, b.Room("room").Join(memberName(i)))
		all = append(all, w)
	}
	const own, size = 100, 10 << 10
	for range 9 {
		require.Equal(t, members, b.Room("room").Publish(make([]byte, size)))
		require.NoError(t, all[0].Send(counted(own)))
	}
	flushAll(t, b)
	require.EqualValues(t, 18, all[0].Stats().Kept)
	shared := budget.PendingBytes() - 9*own
	require.Greater(t, shared, 9*size)
	require.Less(t, shared, 9*size+maxBlockOfALog, "one copy for all")

	require.NoError(t, all[0].Acknowledge(18))
	require.Equal(t, shared, budget.PendingBytes(), "the others keep it")
	for _, w := range all[1:] {
		require.NoError(t, w.Acknowledge(9))
	}
	require.Zero(t, budget.PendingBytes())
	require.Equal(t, members, b.Room("room").Publish(make([]byte, size)))
	require.Positive(t, budget.PendingBytes())
	_ = b.CloseNow()
	require.Zero(t, budget.PendingBytes())
}

const maxBlockOfALog = 128 << 10
