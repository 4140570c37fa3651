package sendq_test

import (
	"fmt"
	"io"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/sendqtest"
)

// The messages of a failed Writer may leave its heir no room within Keep. The heir ends then, and all
// messages are handed back, also the latest of each key.
func TestHeirWithoutRoomHandsBackTheLatest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var returned handBacks
		b := sendq.NewBroker(&sendq.BrokerOptions{Linger: linger, OnUndelivered: returned.add})
		conn, releaseClose := stalledClose()
		w := sendq.NewWriter(conn, &sendq.WriterOptions{Keep: 3000, HighMark: 500})
		require.NoError(t, b.Register("bob", w))
		require.NoError(t, b.Room("room").Join("bob"))
		for range 4 {
			require.NoError(t, b.Send("bob", counted(500)))
		}
		failed := async(func() error { return w.Fail(errReset) })
		synctest.Wait()
		for range 2 {
			require.NoError(t, b.Send("bob", counted(600)))
		}
		require.Equal(t, 1, b.Room("room").PublishLatest("price", []byte("price 1")))
		releaseClose()
		require.NoError(t, <-failed)
		synctest.Wait()
		var got []string
		for _, call := range returned.all() {
			got = append(got, call.messages...)
		}
		require.Len(t, got, 7)
		require.Contains(t, got, "price 1")
		b.CloseNow()
	})
}

// Keep bounds everything that an away name keeps: what is written, what is pending, and the latest of each
// key. The oldest written messages make room for these too.
func TestLingerKeepsTheLatestWithinKeep(t *testing.T) {
	const keep = 100 << 10
	b := sendq.NewBroker(&sendq.BrokerOptions{Linger: linger})
	w := sendq.NewWriter(sendqtest.NewConn(), &sendq.WriterOptions{Keep: keep, HighMark: 2 << 10})
	require.NoError(t, b.Register("bob", w))
	require.NoError(t, b.Room("room").Join("bob"))
	for range 120 {
		require.NoError(t, b.Send("bob", counted(1<<10)))
		require.NoError(t, w.Flush(t.Context()))
	}
	require.NoError(t, w.Fail(errReset))
	heir, _ := b.Lookup("bob")
	for range 3 {
		require.NoError(t, b.Send("bob", counted(1<<10)))
	}
	for i := range 90 {
		require.Equal(t, 1, b.Room("room").PublishLatest(fmt.Sprint(i), counted(1<<10)))
		s := heir.Stats()
		require.LessOrEqual(t, s.KeptBytes+s.PendingBytes+64*(s.Kept+s.Pending), int64(keep), i)
	}
	b.CloseNow()
}

// A replay may exceed MaxPending, but does not lift the bound of an away name.
func TestReplayToAnAwayName(t *testing.T) {
	b := sendq.NewBroker(&sendq.BrokerOptions{Linger: linger, ReplayMessages: 10})
	register(t, b, "other", sendqtest.NewConn())
	require.NoError(t, b.Room("room").Join("other"))
	for range 10 {
		require.Equal(t, 1, b.Room("room").Publish(counted(1000)))
	}
	w := sendq.NewWriter(sendqtest.NewConn(), &sendq.WriterOptions{Keep: 10_000})
	require.NoError(t, b.Register("bob", w))
	require.NoError(t, w.Fail(io.EOF))
	heir, _ := b.Lookup("bob")
	for range 9 {
		require.NoError(t, b.Send("bob", counted(1000)))
	}
	require.NoError(t, second(b.Room("room").JoinReplay("bob", 10)))
	for range 10 {
		_ = b.Send("bob", counted(1000)) // ErrSlowConsumer at the bound
	}
	require.LessOrEqual(t, heir.Stats().PeakPendingBytes, int64(11_000))
	b.CloseNow()
}

// An away name is slow as soon as its heir is, and not only at the next message.
func TestSlowAwayName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := sendq.NewBroker(&sendq.BrokerOptions{Linger: linger})
		conn, releaseClose := stalledClose()
		w := sendq.NewWriter(conn, &sendq.WriterOptions{Keep: 100 << 10, HighMark: 2 << 10})
		require.NoError(t, b.Register("bob", w))
		failed := async(func() error { return w.Fail(errReset) })
		synctest.Wait()
		for range 10 {
			require.NoError(t, b.Send("bob", counted(1<<10)))
		}
		stop := observe(b)
		synctest.Wait()
		releaseClose()
		require.NoError(t, <-failed)
		synctest.Wait()
		require.Contains(t, kindsOf(stop()), sendq.EventSlow)
		b.CloseNow()
	})
}

// kindsOf returns the kinds of events.
func kindsOf(events []sendq.Event) (kinds []sendq.EventKind) {
	for _, e := range events {
		kinds = append(kinds, e.Kind)
	}
	return kinds
}
