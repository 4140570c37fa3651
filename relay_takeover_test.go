package sendq_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/relay"
)

// A takeover by another node brings the unwritten messages and the rooms, and nobody sees the name
// leave.
func TestRelayTakeover(t *testing.T) {
	var returned handBacks
	opts := sendq.BrokerOptions{NamePolicy: sendq.NameTakeover, OnUndelivered: returned.add}
	inCluster(t, 3, opts, func(t *testing.T, h *hub, bs []*sendq.Broker) {
		old := register(t, bs[0], "bob", stalledPeer())
		require.NoError(t, bs[0].Room("room").Join("bob"))
		require.NoError(t, bs[0].Room("other").Join("bob"))
		settle()
		var stops []func() []sendq.Event
		for _, b := range bs {
			stops = append(stops, observe(b))
		}
		synctest.Wait()

		left := sendInAllWays(t, bs[0], "old")
		require.NoError(t, bs[2].Send("bob", []byte("old from afar\n")))
		left = append(left, "old from afar\n")

		peer := readingPeer()
		w := register(t, bs[1], "bob", peer)
		requireTakenOver(t, old, left)
		for _, b := range bs { // at once, whatever they know
			require.NoError(t, b.Send("bob", []byte("new\n")))
		}
		settle()
		require.NoError(t, w.Flush(t.Context()))
		require.Equal(t, strings.Join(left, "")+"new\nnew\nnew\n", string(peer.Bytes()))
		requireHas(t, bs[1], "bob", w)
		requireSameView(t, bs, 1)
		for i, stop := range stops {
			var kinds []sendq.EventKind
			for _, e := range stop() {
				kinds = append(kinds, e.Kind)
			}
			require.Equal(t, []sendq.EventKind{sendq.EventJoined, sendq.EventRoomJoined, sendq.EventRoomJoined}, kinds, "of before, seen by %d", i)
		}
		for _, b := range bs {
			require.ElementsMatch(t, []string{"room", "other"}, slices.Collect(b.RoomsOf("bob")))
		}
		require.Empty(t, returned.all())
	})
}

// A takeover by another node does not pass on what is for the old connection only.
func TestRelayTakeoverOfUrgentMessages(t *testing.T) {
	inCluster(t, 2, sendq.BrokerOptions{NamePolicy: sendq.NameTakeover}, func(t *testing.T, _ *hub, bs []*sendq.Broker) {
		sendForOneConnection(t, register(t, bs[0], "bob", stalledPeer()))
		peer := readingPeer()
		require.NoError(t, register(t, bs[1], "bob", peer).Close())
		require.Equal(t, "first\nalways\n", string(peer.Bytes()))
	})
}

// The new Writer ends in the middle of a takeover. The messages of the old one are handed back on
// the node that has them, and all nodes learn that the name is free.
func TestRelayTakeoverFails(t *testing.T) {
	var returned handBacks
	opts := sendq.BrokerOptions{NamePolicy: sendq.NameTakeover, OnUndelivered: returned.add}
	for name, end := range map[string]func(w *sendq.Writer, b *sendq.Broker){
		"the Writer has ended": func(w *sendq.Writer, b *sendq.Broker) { w.CloseNow() },
		"the Writer is closing": func(w *sendq.Writer, b *sendq.Broker) {
			go w.Close()
			synctest.Wait()
		},
		"the Broker is shut down": func(w *sendq.Writer, b *sendq.Broker) {
			go b.Shutdown(context.Background()) // which waits for another Writer
			synctest.Wait()
		},
	} {
		t.Run(name, func(t *testing.T) {
			inCluster(t, 3, opts, func(t *testing.T, h *hub, bs []*sendq.Broker) {
				returned = handBacks{}
				register(t, bs[0], "bob", stalledPeer())
				require.NoError(t, bs[0].Room("room").Join("bob"))
				require.NoError(t, bs[0].Send("bob", []byte("old")))
				another := stalledPeer()
				register(t, bs[1], "another", another).WriteString("stuck")
				settle()
				stop := observe(bs[2])
				release := h.hold("a", "b")
				peer := stalledPeer()
				w := sendq.NewWriter(peer, nil)
				w.WriteString("own")
				registered := async(func() error { return bs[1].Register("bob", w) })
				synctest.Wait()
				sent := async(func() error { return bs[0].Send("bob", []byte("meanwhile")) })
				end(w, bs[1])
				synctest.Wait()
				require.Empty(t, registered)
				require.Empty(t, sent, "it waits until the takeover is over")
				release()
				require.ErrorIs(t, <-registered, sendq.ErrClosed)
				require.ErrorIs(t, <-sent, sendq.ErrUnknownName)
				peer.Release()
				another.Release()
				require.NoError(t, bs[1].Shutdown(t.Context()))
				settle()
				require.Contains(t, returned.all(), handBack{"bob", []string{"old"}, sendq.ErrTakenOver})
				for _, b := range bs {
					require.Zero(t, b.Len())
					require.Zero(t, b.Room("room").Len())
				}
				require.Contains(t, stop(), sendq.Event{Kind: sendq.EventLeft, Name: "bob", Cause: sendq.ErrTakenOver, Node: "b"})
				w.CloseNow()
			})
		})
	}
}

