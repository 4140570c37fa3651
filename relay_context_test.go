package sendq_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
)

var errHurry = errors.New("in a hurry")

// hurry returns a context that is done after a second. A hub waits longer.
func hurry(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errHurry)
	t.Cleanup(cancel)
	return ctx
}

// requireHurry requires that f returns when its context is done.
func requireHurry(t *testing.T, f func(ctx context.Context)) {
	t.Helper()
	start := time.Now()
	f(hurry(t))
	require.Equal(t, time.Second, time.Since(start))
}

// When the context is done, the registration is given up: the Writer lives on without the name, the
// name is free, and the messages of another node are handed back.
func TestRegisterContext(t *testing.T) {
	t.Run("waits for another node", func(t *testing.T) {
		var returned handBacks
		opts := sendq.BrokerOptions{NamePolicy: sendq.NameTakeover, OnUndelivered: returned.add}
		inCluster(t, 2, opts, func(t *testing.T, h *hub, bs []*sendq.Broker) {
			register(t, bs[1], "bob", stalledPeer())
			require.NoError(t, bs[1].Send("bob", []byte("old")))
			settle()
			release := h.hold("b", "a")
			w := sendq.NewWriter(readingPeer(), nil)
			requireHurry(t, func(ctx context.Context) {
				require.ErrorIs(t, bs[0].RegisterContext(ctx, "bob", w), errHurry)
			})
			release()
			settle()
			requireSameView(t, bs, 0)
			require.Equal(t, []handBack{{"bob", []string{"old"}, sendq.ErrTakenOver}}, returned.all())
			require.NoError(t, bs[0].Register("bob", w))
		})
	})

	t.Run("waits for another registration", func(t *testing.T) {
		inCluster(t, 2, takingOver, func(t *testing.T, h *hub, bs []*sendq.Broker) {
			register(t, bs[1], "bob", readingPeer())
			settle()
			release := h.hold("b", "a")
			first := async(func() *sendq.Writer { return register(t, bs[0], "bob", readingPeer()) })
			synctest.Wait()
			second := sendq.NewWriter(readingPeer(), nil)
			defer second.CloseNow()
			requireHurry(t, func(ctx context.Context) {
				require.ErrorIs(t, bs[0].RegisterContext(ctx, "bob", second), errHurry)
			})
			require.Empty(t, first)
			release()
			requireHas(t, bs[0], "bob", <-first)
			settle()
			requireSameView(t, bs, 1)
		})
	})

	t.Run("waits for a takeover here", func(t *testing.T) {
		inTakeover(t, func(t *testing.T, tk takeover) {
			tk.begin()
			w := sendq.NewWriter(readingPeer(), nil)
			defer w.CloseNow()
			requireHurry(t, func(ctx context.Context) {
				require.ErrorIs(t, tk.b.RegisterContext(ctx, "bob", w), errHurry)
			})
			requireHas(t, tk.b, "bob", tk.w)
			tk.end()
			requireReceived(t, tk, tk.left...)
		})
	})

	t.Run("does not wait", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		b, _ := newBroker(sendq.NameTakeover)
		defer b.CloseNow()
		for range 2 {
			require.NoError(t, b.RegisterContext(ctx, "bob", sendq.NewWriter(readingPeer(), nil)))
		}
	})
}

// contextWays are the ways to send to bob and alice with a context.
var contextWays = map[string]func(ctx context.Context, b *sendq.Broker) (toBob, toAlice error){
	"Send": func(ctx context.Context, b *sendq.Broker) (toBob, toAlice error) {
		toBob = b.SendContext(ctx, "bob", []byte("hello"))
		return toBob, b.SendContext(ctx, "alice", []byte("hello"))
	},
	"SendTo": func(ctx context.Context, b *sendq.Broker) (toBob, toAlice error) {
		r := b.SendToContext(ctx, []string{"bob", "alice"}, []byte("hello"))
		return errorOf(r, "bob"), errorOf(r, "alice")
	},
	"Batch": func(ctx context.Context, b *sendq.Broker) (toBob, toAlice error) {
		batch := b.NewBatch()
		batch.Send("bob", []byte("hello"))
		batch.Send("alice", []byte("hello"))
		r := batch.FlushContext(ctx)
		return errorOf(r, "bob"), errorOf(r, "alice")
	},
}

// When the context is done, a message is unconfirmed if its reply is missing. Other outcomes count.
func TestSendContext(t *testing.T) {
	for name, send := range contextWays {
		for alice, where := range []string{"here", "on a node that replies"} {
			t.Run(name+", alice is "+where, func(t *testing.T) {
				inCluster(t, 3, anyPolicy, func(t *testing.T, h *hub, bs []*sendq.Broker) {
					peer := readingPeer()
					register(t, bs[2*alice], "alice", peer)
					register(t, bs[1], "bob", readingPeer())
					settle()
					h.hold("b", "a")
					requireHurry(t, func(ctx context.Context) {
						toBob, toAlice := send(ctx, bs[0])
						require.ErrorIs(t, toBob, sendq.ErrUnconfirmed)
						require.ErrorIs(t, toBob, errHurry)
						if name != "Send" || alice == 0 { // otherwise it is sent when nobody waits any longer
							require.NoError(t, toAlice)
						}
					})
					settle()
					require.Equal(t, "hello", string(peer.Bytes()))
				})
			})
		}
	}
}

