package sendq_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/sendqtest"
)

var anyPolicy = sendq.BrokerOptions{}

var takingOver = sendq.BrokerOptions{NamePolicy: sendq.NameTakeover}

func TestRelayNameIsUnique(t *testing.T) {
	for _, name := range []string{"bob", "", ">", "*", "a b", strings.Repeat("long", 200), "\xff"} {
		inCluster(t, 3, anyPolicy, func(t *testing.T, h *hub, bs []*sendq.Broker) {
			w := register(t, bs[0], name, readingPeer())
			for _, b := range bs {
				other := sendq.NewWriter(readingPeer(), nil)
				require.ErrorIs(t, b.Register(name, other), sendq.ErrNameTaken)
				require.NoError(t, other.Close(), "it lives on")
			}
			requireHas(t, bs[0], name, w)
			_, ok := bs[1].Lookup(name)
			require.False(t, ok)

			require.True(t, bs[0].Unregister(name, w))
			second := register(t, bs[1], name, readingPeer())
			second.CloseNow()
			register(t, bs[2], name, readingPeer())
			settle()
			for _, b := range bs {
				require.NoError(t, b.Send(name, []byte("hello")))
			}
		})
	}
}

// Many Writers on all nodes register a name at once. One gets it; with Takeover each gets it once,
// and one keeps it.
func TestRelayRegisterAtOnce(t *testing.T) {
	for _, policy := range []sendq.NamePolicy{sendq.NameReject, sendq.NameTakeover} {
		t.Run(policy.String(), func(t *testing.T) {
			inCluster(t, 3, sendq.BrokerOptions{NamePolicy: policy}, func(t *testing.T, h *hub, bs []*sendq.Broker) {
				h.slow.Store(true)
				var mu sync.Mutex
				var ws []*sendq.Writer
				var registering sync.WaitGroup
				for i := range 15 {
					registering.Go(func() {
						w := sendq.NewWriter(readingPeer(), nil)
						switch err := bs[i%3].Register("bob", w); {
						case err == nil:
							mu.Lock()
							defer mu.Unlock()
							ws = append(ws, w)
						default:
							assert.Equal(t, sendq.NameReject, policy)
							assert.ErrorIs(t, err, sendq.ErrNameTaken)
							w.CloseNow()
						}
					})
				}
				registering.Wait()
				settle()
				alive := 0
				for _, w := range ws {
					if hasEnded(w) {
						require.ErrorIs(t, w.Err(), sendq.ErrTakenOver)
					} else {
						alive++
					}
				}
				require.Equal(t, 1, alive)
				if policy == sendq.NameReject {
					require.Len(t, ws, 1)
				} else {
					require.Len(t, ws, 15)
				}
				requireSameView(t, bs, 1)
			})
		})
	}
}

