package sendq_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/sendqtest"
)

// A Batch has the effect of the single calls in the same order.
func TestBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := sendq.NewBroker(nil)
		alice, bob := readingPeer(), readingPeer()
		register(t, b, "alice", alice)
		register(t, b, "bob", bob)
		require.NoError(t, b.Room("room").Join("bob"))

		batch := b.NewBatch()
		for round := range 2 { // it may be used again
			buf := make([]byte, 0, 100)
			add := func(add func(p []byte), text string) {
				buf = fmt.Appendf(buf[:0], "%s %d\n", text, round)
				add(buf)
				clear(buf) // it may be reused
			}
			add(batch.Broadcast, "to all")
			add(func(p []byte) { batch.Send("bob", p) }, "to bob")
			add(func(p []byte) { batch.Send("nobody", p) }, "to nobody")
			add(func(p []byte) { batch.Send("nobody", p) }, "to nobody again")
			add(func(p []byte) { batch.Publish("room", p) }, "to the room")
			add(func(p []byte) { batch.PublishFrom("room", "bob", p) }, "from bob, alone there")
			add(func(p []byte) { batch.PublishFrom("room", "alice", p) }, "from alice")
			add(func(p []byte) { batch.Publish("no room", p) }, "to nobody there")
			add(func(p []byte) { batch.BroadcastFrom("alice", p) }, "from alice to all")
			add(func(p []byte) { batch.BroadcastFrom("bob", p) }, "from bob to all")
			require.Equal(t, 10, batch.Len())
			synctest.Wait()
			require.Len(t, linesOf(bob), 5*round, "nothing before Flush")

			report := batch.Flush()
			require.Equal(t, 2+1+1+1+1+1, report.Accepted)
			require.Len(t, report.Refused, 2)
			for _, refused := range report.Refused {
				require.Equal(t, "nobody", refused.Name)
				require.Equal(t, 1, refused.Messages)
				require.ErrorIs(t, refused.Err, sendq.ErrUnknownName)
			}
			require.Zero(t, batch.Len())
			flushAll(t, b)
		}
		require.Zero(t, batch.Flush(), "nothing to do")
		require.Equal(t, []string{"to all 0", "from bob to all 0", "to all 1", "from bob to all 1"}, texts(alice))
		require.Equal(t, []string{"to all 0", "to bob 0", "to the room 0", "from alice 0", "from alice to all 0",
			"to all 1", "to bob 1", "to the room 1", "from alice 1", "from alice to all 1"}, texts(bob))
		require.NoError(t, b.Shutdown(t.Context()))
	})
}

// texts returns the lines that conn has taken, without their newlines.
func texts(conn *sendqtest.Conn) []string {
	return strings.Split(strings.TrimSuffix(string(conn.Bytes()), "\n"), "\n")
}

// A Batch wakes each recipient once, after it has queued everything, so a mixed batch takes one
// write.
func TestBatchWakesOnce(t *testing.T) {
	b := sendq.NewBroker(nil)
	var writers []*sendq.Writer
	for i := range 10 {
		writers = append(writers, register(t, b, memberName(i), readingPeer()))
		require.NoError(t, b.Room("room").Join(memberName(i)))
	}
	batch := b.NewBatch()
	for range 20 {
		for i := range 10 {
			batch.Send(memberName(i), []byte("direct\n"))
		}
		batch.Publish("room", []byte("to the room\n"))
		batch.Broadcast([]byte("to all\n"))
	}
	require.Equal(t, all(600), batch.Flush())
	for _, w := range writers {
		require.NoError(t, w.Flush(t.Context()))
		require.EqualValues(t, 1, w.Stats().Writes)
		require.EqualValues(t, 60, w.Stats().Written)
	}
	require.NoError(t, b.Shutdown(t.Context()))
}

