package sendq_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/sendqtest"
)

func TestReplay(t *testing.T) {
	for _, tt := range []struct {
		name string
		opts sendq.BrokerOptions
		ask  int
		want int // of ten messages of 10 bytes
	}{
		{"nothing is kept by default", sendq.BrokerOptions{}, 10, 0},
		{"so many", sendq.BrokerOptions{ReplayMessages: 3}, 10, 3},
		{"no more than asked for", sendq.BrokerOptions{ReplayMessages: 5}, 2, 2},
		{"none asked for", sendq.BrokerOptions{ReplayMessages: 5}, 0, 0},
		{"fewer asked for than none", sendq.BrokerOptions{ReplayMessages: 5}, -1, 0},
		{"all", sendq.BrokerOptions{ReplayMessages: 100}, 100, 10},
		{"so many bytes", sendq.BrokerOptions{ReplayMessages: 100, ReplayBytes: 49}, 100, 4},
		{"too few bytes for any", sendq.BrokerOptions{ReplayMessages: 100, ReplayBytes: 9}, 100, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := sendq.NewBroker(&tt.opts)
			room := b.Room("room")
			register(t, b, "bob", readingPeer())
			require.NoError(t, room.Join("bob"))
			var all []string
			for i := range 10 {
				all = append(all, fmt.Sprintf("message %d\n", i))
				room.PublishFrom("bob", []byte(all[i]))
			}
			carol := readingPeer()
			register(t, b, "carol", carol)
			replayed, err := room.JoinReplay("carol", tt.ask)
			require.NoError(t, err)
			require.Equal(t, tt.want, replayed)
			replayed, err = room.JoinReplay("carol", tt.ask)
			require.NoError(t, err)
			require.Zero(t, replayed, "a member already")
			require.Equal(t, 2, room.Publish([]byte("later\n")))
			require.NoError(t, b.Shutdown(t.Context()))
			require.Equal(t, append(all[10-tt.want:], "later\n"), linesOf(carol))
		})
	}
}

// A room keeps long and short messages, up to its limits.
func TestReplayOfAllLengths(t *testing.T) {
	b := sendq.NewBroker(&sendq.BrokerOptions{ReplayMessages: 100, ReplayBytes: 500_000})
	room := b.Room("room")
	register(t, b, "bob", readingPeer())
	require.NoError(t, room.Join("bob"))
	var messages [][]byte
	for i := range 1000 {
		messages = append(messages, frame(0, i, size(i)))
		room.PublishFrom("bob", messages[i])
	}
	conn, peer := tcpPair(t)
	register(t, b, "carol", conn)
	replayed, err := room.JoinReplay("carol", 1000)
	require.NoError(t, err)
	arrived := async(func() arrival { return receive(peer) })
	require.NoError(t, b.Shutdown(t.Context()))
	got := <-arrived
	require.NoError(t, got.err)
	require.Equal(t, upTo(1000)[1000-replayed:], got.order[0])
	sum := len(slices.Concat(messages[1000-replayed:]...))
	require.True(t, replayed == 100 || sum+len(messages[1000-replayed-1]) > 500_000)
	require.LessOrEqual(t, sum, 500_000)
}

func TestReplayGoesWithTheRoom(t *testing.T) {
	b := sendq.NewBroker(&sendq.BrokerOptions{ReplayMessages: 10})
	_, err := b.Room("room").JoinReplay("nobody", 10)
	require.ErrorIs(t, err, sendq.ErrUnknownName)
	register(t, b, "bob", readingPeer())
	for range 2 {
		replayed, err := b.Room("room").JoinReplay("bob", 10)
		require.NoError(t, err)
		require.Zero(t, replayed)
		b.Room("room").Publish([]byte("hello"))
		require.True(t, b.Room("room").Leave("bob"))
	}
	require.NoError(t, b.Shutdown(t.Context()))
}