// A third node knows in the end where the name is, in whatever order it hears of the takeover.
func TestRelayTakeoverSeenLate(t *testing.T) {
	for _, held := range [][2]string{{"a", "c"}, {"b", "c"}, {"a", "b"}} {
		for name, then := range map[string]func(t *testing.T, bs []*sendq.Broker, w *sendq.Writer) (names int){
			"stays": func(*testing.T, []*sendq.Broker, *sendq.Writer) int { return 1 },
			"ends":  func(_ *testing.T, _ []*sendq.Broker, w *sendq.Writer) int { w.CloseNow(); return 0 },
			"goes on": func(t *testing.T, bs []*sendq.Broker, _ *sendq.Writer) int {
				register(t, bs[3], "bob", readingPeer())
				return 1
			},
			"goes on and ends": func(t *testing.T, bs []*sendq.Broker, _ *sendq.Writer) int {
				register(t, bs[3], "bob", readingPeer()).CloseNow()
				return 0
			},
			"goes back": func(t *testing.T, bs []*sendq.Broker, _ *sendq.Writer) int {
				register(t, bs[0], "bob", readingPeer())
				return 1
			},
		} {
			t.Run(fmt.Sprint(name, ", held ", held), func(t *testing.T) {
				inCluster(t, 4, takingOver, func(t *testing.T, h *hub, bs []*sendq.Broker) {
					register(t, bs[0], "bob", readingPeer())
					settle()
					release := h.hold(held[0], held[1])
					registered := async(func() *sendq.Writer { return register(t, bs[1], "bob", readingPeer()) })
					settle()
					if held[1] == "b" {
						release() // or there is no answer
					}
					names := then(t, bs, <-registered)
					settle()
					release()
					settleMoves()
					requireSameView(t, bs, names)
					for _, b := range bs {
						if names == 0 {
							require.ErrorIs(t, b.Send("bob", nil), sendq.ErrUnknownName)
						} else {
							require.NoError(t, b.Send("bob", nil))
						}
					}
				})
			})
		}
	}
}

// If the other node does not answer, Register fails and the name stays there. A late eviction does
// not take it for nobody.
func TestRelayTakeoverUnanswered(t *testing.T) {
	inCluster(t, 3, takingOver, func(t *testing.T, h *hub, bs []*sendq.Broker) {
		old := register(t, bs[0], "bob", readingPeer())
		settle()
		release := h.hold("b", "a")
		w := sendq.NewWriter(readingPeer(), nil)
		require.Error(t, bs[1].Register("bob", w))
		release()
		settle()
		requireHas(t, bs[0], "bob", old)
		requireSameView(t, bs, 1)
		for _, b := range bs {
			require.NoError(t, b.Send("bob", nil))
		}
		require.NoError(t, bs[1].Register("bob", w))
		require.ErrorIs(t, old.Err(), sendq.ErrTakenOver)
		w.CloseNow()
	})
}

// A node takes over a name during its registration on another node. The registration ends first,
// and its inheritance moves on.
func TestRelayEvictMeetsRegister(t *testing.T) {
	inCluster(t, 3, takingOver, func(t *testing.T, h *hub, bs []*sendq.Broker) {
		register(t, bs[1], "bob", stalledPeer())
		require.NoError(t, bs[1].Room("room").Join("bob"))
		require.NoError(t, bs[1].Send("bob", []byte("old")))
		settle()
		release := h.hold("b", "a")
		w := sendq.NewWriter(stalledPeer(), nil)
		registered := async(func() error { return bs[0].Register("bob", w) })
		synctest.Wait()
		evicted := async(func() relay.Handover {
			e, ok := h.port("a").node.Evict(context.Background(), "bob", "c", newest)
			assert.True(t, ok)
			return e
		})
		synctest.Wait()
		require.Empty(t, evicted)
		release()
		require.NoError(t, <-registered)
		require.Equal(t, relay.Handover{Undelivered: [][]byte{[]byte("old")}, HasCount: true, Rooms: []string{"room"}, Heard: map[string]uint64{"a": 0, "b": 0, "c": 0}, Since: 1}, <-evicted)
		require.ErrorIs(t, w.Err(), sendq.ErrTakenOver)
		_, ok := h.port("a").node.Evict(context.Background(), "bob", "c", newest)
		require.False(t, ok)
		settleMoves()
		requireSameView(t, bs, 0)
	})
}

// HandBack passes messages to OnUndelivered.
func TestRelayHandBack(t *testing.T) {
	var returned handBacks
	inCluster(t, 1, sendq.BrokerOptions{OnUndelivered: returned.add}, func(t *testing.T, h *hub, bs []*sendq.Broker) {
		h.port("a").node.HandBack("bob", [][]byte{[]byte("one"), []byte("two")})
		h.port("a").node.HandBack("carol", nil)
		settle()
		require.Equal(t, []handBack{{"bob", []string{"one", "two"}, sendq.ErrTakenOver}}, returned.all())
	})
}

// If another node takes over a slow name, it is steady at this node, because no EventLeft follows.
func TestRelayTakeoverOfASlowName(t *testing.T) {
	opts := sendq.BrokerOptions{NamePolicy: sendq.NameTakeover}
	inCluster(t, 2, opts, func(t *testing.T, _ *hub, bs []*sendq.Broker) {
		stop := observe(bs[0])
		w := sendq.NewWriter(stalledPeer(), &sendq.WriterOptions{HighMark: 100})
		require.NoError(t, bs[0].Register("bob", w))
		require.NoError(t, bs[0].Send("bob", counted(500)))
		settle()
		register(t, bs[1], "bob", readingPeer())
		settle()
		require.Equal(t, []sendq.EventKind{sendq.EventJoined, sendq.EventSlow, sendq.EventSteady}, kindsOf(stop()))
	})
}