// A message to a moving name is not sent once the context is done.
func TestSendContextWhileNameMoves(t *testing.T) {
	for name, send := range contextWays {
		t.Run(name, func(t *testing.T) {
			inCluster(t, 2, takingOver, func(t *testing.T, h *hub, bs []*sendq.Broker) {
				register(t, bs[0], "alice", readingPeer())
				register(t, bs[0], "bob", readingPeer())
				register(t, bs[1], "carol", readingPeer())
				settle()
				_, ok := h.port("a").node.Evict(t.Context(), "bob", "b", newest)
				require.True(t, ok)
				requireHurry(t, func(ctx context.Context) {
					toBob, toAlice := send(ctx, bs[0])
					require.ErrorIs(t, toBob, errHurry)
					require.NotErrorIs(t, toBob, sendq.ErrUnconfirmed)
					require.NoError(t, toAlice)
				})
			})
		})
	}
}

// The same if the node that had the name has refused the message.
func TestSendContextAfterNameMoved(t *testing.T) {
	inCluster(t, 3, takingOver, func(t *testing.T, h *hub, bs []*sendq.Broker) {
		register(t, bs[1], "bob", readingPeer())
		register(t, bs[2], "carol", readingPeer())
		settle()
		h.hold("c", "a")
		h.hold("c", "b")
		release := h.hold("b", "a")
		_, ok := h.port("b").node.Evict(t.Context(), "bob", "c", newest)
		require.True(t, ok)
		requireHurry(t, func(ctx context.Context) {
			sent := async(func() error { return bs[0].SendContext(ctx, "bob", []byte("hello")) })
			synctest.Wait()
			release()
			err := <-sent
			require.ErrorIs(t, err, errHurry)
			require.NotErrorIs(t, err, sendq.ErrUnconfirmed)
		})
	})
}

// When the context is done, the name joins the room without its history.
func TestJoinReplayContext(t *testing.T) {
	inCluster(t, 2, sendq.BrokerOptions{ReplayMessages: 10}, func(t *testing.T, h *hub, bs []*sendq.Broker) {
		register(t, bs[0], "alice", readingPeer())
		require.NoError(t, bs[0].Room("room").Join("alice"))
		bs[0].Room("room").Publish([]byte("1\n"))
		peer := readingPeer()
		register(t, bs[1], "bob", peer)
		settle()
		release := h.hold("a", "b")
		requireHurry(t, func(ctx context.Context) {
			replayed, err := bs[1].Room("room").JoinReplayContext(ctx, "bob", 10)
			require.NoError(t, err)
			require.Zero(t, replayed)
		})
		release()
		bs[0].Room("room").Publish([]byte("2\n"))
		settle()
		require.Equal(t, "2\n", string(peer.Bytes()))
		requireSameView(t, bs, 2)
	})
}

// When the context is done, Evict no longer waits for a registration of the name.
func TestEvictContext(t *testing.T) {
	inCluster(t, 3, takingOver, func(t *testing.T, h *hub, bs []*sendq.Broker) {
		register(t, bs[1], "bob", readingPeer())
		settle()
		release := h.hold("b", "a")
		registered := async(func() *sendq.Writer { return register(t, bs[0], "bob", readingPeer()) })
		synctest.Wait()
		requireHurry(t, func(ctx context.Context) {
			_, ok := h.port("a").node.Evict(ctx, "bob", "c", newest)
			assert.False(t, ok)
		})
		release()
		requireHas(t, bs[0], "bob", <-registered)
	})
}

// If the context is done, Evict leaves the name here. The other node may have given up, as after a
// pause of this process.
func TestLateEvict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node, b := alone(t, nil)
		w := register(t, b, "bob", readingPeer())
		late, cancel := context.WithCancel(t.Context())
		cancel()
		_, ok := node.Evict(late, "bob", "other", newest)
		require.False(t, ok)
		requireHas(t, b, "bob", w)
	})
}

func TestNilContexts(t *testing.T) {
	b := sendq.NewBroker(nil)
	w := sendq.NewWriter(readingPeer(), nil)
	defer w.CloseNow()
	var none context.Context
	for name, call := range map[string]func(){
		"RegisterContext":   func() { b.RegisterContext(none, "bob", w) },
		"SendContext":       func() { b.SendContext(none, "bob", nil) },
		"SendToContext":     func() { b.SendToContext(none, nil, nil) },
		"FlushContext":      func() { b.NewBatch().FlushContext(none) },
		"JoinReplayContext": func() { b.Room("room").JoinReplayContext(none, "bob", 1) },
	} {
		require.PanicsWithValue(t, "sendq: nil Context", call, name)
	}
}
