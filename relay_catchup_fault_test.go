package sendq_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/sendqtest"
)

var lingers = sendq.BrokerOptions{Linger: time.Minute}

// requireAllOrTold requires that the peer of bob has got want, or learns at its next Resume that something
// is missing.
func requireAllOrTold(t *testing.T, b *sendq.Broker, peer *sendqtest.Conn, want string) {
	t.Helper()
	resumed, err := b.Resume(t.Context(), "bob", sendq.NewWriter(readingPeer(), keeping), 0, nil)
	require.NoError(t, err)
	require.True(t, string(peer.Bytes()) == want || resumed.Missed == -1, "%q, missed %d", peer.Bytes(), resumed.Missed)
}

// What the new node itself sends while the name moves there may be more than it can keep.
func TestRelayOwnFanOutsAreTooMany(t *testing.T) {
	inCluster(t, 2, lingers, func(t *testing.T, _ *hub, bs []*sendq.Broker) {
		opts := &sendq.WriterOptions{Keep: 64 << 20}
		require.NoError(t, bs[0].Register("bob", sendq.NewWriter(readingPeer(), opts)))
		require.NoError(t, bs[0].Room("room").Join("bob"))
		settle()
		peer := readingPeer()
		w := sendq.NewWriter(peer, opts)
		require.NoError(t, second(bs[1].Resume(t.Context(), "bob", w, 0, func(sendq.Resumed) []byte {
			for range 10 {
				bs[1].Room("room").Publish(make([]byte, 1<<20))
			}
			return nil
		})))
		settle()
		got := len(peer.Bytes())
		resumed, err := bs[1].Resume(t.Context(), "bob", sendq.NewWriter(readingPeer(), opts), int64(got>>20), nil)
		require.NoError(t, err)
		require.True(t, got == 10<<20 || resumed.Missed == -1, "%d MiB, missed %d", got>>20, resumed.Missed)
	})
}

// A link may be slow for longer than names take to move. Nothing is lost then.
func TestRelayCatchUpAfterASlowLink(t *testing.T) {
	inCluster(t, 3, lingers, func(t *testing.T, h *hub, bs []*sendq.Broker) {
		require.NoError(t, bs[0].Register("bob", sendq.NewWriter(readingPeer(), keeping)))
		require.NoError(t, bs[0].Room("room").Join("bob"))
		settle()
		release := h.hold("c", "a")
		bs[2].Room("room").Publish([]byte("line 0\n"))
		time.Sleep(6 * time.Second)
		bs[2].Room("room").Publish([]byte("line 1\n"))
		peer := readingPeer()
		require.NoError(t, second(bs[1].Resume(t.Context(), "bob", sendq.NewWriter(peer, keeping), 0, nil)))
		settle()
		release()
		settle()
		requireAllOrTold(t, bs[1], peer, lines(0, 2))
	})
}

// The new node may not know each node yet.
func TestRelayCatchUpByAnUnknownNode(t *testing.T) {
	inCluster(t, 2, lingers, func(t *testing.T, h *hub, bs []*sendq.Broker) {
		require.NoError(t, bs[0].Register("bob", sendq.NewWriter(readingPeer(), keeping)))
		require.NoError(t, bs[0].Room("room").Join("bob"))
		settle()
		release := h.hold("b", "c")
		c := h.newBroker("c", lingers)
		defer c.CloseNow()
		settle()
		hold2 := h.hold("b", "a")
		bs[1].Room("room").Publish([]byte("line 0\n"))
		peer := readingPeer()
		require.NoError(t, second(c.Resume(t.Context(), "bob", sendq.NewWriter(peer, keeping), 0, nil)))
		bs[1].Room("room").Publish([]byte("line 1\n"))
		settle()
		release()
		hold2()
		settleMoves()
		requireAllOrTold(t, c, peer, lines(0, 2))
	})
}

// A node may have died before the move, and only the new node knows.
func TestRelayDeathBeforeTheMove(t *testing.T) {
	inCluster(t, 3, lingers, func(t *testing.T, h *hub, bs []*sendq.Broker) {
		require.NoError(t, bs[0].Register("bob", sendq.NewWriter(readingPeer(), keeping)))
		require.NoError(t, bs[0].Room("room").Join("bob"))
		settle()
		h.hold("c", "a")
		bs[2].Room("room").Publish([]byte("line 0\n")) // never arrives
		settle()
		// c dies while bob moves: b hears of it first
		h.mu.Lock()
		delete(h.ports, "c")
		h.forget("c")
		h.mu.Unlock()
		h.port("b").node.NodeGone("c", errKilled)
		peer := readingPeer()
		require.NoError(t, second(bs[1].Resume(t.Context(), "bob", sendq.NewWriter(peer, keeping), 0, nil)))
		settle()
		h.port("a").node.NodeGone("c", errKilled)
		settleMoves()
		resumed, err := bs[1].Resume(t.Context(), "bob", sendq.NewWriter(readingPeer(), keeping), 0, nil)
		require.NoError(t, err)
		require.EqualValues(t, -1, resumed.Missed)
	})
}