// A Batch and its log keep messages of every length whole and in order, including messages with a
// block of their own.
func TestBatchOfAllLengths(t *testing.T) {
	b := sendq.NewBroker(nil)
	conn, peer := tcpPair(t)
	register(t, b, "bob", conn)
	arrived := async(func() arrival { return receive(peer) })
	batch := b.NewBatch()
	const messages = 2000
	for i := range messages {
		batch.Broadcast(frame(0, i, size(i)))
		if i%77 == 0 {
			require.Equal(t, all(batch.Len()), batch.Flush())
		}
	}
	batch.Flush()
	require.NoError(t, b.Shutdown(t.Context()))
	got := <-arrived
	require.NoError(t, got.err)
	require.Equal(t, upTo(messages), got.order[0])
}

// A Report counts how much of a batch each recipient refused.
func TestBatchReportsRefusals(t *testing.T) {
	b := sendq.NewBroker(nil)
	full := sendq.NewWriter(stalledPeer(), &sendq.WriterOptions{MaxPending: 1000, Overflow: sendq.DropNewest})
	require.NoError(t, b.Register("full", full))
	require.NoError(t, b.Register("reading", sendq.NewWriter(readingPeer(), nil)))
	batch := b.NewBatch()
	for range 15 {
		batch.Broadcast(counted(100))
	}
	report := batch.Flush()
	require.Equal(t, 25, report.Accepted)
	refused := 0
	for _, r := range report.Refused {
		require.Equal(t, "full", r.Name)
		require.Equal(t, sendq.ErrDropped, r.Err)
		refused += r.Messages
	}
	require.Equal(t, 5, refused)
	full.CloseNow()
	require.NoError(t, b.Shutdown(t.Context()))
}

// If a name has several Writers, each may accept a different part of a batch.
func TestBatchToSeveralWriters(t *testing.T) {
	b := sendq.NewBroker(&sendq.BrokerOptions{NamePolicy: sendq.NameAttach})
	full := func(pending int) *sendq.Writer {
		w, _ := stuck(t, &sendq.WriterOptions{MaxPending: 1100, Overflow: sendq.DropNewest})
		require.NoError(t, w.Send(counted(pending)))
		require.NoError(t, b.Register("bob", w))
		return w
	}
	fuller, other := full(900), full(700)
	batch := b.NewBatch()
	batch.Broadcast(counted(400)) // for neither
	batch.Broadcast(counted(300)) // for the other
	batch.Broadcast(counted(100)) // for the fuller
	report := batch.Flush()
	require.Equal(t, 2, report.Accepted)
	require.Equal(t, []sendq.Refusal{{Name: "bob", Messages: 1, FanOut: true, Err: sendq.ErrDropped}}, report.Refused)
	require.EqualValues(t, 36+836+36, fuller.Stats().PendingBytes)
	require.EqualValues(t, 36+636+236, other.Stats().PendingBytes)
}

// If one Writer of a name ends during a batch, the others still get each message once.
func TestBatchMeetsTheEndOfOneOfSeveralWriters(t *testing.T) {
	for range 20 {
		b := sendq.NewBroker(&sendq.BrokerOptions{NamePolicy: sendq.NameAttach})
		var writers []*sendq.Writer
		for range 100 { // so that it takes a while
			w := sendq.NewWriter(stalledPeer(), &sendq.WriterOptions{MaxPending: 250, Overflow: sendq.DropNewest})
			writers = append(writers, w)
			require.NoError(t, b.Register("bob", w))
		}
		ending := register(t, b, "bob", readingPeer())
		batch := b.NewBatch()
		batch.Broadcast([]byte("1"))
		batch.Broadcast(make([]byte, 240)) // too large
		batch.Broadcast([]byte("3"))
		ended := async(ending.CloseNow)
		batch.Flush()
		require.NoError(t, <-ended)
		for _, w := range writers {
			w.CloseNow()
			require.Equal(t, [][]byte{[]byte("1"), []byte("3")}, slices.Collect(w.Undelivered()))
		}
	}
}
