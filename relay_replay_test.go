package sendq_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/sendqtest"
)

// The first member on a node gets the history of another node and then all later messages. Later
// members on the node get the same.
func TestRelayReplay(t *testing.T) {
	inCluster(t, 3, sendq.BrokerOptions{ReplayMessages: 4}, func(t *testing.T, h *hub, bs []*sendq.Broker) {
		register(t, bs[0], "alice", readingPeer())
		joinReplay := func(b *sendq.Broker, name string, n int) *sendqtest.Conn {
			t.Helper()
			peer := readingPeer()
			register(t, b, name, peer)
			replayed, err := b.Room("room").JoinReplay(name, n)
			require.NoError(t, err)
			settle()
			require.Equal(t, strings.Count(string(peer.Bytes()), "\n"), replayed)
			return peer
		}
		require.NoError(t, bs[0].Room("room").Join("alice"))
		settle()
		for i := range 6 {
			bs[2].Room("room").Publish(fmt.Appendf(nil, "%d\n", i))
		}
		settle()
		long := string(letters(20_000)) + "\n"
		bs[0].Room("room").Publish([]byte(long))
		settle() // the first message after a join goes to all nodes; later it could come twice

		bob := joinReplay(bs[1], "bob", 3)
		require.True(t, "4\n5\n"+long == string(bob.Bytes()), "%q", bob.Bytes())
		bs[2].Room("room").Publish([]byte("7\n"))
		settle()
		bs[1].Room("room").Publish([]byte("8\n"))
		settle()
		require.True(t, "4\n5\n"+long+"7\n8\n" == string(bob.Bytes()))
		carol := joinReplay(bs[1], "carol", 10)
		require.True(t, "5\n"+long+"7\n8\n" == string(carol.Bytes()))
		require.Empty(t, joinReplay(bs[2], "dave", 0).Bytes())
		require.Equal(t, "8\n", string(joinReplay(bs[0], "erin", 1).Bytes()))

		// Nothing is kept where nobody is.
		require.Empty(t, h.port("c").node.Replay("nowhere", 10))
		requireSameView(t, bs, 5)
	})
}

// Messages published while the history is being fetched come after it.
func TestRelayReplayMeanwhile(t *testing.T) {
	inCluster(t, 3, sendq.BrokerOptions{ReplayMessages: 10}, func(t *testing.T, h *hub, bs []*sendq.Broker) {
		register(t, bs[0], "alice", readingPeer())
		require.NoError(t, bs[0].Room("room").Join("alice"))
		bs[0].Room("room").Publish([]byte("1\n"))
		settle()
		release := h.hold("a", "b")
		peers := []*sendqtest.Conn{readingPeer(), readingPeer()}
		var joining sync.WaitGroup
		for i, peer := range peers {
			register(t, bs[1], memberName(i), peer)
			joining.Go(func() {
				replayed, err := bs[1].Room("room").JoinReplay(memberName(i), 10)
				assert.NoError(t, err)
				assert.NotZero(t, replayed)
			})
		}
		settle()
		bs[0].Room("room").Publish([]byte("2\n"))
		bs[2].Room("room").Publish([]byte("3\n"))
		settle()
		require.Empty(t, peers[0].Bytes())
		release()
		joining.Wait()
		bs[1].Room("room").Publish([]byte("4\n"))
		settle()
		for _, peer := range peers {
			lines := linesOf(peer)
			require.Equal(t, "1\n", lines[0])
			require.Equal(t, 1, strings.Count(string(peer.Bytes()), "1\n"), "both have fetched it: %q", lines)
			require.Contains(t, lines, "2\n")
			require.Contains(t, lines, "3\n")
			require.Equal(t, "4\n", lines[len(lines)-1])
		}
	})
}

// If no node answers, nothing is replayed and the name joins, unless it is gone by then.
func TestRelayReplayUnanswered(t *testing.T) {
	inCluster(t, 2, sendq.BrokerOptions{ReplayMessages: 10}, func(t *testing.T, h *hub, bs []*sendq.Broker) {
		register(t, bs[0], "alice", readingPeer())
		require.NoError(t, bs[0].Room("room").Join("alice"))
		bs[0].Room("room").Publish([]byte("1\n"))
		bob := register(t, bs[1], "bob", readingPeer())
		settle()
		release := h.hold("a", "b")
		replayed, err := bs[1].Room("room").JoinReplay("bob", 10)
		require.NoError(t, err)
		require.Zero(t, replayed)
		require.True(t, bs[1].Room("room").Has("bob"))
		require.True(t, bs[1].Room("room").Leave("bob"))
		joined := async(func() error { return second(bs[1].Room("room").JoinReplay("bob", 10)) })
		settle()
		bob.CloseNow()
		release()
		require.ErrorIs(t, <-joined, sendq.ErrUnknownName)
		settle()
		requireSameView(t, bs, 1)
		require.False(t, bs[0].Room("room").Has("bob"))
	})
}
