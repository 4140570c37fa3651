package sendq_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/internal/faultconn"
	"github.com/sendq-go/sendq/relay"
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

// Of many that register a name at once, everywhere, one has it; with Takeover each has
// it once, and one in the end.
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

// A name that another node takes over brings what was not written, and its rooms, and nobody
// sees it leave.
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

// The one who takes over can end in the middle of it. What the old one left is handed back
// on the node that has it then, and everybody learns that the name is free.
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

// Whatever reaches a third node first, it knows in the end who has the name.
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
					settle()
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

// If the other node does not answer, Register fails, and what was on its way comes back there.
func TestRelayTakeoverUnanswered(t *testing.T) {
	inCluster(t, 3, takingOver, func(t *testing.T, h *hub, bs []*sendq.Broker) {
		register(t, bs[0], "bob", readingPeer())
		settle()
		release := h.hold("b", "a")
		w := sendq.NewWriter(readingPeer(), nil)
		require.Error(t, bs[1].Register("bob", w))
		release()
		settle()
		settle()
		for _, b := range bs {
			require.ErrorIs(t, b.Send("bob", nil), sendq.ErrUnknownName, "nobody has it, and nobody waits for it")
			require.Zero(t, b.Len())
		}
		require.NoError(t, bs[1].Register("bob", w))
		w.CloseNow()
	})
}

// A name that is wanted elsewhere while it is being registered is registered first, and what it
// has inherited goes on.
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
			e, ok := h.port("a").node.Evict(context.Background(), "bob", "c")
			assert.True(t, ok)
			return e
		})
		synctest.Wait()
		require.Empty(t, evicted)
		release()
		require.NoError(t, <-registered)
		require.Equal(t, relay.Handover{Undelivered: [][]byte{[]byte("old")}, Rooms: []string{"room"}}, <-evicted)
		require.ErrorIs(t, w.Err(), sendq.ErrTakenOver)
		_, ok := h.port("a").node.Evict(context.Background(), "bob", "c")
		require.False(t, ok)
		settle()
		requireSameView(t, bs, 0)
	})
}

// A message does not wait for ever for a name that another node seems to be taking over.
func TestRelaySendGivesUp(t *testing.T) {
	inCluster(t, 2, takingOver, func(t *testing.T, h *hub, bs []*sendq.Broker) {
		register(t, bs[0], "bob", readingPeer())
		register(t, bs[0], "carol", readingPeer())
		register(t, bs[1], "dave", readingPeer())
		settle()
		h.hold("b", "a") // so that it cannot say that it knows nothing of that
		_, ok := h.port("a").node.Evict(context.Background(), "bob", "b")
		require.True(t, ok)
		start := time.Now()
		r := bs[0].SendTo([]string{"carol", "bob"}, []byte("hello"))
		require.Equal(t, 5*time.Second, time.Since(start))
		require.Equal(t, 1, r.Accepted)
		require.Equal(t, "bob", r.Refused[0].Name)
		require.ErrorIs(t, r.Refused[0].Err, sendq.ErrUnknownName)
		h.kill("b")
		require.Equal(t, []string{"carol"}, slices.Collect(bs[0].Names()))
	})
}

