package sendq_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/relay"
)

// A message does not wait for ever for a name if the takeover by another node never ends.
func TestRelaySendGivesUp(t *testing.T) {
	inCluster(t, 2, takingOver, func(t *testing.T, h *hub, bs []*sendq.Broker) {
		register(t, bs[0], "bob", readingPeer())
		register(t, bs[0], "carol", readingPeer())
		register(t, bs[1], "dave", readingPeer())
		settle()
		_, ok := h.port("a").node.Evict(context.Background(), "bob", "b", newest)
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

		// A run to one name is one Delivery; some of its messages may be refused.
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

// If no answer comes, Send fails with ErrUnconfirmed.
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

// A message finds a name that has moved at the same time, once the sender can know where.
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

// A message of a Batch to a name that has moved is not sent again if a later message of the Batch
// may have reached the name.
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

// A run of messages to a name that does not arrive waits for it once.
func TestBatchWaitsForAMoveOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node, b := alone(t, nil)
		node.Apply("one", []relay.Event{{Kind: relay.EventJoined, Name: "bob"}}, true)
		node.Apply("two", nil, true)
		node.Apply("one", []relay.Event{{Kind: relay.EventMoved, Name: "bob", To: "two"}}, false)
		batch := b.NewBatch()
		for range 3 {
			batch.Send("bob", []byte("hello"))
		}
		start := time.Now()
		r := batch.Flush()
		require.Equal(t, 5*time.Second, time.Since(start))
		require.Zero(t, r.Accepted)
		require.Len(t, r.Refused, 3)
		for _, refused := range r.Refused {
			require.Equal(t, 1, refused.Messages)
			require.ErrorIs(t, refused.Err, sendq.ErrUnknownName)
		}
	})
}
