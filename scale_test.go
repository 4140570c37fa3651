package sendq_test

import (
	"fmt"
	"runtime"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/relay"
	"github.com/sendq-go/sendq/sendqtest"
)

// If many names join and leave while others are told, the cost is not quadratic. It is counted in
// allocated bytes, because noise does not change them.
func TestMassJoinIsNotQuadratic(t *testing.T) {
	cost := func(names int) int {
		b := sendq.NewBroker(nil)
		writers := make([]*sendq.Writer, names)
		for i := range writers {
			writers[i] = sendq.NewWriter(sendqtest.NewConn(), nil)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for i, w := range writers {
			require.NoError(t, b.Register(memberName(i), w))
			require.NoError(t, b.Room("lobby").Join(memberName(i)))
			if i%100 == 0 {
				b.Room("lobby").Len()
			}
		}
		for i, w := range writers {
			require.True(t, b.Unregister(memberName(i), w))
		}
		runtime.ReadMemStats(&after)
		for _, w := range writers {
			w.CloseNow()
		}
		return int(after.TotalAlloc - before.TotalAlloc)
	}
	few, many := cost(500), cost(5_000)
	require.Less(t, many, 10*few*3/2)
}

// 100,000 names and 10,000 rooms are in use from many goroutines at once.
func TestBrokerScale(t *testing.T) {
	names, rooms, workers := sized(100_000), sized(10_000), 8
	discard := discarded()
	b := sendq.NewBroker(nil)
	var work sync.WaitGroup
	for worker := range workers {
		work.Go(func() {
			for i := worker; i < names; i += workers {
				name, room := memberName(i), b.Room(fmt.Sprint(i%rooms))
				assert.NoError(t, b.Register(name, sendq.NewWriter(discard, nil)))
				assert.NoError(t, room.Join(name))
				assert.NoError(t, b.Room("lobby").Join(name))
				room.PublishFrom(name, []byte("joined"))
				assert.NoError(t, b.Send(name, []byte("welcome")))
				if i == names/2+worker {
					b.Room("lobby").Publish([]byte("hello"))
				}
				if i%3 == 0 {
					assert.True(t, room.Leave(name))
				}
			}
		})
	}
	work.Wait()
	require.Equal(t, names, b.Len())
	require.Equal(t, names, b.Room("lobby").Publish([]byte("to all")))
	require.Equal(t, names, b.Broadcast([]byte("to all")))
	for i := range rooms {
		require.LessOrEqual(t, b.Room(fmt.Sprint(i)).Len(), names/rooms)
	}
	require.NoError(t, b.Shutdown(t.Context()))
	require.Zero(t, b.Len())
	require.Zero(t, b.Room("lobby").Len())
}

// Each of n users costs the same, whatever n is. The cost is counted in allocated bytes, because
// noise does not change them: copying everything for each user shows.
func TestCostIsNoSquare(t *testing.T) {
	for name, run := range map[string]func(t *testing.T, n int) (work func()){
		"messages in a row from another node": func(t *testing.T, n int) func() {
			node, b := alone(t, nil)
			w := sendq.NewWriter(stalledPeer(), nil)
			t.Cleanup(func() { w.CloseNow() })
			require.NoError(t, b.Register("bob", w))
			require.NoError(t, b.Room("room").Join("bob"))
			ds := make([]relay.Delivery, n)
			for i := range ds {
				ds[i] = relay.Delivery{
					To:       relay.Target{Kind: relay.TargetRoom, Name: "room"},
					Messages: [][]byte{make([]byte, 50)},
				}
			}
			return func() { node.Deliver("other", ds) }
		},
		"Writers attach to a name": func(t *testing.T, n int) func() {
			b, writers := sendq.NewBroker(&sendq.BrokerOptions{NamePolicy: sendq.NameAttach}), idleWriters(t, n)
			return func() {
				for _, w := range writers {
					require.NoError(t, b.Register("bob", w))
				}
				require.NoError(t, b.Send("bob", []byte("hello")))
			}
		},
		"attached Writers end": func(t *testing.T, n int) func() {
			b, writers := sendq.NewBroker(&sendq.BrokerOptions{NamePolicy: sendq.NameAttach}), idleWriters(t, n)
			for _, w := range writers {
				require.NoError(t, b.Register("bob", w))
			}
			return func() {
				for _, w := range writers[:n/2] {
					w.CloseNow()
				}
				for _, w := range writers[n/2:] {
					require.True(t, b.Unregister("bob", w))
				}
			}
		},
		"names join while somebody looks": func(t *testing.T, n int) func() {
			b, w := sendq.NewBroker(nil), idleWriters(t, 1)[0]
			return func() {
				for i := range n {
					require.NoError(t, b.Register(memberName(i), w))
					require.NoError(t, b.Room("room").Join(memberName(i)))
					for range b.Room("room").Members() {
						break
					}
				}
			}
		},
		"a name joins and leaves rooms on another node while somebody looks": func(t *testing.T, n int) func() {
			node, b := alone(t, nil)
			node.Apply("other", []relay.Event{{Kind: relay.EventJoined, Name: "bob"}}, true)
			t.Cleanup(look(t, b))
			return func() {
				for _, kind := range []relay.EventKind{relay.EventRoomJoined, relay.EventRoomLeft} {
					for i := range n {
						told := []relay.Event{{Kind: kind, Name: "bob", Room: fmt.Sprint(i)}}
						node.Apply("other", told, false)
						node.Apply("other", told, false) // as JoinReplay does
					}
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			cost := func(n int) int {
				work := run(t, n)
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				work()
				runtime.ReadMemStats(&after)
				return int(after.TotalAlloc - before.TotalAlloc)
			}
			const few, times = 300, 8
			once, often := cost(few), cost(times*few)
			require.Less(t, often, 3*times*once, "%d bytes for %d, %d for %d", once, few, often, times*few)
		})
	}
}

// Many names, Writers or rooms give their memory back when they are gone.
func TestBrokerMemoryComesBack(t *testing.T) {
	const n = 5000
	warmUp(1000)
	for name, run := range map[string]func(t *testing.T) (come, leave func()){
		"names": func(t *testing.T) (come, leave func()) {
			b, w := sendq.NewBroker(nil), idleWriters(t, 1)[0]
			return func() {
					for i := range n {
						require.NoError(t, b.Register(memberName(i), w))
					}
				}, func() {
					for i := range n {
						require.True(t, b.Unregister(memberName(i), w))
					}
				}
		},
		"Writers": func(t *testing.T) (come, leave func()) {
			b := sendq.NewBroker(nil)
			return func() {
					for i := range n {
						require.NoError(t, b.Register(memberName(i), sendq.NewWriter(sendqtest.NewConn(), nil)))
					}
				}, func() {
					for i := range n {
						w, _ := b.Lookup(memberName(i))
						w.CloseNow()
					}
				}
		},
		"Writers of one name": func(t *testing.T) (come, leave func()) {
			b := sendq.NewBroker(&sendq.BrokerOptions{NamePolicy: sendq.NameAttach})
			permanent := idleWriters(t, 2)
			var writers []*sendq.Writer
			return func() {
					for _, w := range permanent {
						require.NoError(t, b.Register("bob", w))
					}
					for range n {
						writers = append(writers, sendq.NewWriter(sendqtest.NewConn(), nil))
						require.NoError(t, b.Register("bob", writers[len(writers)-1]))
					}
				}, func() {
					for _, w := range writers {
						w.CloseNow()
					}
					writers = nil
					require.NoError(t, b.Send("bob", nil))
				}
		},
		"rooms": func(t *testing.T) (come, leave func()) {
			b, w := sendq.NewBroker(nil), idleWriters(t, 1)[0]
			require.NoError(t, b.Register("bob", w))
			return func() {
					for i := range n {
						require.NoError(t, b.Room(memberName(i)).Join("bob"))
					}
				}, func() {
					for i := range n {
						require.True(t, b.Room(memberName(i)).Leave("bob"))
					}
				}
		},
		"names and rooms on another node": func(t *testing.T) (come, leave func()) {
			node, _ := alone(t, nil)
			return func() {
				for i := range n {
					node.Apply("other", []relay.Event{
						{Kind: relay.EventJoined, Name: memberName(i)},
						{Kind: relay.EventRoomJoined, Name: memberName(i), Room: memberName(i)},
					}, false)
				}
			}, func() { node.NodeGone("other", nil) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			come, leave := run(t)
			before := heap()
			come()
			leave()
			require.Less(t, heap()-before, 3*n)
			runtime.KeepAlive(come)
		})
	}
}