// A member that joins during publishing gets some last messages and then every one, without a gap
// or a double.
func TestReplayHasNoGap(t *testing.T) {
	const messages, publishers = 1500, 3
	b := sendq.NewBroker(&sendq.BrokerOptions{ReplayMessages: 50})
	room := b.Room("room")
	first := readingPeer()
	register(t, b, "first", first)
	require.NoError(t, room.Join("first"))
	var work sync.WaitGroup
	var published atomic.Int64
	for publisher := range publishers {
		work.Go(func() {
			batch := b.NewBatch()
			for i := range messages {
				line := fmt.Appendf(nil, "%d %d\n", publisher, i)
				if i%100 < 50 {
					room.Publish(line)
				} else if batch.Publish("room", line); i%10 == 9 {
					batch.Flush()
				}
				published.Add(1)
			}
		})
	}
	var peers []*sendqtest.Conn
	for published.Load() < messages*publishers && len(peers) < 100 {
		peer := readingPeer()
		name := memberName(len(peers))
		register(t, b, name, peer)
		peers = append(peers, peer)
		_, err := room.JoinReplay(name, rand.IntN(60))
		require.NoError(t, err)
	}
	work.Wait()
	room.Publish([]byte("end\n"))
	require.NoError(t, b.Shutdown(t.Context()))
	all := linesOf(first)
	require.Len(t, all, messages*publishers+1)
	for i, peer := range peers {
		got := linesOf(peer)
		require.Equal(t, all[len(all)-len(got):], got, "%d of %d", i, len(peers))
	}
}

// A replay of nothing leaves MaxPending as it is, however often somebody joins.
func TestReplayOfNothingIsNoExemption(t *testing.T) {
	b := sendq.NewBroker(nil)
	w, conn := stuck(t, &sendq.WriterOptions{MaxPending: 1000})
	defer conn.Release()
	require.NoError(t, b.Register("bob", w))
	for range 9 {
		require.NoError(t, b.Send("bob", counted(100)))
		replayed, err := b.Room("room").JoinReplay("bob", 10)
		require.NoError(t, err)
		require.Zero(t, replayed)
		require.True(t, b.Room("room").Leave("bob"))
	}
	require.ErrorIs(t, b.Send("bob", counted(100)), sendq.ErrSlowConsumer)
}

// A peer that reads nothing, but joins again and again, does not exceed its limit by more than one
// replay.
func TestReplayAgainAndAgain(t *testing.T) {
	for _, overflow := range []sendq.Overflow{sendq.Disconnect, sendq.Block, sendq.DropNewest, sendq.DropOldest} {
		t.Run(overflow.String(), func(t *testing.T) {
			b, kept := brokerWithHistory(t, 100)
			w, conn := stuck(t, &sendq.WriterOptions{MaxPending: 3000, Overflow: overflow})
			require.NoError(t, b.Register("bob", w))
			for range 50 {
				_, err := b.Room("room").JoinReplay("bob", len(kept))
				require.NoError(t, err)
				require.True(t, b.Room("room").Leave("bob"))
			}
			require.NoError(t, w.Err())
			s := w.Stats()
			require.GreaterOrEqual(t, s.Pending, int64(len(kept)))
			require.LessOrEqual(t, s.PendingBytes+64*s.Pending, int64(100*(10+64)+100+3000))
			conn.Release()
			require.NoError(t, w.Flush(t.Context()))
			require.NoError(t, b.Room("room").Join("bob"))
			require.NoError(t, b.Send("bob", []byte("later")))
		})
	}
}

// A replay never ends a new member, whatever its MaxPending and Overflow, and always has the newest
// messages.
func TestReplayBeyondMaxPending(t *testing.T) {
	for _, overflow := range []sendq.Overflow{sendq.Disconnect, sendq.Block, sendq.DropNewest, sendq.DropOldest} {
		t.Run(overflow.String(), func(t *testing.T) {
			b, kept := brokerWithHistory(t, 100)
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

// A replay does not end the Writer after the messages in front of it have left.
func TestReplayBehindSomething(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := brokerWithHistory(t, 100)
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
		_ = b.CloseNow()
	})
}

// If a Budget has no room for all, a replay brings the newest messages, and nobody ends.
func TestReplayBeyondBudget(t *testing.T) {
	b, kept := brokerWithHistory(t, 100)
	const each = 10 + 64
	budget := sendq.NewBudget(40 * each)
	other, _ := stuck(t, &sendq.WriterOptions{Budget: budget})
	require.NoError(t, other.Send(counted(10*each-budget.PendingBytes())))
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

// brokerWithHistory returns a Broker whose "room" keeps n lines of 10 bytes.
func brokerWithHistory(t *testing.T, n int) (b *sendq.Broker, kept []string) {
	b = sendq.NewBroker(&sendq.BrokerOptions{ReplayMessages: n})
	register(t, b, "member", readingPeer())
	require.NoError(t, b.Room("room").Join("member"))
	for i := range n {
		kept = append(kept, fmt.Sprintf("line %4d\n", i))
		b.Room("room").Publish([]byte(kept[i]))
	}
	return b, kept
}
