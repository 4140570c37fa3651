package sendq_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
)

// What a room replays to a newcomer never ends the newcomer, whatever its MaxPending and
// Overflow, and never comes without its newest part.
func TestReplayBeyondMaxPending(t *testing.T) {
	for _, overflow := range []sendq.Overflow{sendq.Disconnect, sendq.Block, sendq.DropNewest, sendq.DropOldest} {
		t.Run(overflow.String(), func(t *testing.T) {
			b, kept := keepingBroker(t, 100)
			conn := stalledPeer()
			w := sendq.NewWriter(conn, &sendq.WriterOptions{MaxPending: 3000, Overflow: overflow})
			require.NoError(t, b.Register("bob", w))
			replayed, err := b.Room("room").JoinReplay("bob", math.MaxInt)
			require.NoError(t, err)
			require.Equal(t, 100, replayed)
			if overflow == sendq.Disconnect {
				kept = append(kept, "later\n")
				require.Equal(t, 2, b.Room("room").Publish([]byte("later\n")), "MaxPending is for what comes later")
			}
			require.NoError(t, w.Err())
			conn.Release()
			require.NoError(t, w.Flush(t.Context()))
			require.Equal(t, kept, linesOf(conn))
			require.NoError(t, b.Shutdown(t.Context()))
		})
	}
}

// What is in front of a replay leaves first, and then still the replay does not disconnect.
func TestReplayBehindSomething(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := keepingBroker(t, 100)
		w, peer := overPipe(t, &sendq.WriterOptions{MaxPending: 3000})
		require.NoError(t, b.Register("bob", w))
		require.NoError(t, second(w.Write(make([]byte, 2900))))
		replayed, err := b.Room("room").JoinReplay("bob", 100)
		require.NoError(t, err)
		require.Equal(t, 100, replayed)
		take(t, peer, 2900)
		synctest.Wait()
		require.Equal(t, 2, b.Room("room").Publish(counted(200)))
		require.NoError(t, w.Err())
		w.CloseNow()
		_ = b.Close()
	})
}

// Where there is not enough room in a Budget, it is the newest part that comes, and nobody ends.
func TestReplayBeyondBudget(t *testing.T) {
	b, kept := keepingBroker(t, 100)
	const each = 10 + 64
	budget := sendq.NewBudget(40 * each)
	other, _ := stuck(t, &sendq.WriterOptions{Budget: budget})
	require.NoError(t, other.Send(counted(10*each-budget.Pending())))
	const room = 40 - 40/8 - 10
	conn := stalledPeer()
	w := sendq.NewWriter(conn, &sendq.WriterOptions{Budget: budget})
	require.NoError(t, b.Register("bob", w))
	replayed, err := b.Room("room").JoinReplay("bob", 100)
	require.NoError(t, err)
	require.Equal(t, room, replayed)
	require.NoError(t, b.Send("bob", make([]byte, 10)), "an eighth is free")
	require.NoError(t, w.Err())
	require.NoError(t, other.Err())
	kept = append(kept, string(make([]byte, 10)))
	conn.Release()
	require.NoError(t, w.Flush(t.Context()))
	require.Equal(t, strings.Join(kept[100-room:], ""), string(conn.Bytes()))
	require.NoError(t, b.Shutdown(t.Context()))
}

// After a takeover MaxPending is for what comes later: what the name had left does not make the
// next message end the new Writer.
func TestTakeoverBeyondMaxPending(t *testing.T) {
	b, returned := newBroker(sendq.Takeover)
	register(t, b, "bob", stalledPeer())
	left := slices.Repeat([]string{strings.Repeat("x", 99) + "\n"}, 100)
	for _, line := range left {
		require.NoError(t, b.Send("bob", []byte(line)))
	}
	conn := stalledPeer()
	w := sendq.NewWriter(conn, &sendq.WriterOptions{MaxPending: 1000})
	require.NoError(t, b.Register("bob", w))
	require.NoError(t, b.Send("bob", counted(600)))
	require.NoError(t, w.Err())
	require.ErrorIs(t, b.Send("bob", counted(600)), sendq.ErrSlowConsumer)
	<-w.Done()
	require.Len(t, slices.Collect(w.Undelivered()), len(left)+1)
	require.NoError(t, b.Shutdown(t.Context()))
	require.Len(t, returned.all(), 1)
}

// keepingBroker returns a Broker whose room keeps n lines of 10 bytes.
func keepingBroker(t *testing.T, n int) (b *sendq.Broker, kept []string) {
	b = sendq.NewBroker(&sendq.BrokerOptions{ReplayMessages: n})
	register(t, b, "resident", readingPeer())
	require.NoError(t, b.Room("room").Join("resident"))
	for i := range n {
		kept = append(kept, fmt.Sprintf("line %4d\n", i))
		b.Room("room").Publish([]byte(kept[i]))
	}
	return b, kept
}