// A message to a name on another node is accepted, unknown or refused as if it were here,
// by Send, SendTo and a Batch.
func TestRelaySend(t *testing.T) {
	inCluster(t, 2, anyPolicy, func(t *testing.T, h *hub, bs []*sendq.Broker) {
		here, there := readingPeer(), readingPeer()
		register(t, bs[0], "alice", here)
		register(t, bs[1], "bob", there)
		limited := func(name string, overflow sendq.Overflow) {
			w := sendq.NewWriter(stalledPeer(), &sendq.WriterOptions{MaxPending: 200, Overflow: overflow})
			t.Cleanup(func() { w.CloseNow() })
			require.NoError(t, bs[1].Register(name, w))
			w.Write(counted(150))
		}
		limited("dropping", sendq.DropNewest)
		limited("blocking", sendq.Block)
		limited("slow", sendq.Disconnect)
		closing := register(t, bs[1], "closing", stalledPeer())
		closing.WriteString("last words")
		go closing.Close()
		settle()

		p := []byte("0123456789\n")
		for name, want := range map[string]error{
			"bob": nil, "nobody": sendq.ErrUnknownName, "dropping": sendq.ErrDropped, "blocking": sendq.ErrWouldBlock,
			"slow": sendq.ErrSlowConsumer, "closing": sendq.ErrClosed,
		} {
			if name != "slow" {
				require.ErrorIs(t, bs[0].Send(name, p), want, name)
			}
		}
		require.ErrorIs(t, bs[0].Send("dropping", make([]byte, 1000)), sendq.ErrTooLarge)

		names := []string{"bob", "nobody", "alice", "dropping", "blocking", "closing", "bob"}
		r := bs[0].SendTo(names, p)
		require.Equal(t, 3, r.Accepted)
		requireRefused := func(refused []sendq.Refusal) {
			t.Helper()
			require.Len(t, refused, 4)
			for i, want := range []struct {
				name string
				err  error
			}{{"nobody", sendq.ErrUnknownName}, {"dropping", sendq.ErrDropped}, {"blocking", sendq.ErrWouldBlock}, {"closing", sendq.ErrClosed}} {
				require.Equal(t, want.name, refused[i].Name)
				require.Equal(t, 1, refused[i].Messages)
				require.False(t, refused[i].FanOut)
				require.ErrorIs(t, refused[i].Err, want.err)
			}
		}
		requireRefused(r.Refused)

		batch := bs[0].NewBatch()
		for _, name := range names {
			batch.Send(name, p)
		}
		r = batch.Flush()
		require.Equal(t, 3, r.Accepted)
		requireRefused(r.Refused)
		require.Nil(t, bs[0].SendTo([]string{"bob"}, p).Refused)
		require.ErrorIs(t, bs[0].Send("slow", p), sendq.ErrSlowConsumer)

		// A run to one name is one Delivery; of several messages some may be refused.
		w := sendq.NewWriter(stalledPeer(), &sendq.WriterOptions{MaxPending: 200, Overflow: sendq.DropNewest})
		defer w.CloseNow()
		require.NoError(t, bs[1].Register("filling", w))
		settle()
		for range 5 {
			batch.Send("filling", p)
		}
		r = batch.Flush()
		require.Equal(t, 2, r.Accepted)
		require.Len(t, r.Refused, 1)
		require.Equal(t, 3, r.Refused[0].Messages)
		require.ErrorIs(t, r.Refused[0].Err, sendq.ErrDropped)

		require.Equal(t, 2, strings.Count(string(here.Bytes()), string(p)))
		require.Equal(t, 6, strings.Count(string(there.Bytes()), string(p)), "%q", there.Bytes())
		closing.CloseNow()
	})
}

// If no answer comes, Send says that it does not know.
func TestRelaySendUnconfirmed(t *testing.T) {
	for name, cut := range map[string]func(h *hub) (heal func()){
		"slow there": func(h *hub) func() { return h.hold("a", "b") },
		"slow back":  func(h *hub) func() { return h.hold("b", "a") },
		"lost there": func(h *hub) func() { return h.lose("a", "b") },
		"lost back":  func(h *hub) func() { return h.lose("b", "a") },
	} {
		t.Run(name, func(t *testing.T) {
			inCluster(t, 2, anyPolicy, func(t *testing.T, h *hub, bs []*sendq.Broker) {
				register(t, bs[0], "alice", readingPeer())
				register(t, bs[1], "bob", readingPeer())
				register(t, bs[1], "carol", readingPeer())
				settle()
				heal := cut(h)
				start := time.Now()
				r := bs[0].SendTo([]string{"bob", "alice", "carol"}, []byte("hello"))
				require.Equal(t, h.bound(), time.Since(start), "they are waited for together")
				require.Equal(t, 1, r.Accepted)
				require.Len(t, r.Refused, 2)
				for i, name := range []string{"bob", "carol"} {
					require.Equal(t, name, r.Refused[i].Name)
					require.ErrorIs(t, r.Refused[i].Err, sendq.ErrUnconfirmed)
				}
				require.ErrorIs(t, bs[0].Send("bob", []byte("hello")), sendq.ErrUnconfirmed)
				require.Equal(t, 1, bs[0].Broadcast([]byte("does not wait")))
				heal()
				settle()
				require.NoError(t, bs[0].Send("bob", []byte("hello")))
			})
		})
	}
}