// Rooms and broadcasts reach recipients on all nodes except the sender, on any node. They count
// the recipients on their own node.
func TestRelayFanOut(t *testing.T) {
	inCluster(t, 3, anyPolicy, func(t *testing.T, h *hub, bs []*sendq.Broker) {
		peers := make(map[string]*sendqtest.Conn)
		for i, b := range bs {
			for _, kind := range []string{"member", "other"} {
				name := fmt.Sprint(kind, i)
				peers[name] = readingPeer()
				register(t, b, name, peers[name])
			}
			require.NoError(t, b.Room("room").Join(fmt.Sprint("member", i)))
		}
		register(t, bs[2], "", readingPeer())
		require.NoError(t, bs[2].Room("elsewhere").Join(""))
		require.NoError(t, bs[1].Room("elsewhere").Join("member1"))
		settle()

		b, room, elsewhere := bs[0], bs[0].Room("room"), bs[0].Room("elsewhere")
		require.Equal(t, 1, room.Publish([]byte("publish\n")))
		require.Equal(t, 0, room.PublishFrom("member0", []byte("publish from 0\n")))
		require.Equal(t, 1, room.PublishFrom("member1", []byte("publish from 1\n")))
		require.Equal(t, 0, elsewhere.Publish([]byte("elsewhere\n")), "nobody is here")
		require.Equal(t, 2, b.Broadcast([]byte("broadcast\n")))
		require.Equal(t, 1, b.BroadcastFrom("other0", []byte("broadcast from 0\n")))
		require.Equal(t, 2, b.BroadcastFrom("other1", []byte("broadcast from 1\n")))
		require.Equal(t, 2, b.BroadcastFrom("", []byte("broadcast from nobody\n")))
		batch := b.NewBatch()
		batch.Publish("room", []byte("batch 1\n"))
		batch.Publish("room", make([]byte, 100_000)) // in a block of its own
		batch.Publish("room", []byte("\n"))
		batch.Broadcast([]byte("batch 2\n"))
		require.Equal(t, all(5), batch.Flush())
		settle()
		require.Zero(t, b.Room("elsewhere").Publish(nil))

		lines := func(without ...string) string {
			text := "publish\npublish from 0\npublish from 1\nelsewhere\nbroadcast\nbroadcast from 0\nbroadcast from 1\nbroadcast from nobody\n" +
				"batch 1\n" + string(make([]byte, 100_000)) + "\nbatch 2\n"
			for _, line := range without {
				text = strings.Replace(text, line+"\n", "", 1)
			}
			return text
		}
		room1 := []string{"publish", "publish from 0", "publish from 1", "batch 1", string(make([]byte, 100_000))}
		for name, want := range map[string]string{
			"member0": lines("publish from 0", "elsewhere"),
			"member1": lines("publish from 1"),
			"member2": lines("elsewhere"),
			"other0":  lines(append(room1, "elsewhere", "broadcast from 0")...),
			"other1":  lines(append(room1, "elsewhere", "broadcast from 1")...),
			"other2":  lines(append(room1, "elsewhere")...),
		} {
			require.True(t, want == string(peers[name].Bytes()), "%s: %.300q", name, peers[name].Bytes())
		}
	})
}

// Two names join a room on two nodes before either node has heard of the other. Each gets what the
// other publishes first.
func TestRelayJoinAtOnce(t *testing.T) {
	inCluster(t, 2, anyPolicy, func(t *testing.T, h *hub, bs []*sendq.Broker) {
		releases := []func(){h.hold("a", "b"), h.hold("b", "a")}
		peers := []*sendqtest.Conn{readingPeer(), readingPeer()}
		for i, b := range bs {
			register(t, b, memberName(i), peers[i])
			require.NoError(t, b.Room("room").Join(memberName(i)))
			b.Room("room").Publish([]byte(memberName(i) + " joined\n"))
		}
		for _, release := range releases {
			release()
		}
		settle()
		want := []string{memberName(0) + " joined\n", memberName(1) + " joined\n"}
		for _, peer := range peers {
			require.ElementsMatch(t, want, linesOf(peer))
		}
	})
}

