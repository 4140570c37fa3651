package sendq_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
)

// A name moves between nodes again and again, while each node publishes to its room and to all. The name
// gets each message once, and those of one node in order.
func TestRelayFanOutsReachMovingNames(t *testing.T) {
	for _, resumes := range []bool{false, true} {
		t.Run(fmt.Sprintf("resume %v", resumes), func(t *testing.T) {
			opts := sendq.BrokerOptions{Linger: time.Minute, NamePolicy: sendq.NameTakeover}
			inCluster(t, 3, opts, func(t *testing.T, h *hub, bs []*sendq.Broker) {
				h.slow.Store(true)
				peer := readingPeer()
				w := sendq.NewWriter(peer, keeping)
				require.NoError(t, bs[0].Register("bob", w))
				require.NoError(t, bs[0].Room("room").Join("bob"))
				for i, b := range bs[1:] { // so that each node has a member, or only some
					name := fmt.Sprint("other ", i)
					register(t, b, name, readingPeer())
					if i == 0 {
						require.NoError(t, b.Room("room").Join(name))
					}
				}
				settle()
				const each = 400
				var publishers sync.WaitGroup
				for i, b := range bs {
					publishers.Go(func() {
						for j := range each {
							line := fmt.Appendf(nil, "%d %d\n", i, j)
							switch rand.IntN(3) {
							case 0:
								b.Broadcast(line)
							case 1:
								b.Room("room").Publish(line)
							default: // it may move faster than a message can follow
								for err := b.Send("bob", line); err != nil; err = b.Send("bob", line) {
									assert.ErrorIs(t, err, sendq.ErrUnknownName)
								}
							}
							time.Sleep(rand.N(2 * time.Millisecond))
						}
					})
				}
				received := ""
				for i := range 40 {
					time.Sleep(rand.N(20 * time.Millisecond))
					node := rand.IntN(3)
					if resumes {
						if i%2 == 0 {
							require.NoError(t, w.Fail(io.EOF))
							time.Sleep(rand.N(5 * time.Millisecond))
						} else {
							_ = w.Flush(t.Context())
						}
						received = string(peer.Bytes())
						peer = readingPeer()
						_, _ = peer.Write([]byte(received)) // one log of all connections
						w = sendq.NewWriter(peer, keeping)
						resumed, err := bs[node].Resume(t.Context(), "bob", w, int64(strings.Count(received, "\n")), nil)
						require.NoError(t, err)
						require.Zero(t, resumed.Missed)
						continue
					}
					next := readingPeer()
					nw := sendq.NewWriter(next, keeping)
					require.NoError(t, bs[node].Register("bob", nw))
					received += string(peer.Bytes())
					peer, w = next, nw
				}
				publishers.Wait()
				settleMoves()
				if resumes {
					received = ""
				}
				received += string(peer.Bytes())
				var next [3]int
				for line := range strings.Lines(received) {
					var node, number int
					_, err := fmt.Sscanf(line, "%d %d\n", &node, &number)
					require.NoError(t, err)
					require.Equal(t, next[node], number, "of node %d", node)
					next[node]++
				}
				require.Equal(t, [3]int{each, each, each}, next)
			})
		})
	}
}

// A name that moves is caught up in the end, although the network loses what it is caught up with. Until
// then it gets nothing of that node, so that nothing comes twice or out of order.
func TestRelayCatchUpIsLost(t *testing.T) {
	opts := sendq.BrokerOptions{Linger: time.Minute}
	inCluster(t, 3, opts, func(t *testing.T, h *hub, bs []*sendq.Broker) {
		h.timeout.Store(int64(time.Second))
		require.NoError(t, bs[0].Register("bob", sendq.NewWriter(readingPeer(), keeping)))
		require.NoError(t, bs[0].Room("room").Join("bob"))
		register(t, bs[1], "alice", readingPeer())
		require.NoError(t, bs[1].Room("room").Join("alice"))
		settle()
		heal := h.lose("c", "b")
		bs[2].Room("room").Publish([]byte("line 0\n")) // alice misses it
		settle()
		peer := readingPeer()
		w := sendq.NewWriter(peer, keeping)
		require.NoError(t, second(bs[1].Resume(t.Context(), "bob", w, 1, nil)))
		bs[2].Room("room").Publish([]byte("line 1\n")) // before c has heard of the move
		settle()
		bs[2].Room("room").Publish([]byte("line 2\n"))
		require.Empty(t, peer.Bytes())
		heal()
		settleMoves()
		bs[2].Room("room").Publish([]byte("line 3\n"))
		settle()
		require.Equal(t, lines(1, 4), string(peer.Bytes()))
	})
}

