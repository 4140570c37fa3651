package sendq_test

import (
	"encoding/json"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
)

// Fan-outs count by how many recipients they have, for each message, and only if they have some.
func TestBrokerStatsFanOuts(t *testing.T) {
	b := sendq.NewBroker(nil)
	defer b.Close()
	room := b.Room("few")
	require.Zero(t, room.Publish(nil))
	require.Zero(t, b.Broadcast(nil))
	for _, bucket := range b.Stats().FanOuts.Sizes {
		require.Zero(t, bucket.Messages)
	}

	joinMany(t, b, 17)
	for i := range 5 {
		require.NoError(t, room.Join(memberName(i)))
	}
	room.Publish(nil)                      // 5
	room.PublishFrom(memberName(0), nil)   // 4
	room.PublishFrom(memberName(16), nil)  // 5, for the sender is no member
	room.PublishFrom("nobody", nil)        // 5
	b.Broadcast(nil)                       // 17
	b.BroadcastFrom(memberName(0), nil)    // 16
	b.Send(memberName(0), nil)             // none
	b.SendTo([]string{memberName(0)}, nil) // none
	batch := b.NewBatch()
	batch.Publish("few", nil)               // 5
	batch.Publish("few", []byte("another")) // 5
	batch.Flush()

	s := b.Stats()
	require.Equal(t, 17, s.Names)
	require.Equal(t, 2, s.Rooms) // joinMany has made another
	require.Equal(t, 17, s.Writers)
	require.EqualValues(t, 5+4+5+5+17+16+5+5, s.FanOuts.Recipients)
	require.Equal(t, []sendq.FanOutBucket{
		{UpTo: 1}, {UpTo: 4, Messages: 1}, {UpTo: 16, Messages: 6}, {UpTo: 64, Messages: 1},
	}, s.FanOuts.Sizes[:4])
	require.EqualValues(t, math.MaxInt64, s.FanOuts.Sizes[len(s.FanOuts.Sizes)-1].UpTo)
}

// A Writer counts once, whatever its names, until it ends, even without one.
func TestBrokerStatsOfWriters(t *testing.T) {
	b := sendq.NewBroker(nil)
	w := register(t, b, "bob", readingPeer())
	require.NoError(t, b.Register("robert", w))
	require.Equal(t, 2, b.Broadcast([]byte("hi")))
	require.True(t, b.Unregister("bob", w))
	require.True(t, b.Unregister("robert", w))
	w.WriteString("without a name")
	require.NoError(t, b.Register("bobby", w))
	require.NoError(t, w.Flush(t.Context()))
	s := b.Stats()
	require.Equal(t, 1, s.Names)
	require.Equal(t, sendq.TallyStats{Writers: 1, WriterStats: w.Stats()}, s.TallyStats)

	refused := sendq.NewWriter(readingPeer(), nil)
	require.ErrorIs(t, b.Register("bobby", refused), sendq.ErrNameTaken)
	require.Equal(t, 1, b.Stats().Writers)

	require.NoError(t, b.Shutdown(t.Context()))
	require.ErrorIs(t, b.Register("bobby", refused), sendq.ErrClosed)
	require.Equal(t, sendq.TallyStats{
		WriterStats: w.Stats(), Ends: sendq.Ends{Delivered: sendq.EndStats{Writers: 1}},
	}, b.Stats().TallyStats)
}

// What is taken over is undelivered for the old Writer, and accepted by the new one. No
// counter goes back meanwhile.
func TestBrokerStatsOfTakeover(t *testing.T) {
	b := sendq.NewBroker(&sendq.BrokerOptions{Names: sendq.Takeover})
	register(t, b, "bob", stalledPeer())
	last := b.Stats()
	for range 100 {
		require.NoError(t, b.Send("bob", []byte("hi")))
		registered := async(func() error { return b.Register("bob", sendq.NewWriter(stalledPeer(), nil)) })
		for isOver := false; !isOver; {
			select {
			case err := <-registered:
				require.NoError(t, err)
				isOver = true
			default:
			}
			s := b.Stats()
			assertConserved(t, s.WriterStats)
			requireNotLess(t, countersOf(s.TallyStats), countersOf(last.TallyStats))
			last = s
		}
	}
	require.EqualValues(t, 100, last.Pending)
	require.EqualValues(t, 100*101/2, last.Undelivered)
	require.EqualValues(t, 100+100*101/2, last.Accepted)
	require.Equal(t, sendq.Ends{
		TakenOver: sendq.EndStats{Writers: 100, Undelivered: last.Undelivered, UndeliveredBytes: last.UndeliveredBytes},
	}, last.Ends)
	b.Close()
}

// The figures may be published as JSON.
func TestBrokerStatsAsJSON(t *testing.T) {
	b := sendq.NewBroker(nil)
	joinMany(t, b, 1)
	b.Broadcast([]byte("hi"))
	b.Close()
	s := b.Stats()
	text, err := json.Marshal(s)
	require.NoError(t, err)
	var back sendq.BrokerStats
	require.NoError(t, json.Unmarshal(text, &back))
	require.Equal(t, s, back)
}