// Several goroutines of one node publish. Members on all nodes get the messages in the same order,
// and the messages of each goroutine in the order of its calls.
func TestRelayOrder(t *testing.T) {
	inCluster(t, 3, anyPolicy, func(t *testing.T, h *hub, bs []*sendq.Broker) {
		var peers []*sendqtest.Conn
		for i, b := range bs {
			peers = append(peers, readingPeer())
			register(t, b, memberName(i), peers[i])
			require.NoError(t, b.Room("room").Join(memberName(i)))
		}
		settle()
		h.slow.Store(true)
		const n = 60
		var sending sync.WaitGroup
		for i := range publishers {
			sending.Go(func() {
				batch := bs[0].NewBatch()
				for j := range n {
					p := fmt.Appendf(nil, "%d from %d\n", j, i)
					switch j % 5 {
					case 0:
						bs[0].Room("room").Publish(p)
					case 1:
						bs[0].Broadcast(p)
					case 2:
						for k := range peers {
							assert.NoError(t, bs[0].Send(memberName(k), p))
						}
					case 3:
						assert.Equal(t, 3, bs[0].SendTo([]string{memberName(0), memberName(1), memberName(2)}, p).Accepted)
					case 4:
						batch.Publish("room", p)
						for k := range peers {
							batch.Send(memberName(k), []byte("direct "+string(p)))
						}
						batch.Broadcast([]byte("all " + string(p)))
						assert.Equal(t, 5, batch.Flush().Accepted)
					}
				}
			})
		}
		sending.Wait()
		settle()
		var inRoom [][]string
		for _, peer := range peers {
			lines := linesOf(peer)
			require.Len(t, lines, publishers*n*7/5)
			next := make(map[int]int)
			var published []string
			for _, line := range lines {
				var j, i int
				_, err := fmt.Sscanf(strings.TrimPrefix(strings.TrimPrefix(line, "all "), "direct "), "%d from %d", &j, &i)
				require.NoError(t, err)
				require.Contains(t, []int{next[i], next[i] - 1}, j, "%q", line)
				next[i] = j + 1
				if j%5 == 0 {
					published = append(published, line)
				}
			}
			inRoom = append(inRoom, published)
		}
		require.Equal(t, inRoom[0], inRoom[1])
		require.Equal(t, inRoom[0], inRoom[2])
	})
}

func TestRelayPresence(t *testing.T) {
	inCluster(t, 3, anyPolicy, func(t *testing.T, h *hub, bs []*sendq.Broker) {
		register(t, bs[0], "alice", readingPeer())
		require.NoError(t, bs[0].Room("room").Join("alice"))
		settle()
		stop := observe(bs[1])
		synctest.Wait()
		broken := sendqtest.NewConn()
		broken.FailAfter(0, errBroken)
		bob := register(t, bs[1], "bob", broken)
		alsoBroken := sendqtest.NewConn()
		alsoBroken.FailAfter(0, errBroken)
		carol := register(t, bs[2], "carol", alsoBroken)
		require.NoError(t, bs[1].Room("room").Join("bob"))
		settle()
		require.NoError(t, bs[2].Room("room").Join("carol"))
		require.NoError(t, bs[2].Room("other").Join("carol"))
		require.ErrorIs(t, bs[0].Room("room").Join("carol"), sendq.ErrUnknownName, "that is for her own node to say")
		settle()
		requireSameView(t, bs, 3)
		for _, b := range bs {
			require.Equal(t, []string{"alice", "bob", "carol"}, slices.Sorted(b.Names()))
			require.Equal(t, []string{"alice", "bob", "carol"}, slices.Sorted(b.Room("room").Members()))
			require.Equal(t, 3, b.Room("room").Len())
			require.True(t, b.Room("room").Has("carol"))
			require.False(t, b.Room("other").Has("bob"))
			require.False(t, b.Room("nowhere").Has("bob"))
			require.Equal(t, []string{"other", "room"}, slices.Sorted(b.RoomsOf("carol")))
			require.Empty(t, slices.Collect(b.RoomsOf("nobody")))
			for range b.Names() {
				break
			}
			for range b.Room("room").Members() {
				break
			}
			for range b.RoomsOf("carol") {
				break
			}
		}
		require.True(t, bs[2].Room("other").Leave("carol"))
		require.False(t, bs[0].Room("room").Leave("carol"))
		settle()
		bob.WriteString("fails")
		carol.WriteString("fails")
		<-bob.Done()
		<-carol.Done()
		settle()
		requireSameView(t, bs, 1)

		late := h.newBroker("z", anyPolicy)
		settle()
		requireSameView(t, append(bs, late), 1)
		require.NoError(t, late.Shutdown(t.Context()))

		events := stop()
		var afar []sendq.Event
		for _, e := range events {
			if e.Node != "" {
				afar = append(afar, e)
			} else {
				require.Equal(t, "bob", e.Name)
			}
		}
		require.Equal(t, []sendq.Event{
			{Kind: sendq.EventJoined, Name: "alice", Node: "a"},
			{Kind: sendq.EventRoomJoined, Name: "alice", Room: "room", Node: "a"},
			{Kind: sendq.EventJoined, Name: "carol", Node: "c"},
			{Kind: sendq.EventRoomJoined, Name: "carol", Room: "room", Node: "c"},
			{Kind: sendq.EventRoomJoined, Name: "carol", Room: "other", Node: "c"},
			{Kind: sendq.EventRoomLeft, Name: "carol", Room: "other", Node: "c"},
			{Kind: sendq.EventRoomLeft, Name: "carol", Room: "room", Node: "c"},
			{Kind: sendq.EventLeft, Name: "carol", Cause: errBroken, Node: "c"},
		}, afar)
	})
}