// A loss that comes to light while another Resume is under way is told by that one or by the next.
func TestRelayLossDuringResume(t *testing.T) {
	inCluster(t, 3, lingers, func(t *testing.T, h *hub, bs []*sendq.Broker) {
		require.NoError(t, bs[0].Register("bob", sendq.NewWriter(readingPeer(), keeping)))
		settle()
		h.hold("c", "b")
		peer := hooked(sendqtest.NewConn())
		peer.Enter = func(method string) {
			if method == "Close" {
				h.kill("c")
			}
		}
		require.NoError(t, second(bs[1].Resume(t.Context(), "bob", sendq.NewWriter(peer, keeping), 0, nil)))
		settle()
		w := sendq.NewWriter(readingPeer(), keeping)
		first, err := bs[1].Resume(t.Context(), "bob", w, 0, nil)
		require.NoError(t, err)
		settle()
		resumed, err := bs[1].Resume(t.Context(), "bob", sendq.NewWriter(readingPeer(), keeping), 0, nil)
		require.NoError(t, err)
		require.True(t, first.Missed == -1 || resumed.Missed == -1, "%v %v", first, resumed)
	})
}

// No loss is told because of many messages to other rooms.
func TestRelayNoLossInAQuietRoom(t *testing.T) {
	inCluster(t, 3, lingers, func(t *testing.T, _ *hub, bs []*sendq.Broker) {
		register(t, bs[2], "carol", readingPeer())
		require.NoError(t, bs[2].Room("busy").Join("carol"))
		require.NoError(t, bs[0].Register("bob", sendq.NewWriter(readingPeer(), keeping)))
		require.NoError(t, bs[0].Room("room").Join("bob"))
		settle()
		bs[2].Room("room").Publish([]byte("line 0\n"))
		for range 10 {
			bs[2].Room("busy").Publish(make([]byte, 1<<20))
		}
		time.Sleep(time.Hour)
		peer := readingPeer()
		require.NoError(t, second(bs[1].Resume(t.Context(), "bob", sendq.NewWriter(peer, keeping), 1, nil)))
		settle()
		resumed, err := bs[1].Resume(t.Context(), "bob", sendq.NewWriter(readingPeer(), keeping), 1, nil)
		require.NoError(t, err)
		require.Zero(t, resumed.Missed)
	})
}

// Who registers anew and moves at once gets nothing that was sent to an earlier session.
func TestRelayNewSession(t *testing.T) {
	inCluster(t, 3, lingers, func(t *testing.T, h *hub, bs []*sendq.Broker) {
		w := sendq.NewWriter(readingPeer(), nil)
		require.NoError(t, bs[0].Register("bob", w))
		settle()
		release := h.hold("a", "c")
		release2 := h.hold("c", "a")
		bs[2].Broadcast([]byte("line 0\n")) // to the first session
		settle()
		bs[0].Unregister("bob", w)
		settle()
		peers := []*sendqtest.Conn{readingPeer(), readingPeer()}
		require.NoError(t, bs[0].Register("bob", sendq.NewWriter(peers[0], keeping)))
		settle()
		require.NoError(t, second(bs[1].Resume(t.Context(), "bob", sendq.NewWriter(peers[1], keeping), 0, nil)))
		settle()
		release()
		release2()
		settle()
		require.Empty(t, peers[0].Bytes())
		require.Empty(t, peers[1].Bytes())
	})
}

// A node that ends right after a move has caught the name up before.
func TestRelayShutdownAfterAMove(t *testing.T) {
	inCluster(t, 2, lingers, func(t *testing.T, h *hub, bs []*sendq.Broker) {
		h.slow.Store(true)
		require.NoError(t, bs[0].Register("bob", sendq.NewWriter(readingPeer(), keeping)))
		settle()
		peer := readingPeer()
		require.NoError(t, second(bs[1].Resume(t.Context(), "bob", sendq.NewWriter(peer, keeping), 0, nil)))
		require.NoError(t, bs[0].Shutdown(t.Context()))
		settle()
		resumed, err := bs[1].Resume(t.Context(), "bob", sendq.NewWriter(readingPeer(), keeping), 0, nil)
		require.NoError(t, err)
		require.Zero(t, resumed.Missed)
	})
}