// A message finds a name that has moved while it was on its way, once the sender can know
// where.
func TestRelaySendMoved(t *testing.T) {
	ways := map[string]func(b *sendq.Broker) sendq.Report{
		"Send":   func(b *sendq.Broker) sendq.Report { return reportOf(b.Send("bob", []byte("hello\n"))) },
		"SendTo": func(b *sendq.Broker) sendq.Report { return b.SendTo([]string{"bob"}, []byte("hello\n")) },
		"Batch": func(b *sendq.Broker) sendq.Report {
			batch := b.NewBatch()
			batch.Send("bob", []byte("hello\n"))
			batch.Send("nobody", []byte("hello\n"))
			r := batch.Flush()
			r.Refused = nil
			return r
		},
	}
	for name, send := range ways {
		for to := range 3 {
			t.Run(fmt.Sprint(name, " to ", to), func(t *testing.T) {
				inCluster(t, 3, takingOver, func(t *testing.T, h *hub, bs []*sendq.Broker) {
					register(t, bs[1], "bob", readingPeer())
					settle()
					release := h.hold("b", "a") // so a believes that bob is at b
					peer := readingPeer()
					if to == 0 {
						registered := async(func() *sendq.Writer { return register(t, bs[0], "bob", peer) })
						synctest.Wait()
						require.Empty(t, registered)
						sent := async(func() sendq.Report { return send(bs[0]) })
						synctest.Wait()
						require.Empty(t, sent)
						release()
						require.Equal(t, all(1), <-sent)
						<-registered
						settle()
						require.Equal(t, "hello\n", string(peer.Bytes()))
						return
					}
					if to == 1 {
						for range 2 { // away, and back again
							register(t, bs[2], "bob", readingPeer())
							peer = readingPeer()
							register(t, bs[1], "bob", peer)
						}
					} else {
						register(t, bs[2], "bob", peer)
					}
					sent := async(func() sendq.Report { return send(bs[0]) })
					synctest.Wait()
					release()
					require.Equal(t, all(1), <-sent)
					settle()
					require.Equal(t, "hello\n", string(peer.Bytes()))
				})
			})
		}
	}
}

func reportOf(err error) sendq.Report {
	if err != nil {
		return sendq.Report{Refused: []sendq.Refusal{{Name: "bob", Messages: 1, Err: err}}}
	}
	return all(1)
}

// In a Batch, a message to a name that has moved is not tried again if something later in it
// may have reached the name before.
func TestRelayBatchKeepsOrder(t *testing.T) {
	for name, later := range map[string]func(batch *sendq.Batch){
		"to all":           func(batch *sendq.Batch) { batch.Broadcast([]byte("later\n")) },
		"to a room":        func(batch *sendq.Batch) { batch.Publish("room", []byte("later\n")) },
		"to another first": func(batch *sendq.Batch) { batch.Send("nobody", nil); batch.Send("bob", []byte("later\n")) },
	} {
		t.Run(name, func(t *testing.T) {
			inCluster(t, 3, takingOver, func(t *testing.T, h *hub, bs []*sendq.Broker) {
				register(t, bs[1], "bob", readingPeer())
				require.NoError(t, bs[1].Room("room").Join("bob"))
				settle()
				release := h.hold("b", "a")
				heard := h.hold("c", "a") // a does not know that c has bob
				peer := readingPeer()
				register(t, bs[2], "bob", peer)
				flushed := async(func() sendq.Report {
					batch := bs[0].NewBatch()
					batch.Send("bob", []byte("earlier\n"))
					later(batch)
					return batch.Flush()
				})
				synctest.Wait()
				heard()
				synctest.Wait()
				release()
				r := <-flushed
				settle()
				require.NotEmpty(t, r.Refused)
				require.Equal(t, "bob", r.Refused[0].Name)
				require.ErrorIs(t, r.Refused[0].Err, sendq.ErrUnknownName)
				require.NotContains(t, string(peer.Bytes()), "earlier")
			})
		})
	}
}