// If a node is gone, its names leave with the cause and may be registered elsewhere.
func TestRelayForgets(t *testing.T) {
	inCluster(t, 3, anyPolicy, func(t *testing.T, h *hub, bs []*sendq.Broker) {
		register(t, bs[0], "alice", readingPeer())
		register(t, bs[1], "bob", readingPeer())
		register(t, bs[1], "carol", readingPeer())
		require.NoError(t, bs[1].Room("room").Join("carol"))
		settle()
		stop := observe(bs[0])
		synctest.Wait()
		sent := async(func() error { // is on its way when the node ends
			defer h.hold("a", "b")()
			return bs[0].Send("bob", nil)
		})
		synctest.Wait()
		h.kill("b")
		require.ErrorIs(t, <-sent, sendq.ErrUnconfirmed)
		settle()
		require.Equal(t, []string{"alice"}, slices.Collect(bs[2].Names()))
		require.ErrorIs(t, bs[2].Send("bob", nil), sendq.ErrUnknownName)
		require.Zero(t, bs[2].Room("room").Len())
		register(t, bs[2], "bob", readingPeer())
		settle()
		requireSameView(t, []*sendq.Broker{bs[0], bs[2]}, 2)
		var left []string
		for _, e := range stop() {
			if e.Kind == sendq.EventLeft {
				require.Equal(t, errKilled, e.Cause)
				require.Equal(t, "b", e.Node)
				left = append(left, e.Name)
			}
		}
		require.ElementsMatch(t, []string{"bob", "carol"}, left)
	})
}