// A node that hears of the move by a snapshot catches the name up too.
func TestRelayCatchUpAfterASnapshot(t *testing.T) {
	opts := sendq.BrokerOptions{Linger: time.Minute}
	inCluster(t, 3, opts, func(t *testing.T, h *hub, bs []*sendq.Broker) {
		require.NoError(t, bs[0].Register("bob", sendq.NewWriter(readingPeer(), keeping)))
		require.NoError(t, bs[0].Room("room").Join("bob"))
		alice := register(t, bs[1], "alice", readingPeer())
		settle()
		heal := h.lose("b", "c")
		peer := readingPeer()
		w := sendq.NewWriter(peer, keeping)
		require.NoError(t, second(bs[1].Resume(t.Context(), "bob", w, 0, nil)))
		require.NoError(t, alice.Close()) // c hears of that by the snapshot too
		bs[2].Room("room").Publish([]byte("line 0\n"))
		settle()
		heal()
		settle()
		bs[2].Room("room").Publish([]byte("line 1\n"))
		settle()
		require.Equal(t, lines(0, 2), string(peer.Bytes()))
	})
}

// If a node has sent more than it can keep before it hears of the move, the name is told.
func TestRelayCatchUpIsTooLong(t *testing.T) {
	opts := sendq.BrokerOptions{Linger: time.Minute}
	inCluster(t, 3, opts, func(t *testing.T, h *hub, bs []*sendq.Broker) {
		opts := &sendq.WriterOptions{Keep: 64 << 20}
		require.NoError(t, bs[0].Register("bob", sendq.NewWriter(readingPeer(), opts)))
		require.NoError(t, bs[0].Room("room").Join("bob"))
		settle()
		seen := observe(bs[1])
		release := h.hold("b", "c")
		peer := readingPeer()
		w := sendq.NewWriter(peer, opts)
		require.NoError(t, second(bs[1].Resume(t.Context(), "bob", w, 0, nil)))
		for range 10 {
			bs[2].Room("room").Publish(make([]byte, 1<<20))
		}
		release()
		settle()
		require.Contains(t, seen(), sendq.Event{Kind: sendq.EventGap, Node: "c", Missed: -1})
		require.NoError(t, w.Flush(t.Context()))
		require.Less(t, len(peer.Bytes()), 5<<20)
		resumed, err := bs[1].Resume(t.Context(), "bob", sendq.NewWriter(readingPeer(), opts), 0, nil)
		require.NoError(t, err)
		require.EqualValues(t, -1, resumed.Missed)
	})
}

// If a node dies before it has caught a name up, the name is told.
func TestRelayNodeDiesBeforeCatchUp(t *testing.T) {
	opts := sendq.BrokerOptions{Linger: time.Minute}
	inCluster(t, 3, opts, func(t *testing.T, h *hub, bs []*sendq.Broker) {
		require.NoError(t, bs[0].Register("bob", sendq.NewWriter(readingPeer(), keeping)))
		settle()
		h.hold("c", "b")
		require.NoError(t, second(bs[1].Resume(t.Context(), "bob", sendq.NewWriter(readingPeer(), keeping), 0, nil)))
		settle()
		h.kill("c")
		resumed, err := bs[0].Resume(t.Context(), "bob", sendq.NewWriter(readingPeer(), keeping), 0, nil)
		require.NoError(t, err)
		require.EqualValues(t, -1, resumed.Missed)
	})
}