// Rooms and broadcasts reach those everywhere, but for the sender, wherever that is. The
// count is of those who are here.
func TestRelayFanOut(t *testing.T) {
	inCluster(t, 3, anyPolicy, func(t *testing.T, h *hub, bs []*sendq.Broker) {
		peers := make(map[string]*faultconn.Conn)
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

// The messages that several goroutines of one node publish come to all members in the same
// order, on whatever node they are; what one of them sends, in whatever way, in the order of
// its calls.
func TestRelayOrder(t *testing.T) {
	inCluster(t, 3, anyPolicy, func(t *testing.T, h *hub, bs []*sendq.Broker) {
		var peers []*faultconn.Conn
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
		broken := faultconn.New()
		broken.Fault = func([]byte) (int, error) { return 0, errBroken }
		bob := register(t, bs[1], "bob", broken)
		alsoBroken := faultconn.New()
		alsoBroken.Fault = broken.Fault
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

// All names of a node that is gone leave, with the cause, and may be registered elsewhere.
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

// After a partition two nodes may have a name. Each finds its own; the others the one that they
// heard of last. When one has lost it, its Writer ends, and nobody has seen the name leave.
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

		// And the other way round: who has the name elsewhere is found again.
		winner.CloseNow()
		settle()
		requireSameView(t, bs, 1)
	})
}

// A name that a node has lost while it was registering it is not registered.
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

// What is lost on the way is told, and then it is known again how things are.
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

// Who is the first on a node to join a room gets what another node has kept of it, and then
// everything that is published from then on. Those who come later on the node get the same.
func TestRelayReplay(t *testing.T) {
	inCluster(t, 3, sendq.BrokerOptions{ReplayMessages: 4}, func(t *testing.T, h *hub, bs []*sendq.Broker) {
		register(t, bs[0], "alice", readingPeer())
		joinReplay := func(b *sendq.Broker, name string, n int) *faultconn.Conn {
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

// What is published while the past is being fetched comes behind it.
func TestRelayReplayMeanwhile(t *testing.T) {
	inCluster(t, 3, sendq.BrokerOptions{ReplayMessages: 10}, func(t *testing.T, h *hub, bs []*sendq.Broker) {
		register(t, bs[0], "alice", readingPeer())
		require.NoError(t, bs[0].Room("room").Join("alice"))
		bs[0].Room("room").Publish([]byte("1\n"))
		settle()
		release := h.hold("a", "b")
		peers := []*faultconn.Conn{readingPeer(), readingPeer()}
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

// If no node answers, there is nothing to replay, and the name is a member all the same; unless
// it is gone by then.
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

// The Writers end first, and everything that comes of that is told; then the Relay is closed,
// once, within the bound of whoever calls Shutdown or Close.
func TestRelayShutdown(t *testing.T) {
	t.Run("delivers first", func(t *testing.T) {
		var returned handBacks
		opts := sendq.BrokerOptions{OnUndelivered: returned.add}
		inCluster(t, 2, opts, func(t *testing.T, h *hub, bs []*sendq.Broker) {
			port := h.port("a")
			peer := stalledPeer()
			register(t, bs[0], "bob", peer)
			register(t, bs[1], "carol", readingPeer())
			require.NoError(t, bs[0].Send("bob", []byte("hello")))
			settle()
			stop := observe(bs[1])
			down := async(func() error { return bs[0].Shutdown(t.Context()) })
			settle()
			require.Zero(t, port.closes)
			require.ErrorIs(t, bs[1].Send("bob", nil), sendq.ErrClosed, "it is closing")
			require.NoError(t, bs[0].Send("carol", nil), "and can still speak")
			peer.Release()
			require.NoError(t, <-down)
			require.Equal(t, 1, port.closes)
			settle()
			require.Equal(t, []string{"carol"}, slices.Collect(bs[1].Names()))
			require.ErrorIs(t, bs[0].Send("carol", nil), sendq.ErrUnknownName, "it knows nobody any more")
			require.Zero(t, bs[0].Len())
			require.Zero(t, bs[0].Broadcast(nil))
			require.ErrorIs(t, bs[0].Register("dave", sendq.NewWriter(readingPeer(), nil)), sendq.ErrClosed)
			require.Contains(t, stop(), sendq.Event{Kind: sendq.EventLeft, Name: "bob", Node: "a"})
			require.NoError(t, bs[0].Shutdown(t.Context()))
			require.NoError(t, bs[0].CloseNow())
			port.node.Apply("b", []relay.Event{{Kind: relay.EventJoined, Name: "late"}}, false)
			require.Zero(t, bs[0].Len())
		})
	})

	t.Run("all names leave", func(t *testing.T) {
		inCluster(t, 2, anyPolicy, func(t *testing.T, h *hub, bs []*sendq.Broker) {
			register(t, bs[0], "alice", readingPeer())
			register(t, bs[1], "bob", readingPeer())
			settle()
			stop := observe(bs[0])
			synctest.Wait()
			require.NoError(t, bs[0].Shutdown(t.Context()))
			synctest.Wait()
			here := make(map[string]bool)
			for _, e := range stop() {
				here[e.Name] = e.Kind == sendq.EventJoined
			}
			require.Equal(t, map[string]bool{"alice": false, "bob": false}, here)
		})
	})

	t.Run("within the bound", func(t *testing.T) {
		inCluster(t, 2, anyPolicy, func(t *testing.T, h *hub, bs []*sendq.Broker) {
			h.hold("a", "b")
			start := time.Now()
			patiently := async(func() error { return bs[0].Shutdown(context.Background()) })
			settle()
			ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, errPatience)
			defer cancel()
			err := bs[0].Shutdown(ctx)
			require.ErrorIs(t, err, errPatience)
			require.ErrorContains(t, err, "not sent")
			require.Equal(t, err, <-patiently)
			require.Less(t, time.Since(start), 2*time.Minute)
			require.Equal(t, err, bs[0].CloseNow())
		})
	})

	t.Run("Close does not wait", func(t *testing.T) {
		inCluster(t, 2, anyPolicy, func(t *testing.T, h *hub, bs []*sendq.Broker) {
			h.hold("a", "b")
			start := time.Now()
			require.Error(t, bs[0].CloseNow())
			require.Zero(t, time.Since(start))
		})
	})

	// A takeover that is under way fails, and nothing is lost.
	t.Run("meets Register", func(t *testing.T) {
		var returned handBacks
		opts := sendq.BrokerOptions{NamePolicy: sendq.NameTakeover, OnUndelivered: returned.add}
		inCluster(t, 2, opts, func(t *testing.T, h *hub, bs []*sendq.Broker) {
			register(t, bs[0], "bob", stalledPeer())
			require.NoError(t, bs[0].Send("bob", []byte("old")))
			settle()
			release := h.hold("a", "b")
			w := sendq.NewWriter(readingPeer(), nil)
			registered := async(func() error { return bs[1].Register("bob", w) })
			synctest.Wait()
			require.NoError(t, bs[1].Shutdown(t.Context()))
			require.ErrorIs(t, <-registered, sendq.ErrClosed)
			require.NoError(t, w.Close())
			release()
			settle()
			require.Equal(t, []handBack{{"bob", []string{"old"}, sendq.ErrTakenOver}}, returned.all())
			require.Zero(t, bs[0].Len())
		})
	})
}

var errPatience = errors.New("a minute is over")

// What Evict has returned and nobody could take comes back to OnUndelivered.
func TestRelayHandBack(t *testing.T) {
	var returned handBacks
	inCluster(t, 1, sendq.BrokerOptions{OnUndelivered: returned.add}, func(t *testing.T, h *hub, bs []*sendq.Broker) {
		h.port("a").node.HandBack("bob", [][]byte{[]byte("one"), []byte("two")})
		h.port("a").node.HandBack("carol", nil)
		settle()
		require.Equal(t, []handBack{{"bob", []string{"one", "two"}, sendq.ErrTakenOver}}, returned.all())
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

// requireSameView requires that all Brokers know of the same names, so many, in the same
// rooms.
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

// viewOf returns the rooms of all names that b knows, by all the ways to ask.
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