// After a partition two nodes may have a name. Each finds its own; others find the one they heard
// of last. When one node loses the name, its Writer ends, and nobody sees the name leave.
func TestRelayNameLost(t *testing.T) {
	var returned handBacks
	opts := sendq.BrokerOptions{OnUndelivered: returned.add}
	inCluster(t, 3, opts, func(t *testing.T, h *hub, bs []*sendq.Broker) {
		loser := register(t, bs[0], "bob", stalledPeer())
		register(t, bs[0], "more", readingPeer())
		require.NoError(t, bs[0].Room("old").Join("bob"))
		require.NoError(t, bs[0].Send("bob", []byte("not written")))
		settle()
		var heals []func()
		for _, other := range []string{"b", "c"} {
			heals = append(heals, h.hold("a", other), h.hold(other, "a"))
		}
		h.forgetOwner("bob")
		peer := readingPeer()
		winner := register(t, bs[1], "bob", peer)
		require.NoError(t, bs[1].Room("new").Join("bob"))
		require.NoError(t, bs[1].Send("bob", []byte("at b\n")))
		settle()
		for _, b := range bs {
			require.Equal(t, 2, b.Len())
			require.ElementsMatch(t, []string{"bob", "more"}, slices.Collect(b.Names()), "each once")
		}
		require.Equal(t, []string{"old"}, slices.Collect(bs[0].RoomsOf("bob")))
		require.Equal(t, []string{"new"}, slices.Collect(bs[2].RoomsOf("bob")))
		require.Zero(t, bs[2].Room("old").Len())
		require.Empty(t, slices.Collect(bs[2].Room("old").Members()))
		require.False(t, bs[2].Room("old").Has("bob"))
		requireHas(t, bs[0], "bob", loser)
		requireHas(t, bs[1], "bob", winner)

		for _, heal := range heals {
			heal()
		}
		settle()
		for _, b := range bs {
			require.Equal(t, 2, b.Len())
		}
		requireHas(t, bs[0], "bob", loser)
		stops := []func() []sendq.Event{observe(bs[0]), observe(bs[1]), observe(bs[2])}
		synctest.Wait()
		h.port("a").node.NameLost("bob")
		h.port("a").node.NameLost("nobody")
		require.NoError(t, bs[0].Send("bob", []byte("from a\n")), "at once")
		settle()
		require.True(t, hasEnded(loser))
		require.ErrorIs(t, loser.Err(), sendq.ErrNameLost)
		require.Equal(t, []handBack{{"bob", []string{"not written"}, sendq.ErrNameLost}}, returned.all())
		requireSameView(t, bs, 2)
		require.Equal(t, "at b\nfrom a\n", string(peer.Bytes()))
		for i, stop := range stops {
			for _, e := range stop() {
				require.NotEqual(t, sendq.EventLeft, e.Kind, "seen by %d", i)
			}
		}

		// The other way round: the name on the other node is found again.
		winner.CloseNow()
		settle()
		requireSameView(t, bs, 1)
	})
}

// A name is not registered if its node loses it during the registration.
func TestRelayNameLostMeanwhile(t *testing.T) {
	inCluster(t, 2, takingOver, func(t *testing.T, h *hub, bs []*sendq.Broker) {
		register(t, bs[1], "bob", readingPeer())
		settle()
		release := h.hold("b", "a")
		w := sendq.NewWriter(readingPeer(), nil)
		registered := async(func() error { return bs[0].Register("bob", w) })
		synctest.Wait()
		h.port("a").node.NameLost("bob")
		release()
		require.ErrorIs(t, <-registered, sendq.ErrNameLost)
		require.NoError(t, w.Close())
		settle()
		require.Zero(t, bs[0].Len())
		require.Zero(t, bs[1].Len())
	})
}

// The peer of a Writer that loses its name learns why.
func TestRelayFarewellOfALostName(t *testing.T) {
	inCluster(t, 2, anyPolicy, func(t *testing.T, h *hub, bs []*sendq.Broker) {
		conn := sendqtest.NewConn()
		w := sendq.NewWriter(conn, &sendq.WriterOptions{Farewell: func(cause error) []byte {
			require.ErrorIs(t, cause, sendq.ErrNameLost)
			return []byte("farewell")
		}})
		require.NoError(t, bs[0].Register("bob", w))
		waiting := conn.Stall()
		require.NoError(t, bs[0].Send("bob", []byte("begun, ")))
		<-waiting
		require.NoError(t, bs[0].Send("bob", []byte("given up, ")))
		h.port("a").node.NameLost("bob")
		settle()
		require.Zero(t, bs[1].Len(), "the name does not wait for the farewell")
		require.False(t, hasEnded(w))
		conn.Release()
		<-w.Done()
		require.Equal(t, "begun, farewell", string(conn.Bytes()))
		require.EqualValues(t, 1, w.Stats().Undelivered)
	})
}

// Lost messages are reported, and a new snapshot makes up for lost events.
func TestRelayGap(t *testing.T) {
	inCluster(t, 2, anyPolicy, func(t *testing.T, h *hub, bs []*sendq.Broker) {
		gone := register(t, bs[0], "gone", readingPeer())
		stays := register(t, bs[0], "stays", readingPeer())
		peer := readingPeer()
		register(t, bs[1], "bob", peer)
		require.NoError(t, bs[0].Room("left").Join("stays"))
		settle()
		stop := observe(bs[1])
		synctest.Wait()
		heal := h.lose("a", "b")
		bs[0].Broadcast([]byte("lost\n"))
		bs[0].Broadcast([]byte("lost\n"))
		gone.CloseNow()
		register(t, bs[0], "new", readingPeer())
		require.True(t, bs[0].Room("left").Leave("stays"))
		require.NoError(t, bs[0].Room("joined").Join("stays"))
		settle()
		heal()
		bs[0].Broadcast([]byte("not lost\n"))
		settle()
		require.Equal(t, "not lost\n", string(peer.Bytes()))
		requireSameView(t, bs, 3)
		require.Equal(t, []string{"joined"}, slices.Collect(bs[1].RoomsOf("stays")))
		events := stop()
		require.Contains(t, events, sendq.Event{Kind: sendq.EventGap, Node: "a", Missed: 2})
		require.Contains(t, events, sendq.Event{Kind: sendq.EventLeft, Name: "gone", Node: "a"})
		require.Contains(t, events, sendq.Event{Kind: sendq.EventJoined, Name: "new", Node: "a"})
		require.Contains(t, events, sendq.Event{Kind: sendq.EventRoomLeft, Name: "stays", Room: "left", Node: "a"})
		require.Contains(t, events, sendq.Event{Kind: sendq.EventRoomJoined, Name: "stays", Room: "joined", Node: "a"})
		require.False(t, hasEnded(stays))
	})
}

func TestRelayRegisterFails(t *testing.T) {
	inCluster(t, 2, takingOver, func(t *testing.T, h *hub, bs []*sendq.Broker) {
		register(t, bs[1], "bob", readingPeer())
		w := register(t, bs[0], "carol", stalledPeer())
		require.ErrorIs(t, bs[0].Register("carol", w), sendq.ErrNameTaken)
		w.WriteString("last words")
		go w.Close()
		settle()
		require.ErrorIs(t, bs[0].Register("bob", w), sendq.ErrClosed, "bob stays")
		require.NoError(t, bs[1].Send("bob", nil))
		w.CloseNow()
		require.ErrorIs(t, bs[0].Register("dave", w), sendq.ErrClosed)
		register(t, bs[1], "dave", readingPeer())
	})
}

func TestRelayAndAttach(t *testing.T) {
	require.PanicsWithValue(t, "sendq: NewBroker: NameAttach and Relay exclude each other", func() {
		newHub().newBroker("a", sendq.BrokerOptions{NamePolicy: sendq.NameAttach})
	})
}

// requireSameView requires that all Brokers know the same number of names, in the same rooms.
func requireSameView(t *testing.T, bs []*sendq.Broker, names int) {
	t.Helper()
	want := viewOf(t, bs[0])
	require.Equal(t, names, bs[0].Len())
	for _, b := range bs[1:] {
		require.Equal(t, want, viewOf(t, b))
	}
	here := 0
	for name := range bs[0].Names() {
		for _, b := range bs {
			if _, ok := b.Lookup(name); ok {
				here++
			}
		}
	}
	require.Equal(t, names, here, "each on one node")
}

// viewOf returns the rooms of all names of b, and requires that all methods agree.
func viewOf(t *testing.T, b *sendq.Broker) map[string][]string {
	t.Helper()
	rooms := make(map[string][]string)
	members := make(map[string][]string)
	for name := range b.Names() {
		require.NotContains(t, rooms, name)
		rooms[name] = slices.Sorted(b.RoomsOf(name))
		for _, room := range rooms[name] {
			require.True(t, b.Room(room).Has(name))
			members[room] = append(members[room], name)
		}
	}
	require.Equal(t, len(rooms), b.Len())
	for room, want := range members {
		require.ElementsMatch(t, want, slices.Collect(b.Room(room).Members()))
		require.Equal(t, len(want), b.Room(room).Len())
	}
	return rooms
}
