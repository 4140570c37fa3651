package sendq_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/internal/faultconn"
)

// Guarantee 9: a name maps to its Writer until that Writer ends or is unregistered.
// An old Writer's end never removes a newer one under the same name.
func TestBrokerNameMapsUntilEnd(t *testing.T) {
	b := sendq.NewBroker(nil)
	requireMaps := func(t *testing.T, name string, want *sendq.Writer) {
		t.Helper()
		got, ok := b.Lookup(name)
		require.Equal(t, want != nil, ok)
		require.Same(t, want, got)
	}

	t.Run("until the Writer ends", func(t *testing.T) {
		requireMaps(t, "bob", nil)
		w := register(t, b, "bob", readingPeer())
		requireMaps(t, "bob", w)
		w.CloseNow()
		requireMaps(t, "bob", nil)
	})

	t.Run("while it is closing", func(t *testing.T) {
		peer := stalledPeer()
		w := register(t, b, "bob", peer)
		w.WriteString("last words\n")
		var closer sync.WaitGroup
		closer.Go(func() { w.Close() })
		for _, err := w.WriteString("more\n"); err == nil; _, err = w.WriteString("more\n") {
			runtime.Gosched()
		}
		requireMaps(t, "bob", w)
		peer.Release()
		closer.Wait()
		requireMaps(t, "bob", nil)
	})

	t.Run("until it is unregistered", func(t *testing.T) {
		w := register(t, b, "bob", readingPeer())
		require.True(t, b.Unregister("bob", w))
		requireMaps(t, "bob", nil)
		require.False(t, b.Unregister("bob", w))
		_, err := w.WriteString("still alive\n")
		require.NoError(t, err)
	})

	t.Run("the wrong Writer unregisters nothing", func(t *testing.T) {
		w := register(t, b, "bob", readingPeer())
		other := register(t, b, "alice", readingPeer())
		require.NoError(t, b.Room("room").Join("bob"))
		require.False(t, b.Unregister("bob", other))
		require.False(t, b.Unregister("bob", nil))
		require.False(t, b.Unregister("nobody", w))
		requireMaps(t, "bob", w)
		requireMaps(t, "alice", other)
		require.Equal(t, 1, b.Room("room").Len())
		w.CloseNow()
		other.CloseNow()
	})

	t.Run("an old Writer's end leaves a newer one", func(t *testing.T) {
		old := register(t, b, "bob", readingPeer())
		require.True(t, b.Unregister("bob", old))
		newer := register(t, b, "bob", readingPeer())
		require.NoError(t, b.Room("room").Join("bob"))
		require.False(t, b.Unregister("bob", old))
		old.CloseNow()
		requireMaps(t, "bob", newer)
		require.Equal(t, 1, b.Room("room").Len())
		newer.CloseNow()
	})

	// The old Writer has many names, so that its end is under way for a while, and
	// reaches "bob" when another Writer has the name.
	t.Run("also when it comes late", func(t *testing.T) {
		const others = 128
		for range 100 {
			old, newer := sendq.NewWriter(readingPeer(), nil), sendq.NewWriter(readingPeer(), nil)
			for i := range others {
				if i == others/2 {
					require.NoError(t, b.Register("bob", old))
				}
				require.NoError(t, b.Register(fmt.Sprint(i), old))
			}
			var end sync.WaitGroup
			end.Go(func() { old.CloseNow() })
			for b.Len() == others+1 {
				runtime.Gosched() // until the end is under way
			}
			b.Unregister("bob", old)
			require.NoError(t, b.Register("bob", newer))
			require.NoError(t, b.Room("room").Join("bob"))
			end.Wait()
			requireMaps(t, "bob", newer)
			require.Equal(t, []string{"bob"}, slices.Collect(b.Names()))
			require.Equal(t, []string{"bob"}, slices.Collect(b.Room("room").Members()))
			newer.CloseNow()
		}
	})
}

// Guarantee 10: every member of a room sees the room's messages in one same order.
func TestRoomOneOrder(t *testing.T) {
	b := sendq.NewBroker(nil)
	room := b.Room("room")
	peers := joinMany(t, b, 40)
	publishAtOnce(200, room.Publish, func(p []byte) int { return room.PublishFrom("nobody", p) })
	requireSameLines(t, b, peers, 200*publishers)
}

func TestBrokerBroadcastOneOrder(t *testing.T) {
	b := sendq.NewBroker(nil)
	peers := joinMany(t, b, 40)
	publishAtOnce(200, b.Broadcast, func(p []byte) int { return b.BroadcastFrom("nobody", p) })
	requireSameLines(t, b, peers, 200*publishers)
}

// Those who come and go see a part of the room's messages, in the order of the rest,
// also when the room empties in between.
func TestRoomOneOrderWhileMembersComeAndGo(t *testing.T) {
	const members = 16
	for _, test := range []struct{ stay, rounds int }{{2, 2}, {0, 6}} {
		t.Run(fmt.Sprintf("%d stay", test.stay), func(t *testing.T) {
			for range test.rounds {
				b := sendq.NewBroker(nil)
				room := b.Room("room")
				peers := joinMany(t, b, members)

				publishing, stop := context.WithCancel(t.Context())
				var moving sync.WaitGroup
				moving.Go(func() {
					for publishing.Err() == nil {
						for i := test.stay; i < members; i++ {
							room.Leave(memberName(i))
						}
						for i := test.stay; i < members; i++ {
							assert.NoError(t, room.Join(memberName(i)))
						}
					}
				})
				publishAtOnce(200, room.Publish)
				stop()
				moving.Wait()

				flushAll(t, b)
				for i := 1; i < members; i++ {
					first, other := inBoth(linesOf(peers[0]), linesOf(peers[i]))
					require.True(t, slices.Equal(first, other), "%s sees another order", memberName(i))
				}
			}
		})
	}
}

// Guarantee 10: one sender's messages, direct, to a room or to all, reach a recipient
// in call order.
func TestBrokerSenderOrder(t *testing.T) {
	const senders, messages = 4, 300
	b := sendq.NewBroker(nil)
	peers := joinMany(t, b, 4)
	room := b.Room("room")

	var sending sync.WaitGroup
	for sender := range senders {
		sending.Go(func() {
			for i := range messages {
				// Short and long messages take different ways.
				p := fmt.Appendf(nil, "%d %d %s\n", sender, i, strings.Repeat(".", i%7/6*20_000))
				switch i % 5 {
				case 0:
					b.Broadcast(p)
				case 1:
					room.Publish(p)
				case 2:
					for j := range peers {
						assert.NoError(t, b.Send(memberName(j), p))
					}
				case 3:
					room.PublishFrom("nobody", p)
				case 4:
					b.BroadcastFrom("nobody", p)
				}
			}
		})
	}
	sending.Wait()
	flushAll(t, b)

	for _, peer := range peers {
		var next [senders]int
		for _, line := range linesOf(peer) {
			var sender, i int
			_, err := fmt.Sscan(line, &sender, &i)
			require.NoError(t, err)
			require.Equal(t, next[sender], i, "from sender %d", sender)
			next[sender]++
		}
		for sender := range senders {
			require.Equal(t, messages, next[sender], "from sender %d", sender)
		}
	}
}

// Guarantee 11: fan-out copies a message at most once, however many recipients. In a
// bubble, as below: whoever waited for a stalled recipient would wait for ever, and
// fail the test at once.
func TestBrokerFanOutCopiesOnce(t *testing.T) {
	for _, fanOut := range fanOuts {
		t.Run(fanOut.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { testCopiesOnce(t, fanOut.send) })
		})
	}
}

func testCopiesOnce(t *testing.T, fanOut func(b *sendq.Broker, p []byte) int) {
	const members, size = 300, 1 << 20
	b := sendq.NewBroker(nil)
	var writers []*sendq.Writer
	for i := range members {
		writers = append(writers, register(t, b, memberName(i), stalledPeer()))
		require.NoError(t, b.Room("room").Join(memberName(i)))
	}
	// The first messages start the flushers, and make room in the queues.
	for range 3 {
		require.Equal(t, members, fanOut(b, []byte("first\n")))
	}
	synctest.Wait()
	message := make([]byte, size)

	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	accepted := fanOut(b, message)
	runtime.ReadMemStats(&after)
	require.Equal(t, members, accepted)
	allocated := int(after.TotalAlloc - before.TotalAlloc)
	require.GreaterOrEqual(t, allocated, size)
	require.Less(t, allocated, size+size/4)

	// And it is one and the same copy for all.
	copies := make(map[*byte]bool)
	for _, w := range writers {
		w.CloseNow()
		undelivered := slices.Collect(w.Undelivered())
		require.Len(t, undelivered, 4)
		copies[unsafe.SliceData(undelivered[3])] = true
	}
	require.Len(t, copies, 1)
}

// Guarantee 11: a stalled recipient slows no other.
func TestBrokerStalledRecipientHoldsUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := sendq.NewBroker(nil)
		peer := readingPeer()
		stalled := register(t, b, "stalled", stalledPeer())
		reading := register(t, b, "reading", peer)
		room := b.Room("room")
		require.NoError(t, room.Join("stalled"))
		require.NoError(t, room.Join("reading"))

		const rounds = 100
		line := []byte(strings.Repeat("x", 50_000) + "\n")
		for range rounds {
			require.Equal(t, 2, b.Broadcast(line))
			require.Equal(t, 2, room.Publish(line))
			require.NoError(t, b.Send("stalled", line))
			require.NoError(t, b.Send("reading", line))
		}
		require.NoError(t, reading.Flush(t.Context()))
		require.Len(t, linesOf(peer), 3*rounds)
		require.EqualValues(t, 3*rounds, stalled.Stats().Pending)
	})
}

// Guarantee 12: the caller learns what became of each recipient: unknown, accepted,
// refused.
func TestBrokerTellsOutcome(t *testing.T) {
	line := []byte("hello\n")

	t.Run("unknown", func(t *testing.T) {
		b := sendq.NewBroker(nil)
		require.ErrorIs(t, b.Send("nobody", line), sendq.ErrUnknownName)
		require.ErrorContains(t, b.Send("nobody", line), `"nobody"`)
		for _, fanOut := range fanOuts {
			require.Zero(t, fanOut.send(b, line), fanOut.name)
		}
	})

	t.Run("accepted", func(t *testing.T) {
		b := sendq.NewBroker(nil)
		peer := readingPeer()
		w := register(t, b, "bob", peer)
		require.NoError(t, b.Room("room").Join("bob"))
		require.NoError(t, b.Send("bob", line))
		for _, fanOut := range fanOuts {
			require.Equal(t, 1, fanOut.send(b, line), fanOut.name)
		}
		require.NoError(t, w.Flush(t.Context()))
		require.Len(t, linesOf(peer), 1+len(fanOuts))
	})

	// A Writer that is about to end still has its name.
	t.Run("refused", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := sendq.NewBroker(nil)
			peer := readingPeer()
			open := register(t, b, "open", peer)

			closing := register(t, b, "closing", stalledPeer())
			closing.WriteString("stuck\n")
			go closing.Close()

			cause := errors.New("cable cut")
			failed, release := readingPeer(), make(chan struct{})
			failed.Fault = faultconn.FailAt(0, cause)
			failed.Enter = func(method string) {
				if method == "Close" {
					<-release
				}
			}
			register(t, b, "failed", failed).WriteString("fails\n")
			defer close(release)

			for name := range b.Names() {
				require.NoError(t, b.Room("room").Join(name))
			}
			synctest.Wait()
			require.Equal(t, 3, b.Len())

			require.NoError(t, b.Send("open", line))
			require.ErrorIs(t, b.Send("closing", line), net.ErrClosed)
			require.ErrorIs(t, b.Send("failed", line), net.ErrClosed)
			require.ErrorIs(t, b.Send("failed", line), cause)
			for _, fanOut := range fanOuts {
				require.Equal(t, 1, fanOut.send(b, line), fanOut.name)
			}
			require.NoError(t, open.Flush(t.Context()))
			require.Len(t, linesOf(peer), 1+len(fanOuts))
			closing.CloseNow()
		})
	})
}

func TestBrokerRegisterFails(t *testing.T) {
	b := sendq.NewBroker(nil)
	bob := register(t, b, "bob", readingPeer())
	other := sendq.NewWriter(readingPeer(), nil)

	require.ErrorIs(t, b.Register("bob", other), sendq.ErrNameTaken)
	require.ErrorIs(t, b.Register("bob", bob), sendq.ErrNameTaken, "not even the same Writer")
	require.ErrorContains(t, b.Register("bob", other), `"bob"`)

	ended := sendq.NewWriter(readingPeer(), nil)
	ended.CloseNow()
	require.ErrorIs(t, b.Register("alice", ended), net.ErrClosed)
	_, ok := b.Lookup("alice")
	require.False(t, ok)

	require.NoError(t, b.Close())
	require.ErrorIs(t, b.Register("carol", other), sendq.ErrClosed)
	require.ErrorIs(t, b.Register("carol", other), net.ErrClosed)
	require.NoError(t, other.Close())
}

// Whatever the order in which a Writer ends and gets a name, no name is left over.
func TestBrokerRegisterMeetsEnd(t *testing.T) {
	b := sendq.NewBroker(nil)
	for range 1000 {
		w := sendq.NewWriter(readingPeer(), nil)
		var registering sync.WaitGroup
		registering.Go(func() {
			if err := b.Register("bob", w); err != nil {
				assert.ErrorIs(t, err, net.ErrClosed)
			}
		})
		w.CloseNow()
		registering.Wait()
		require.Zero(t, b.Len())
	}
}

func TestBrokerForgetsEndedWriter(t *testing.T) {
	refused := errors.New("refused")
	for _, test := range []struct {
		name string
		conn func(t *testing.T) net.Conn
		end  func(w *sendq.Writer)
		err  error
	}{
		{name: "CloseNow", end: func(w *sendq.Writer) { w.CloseNow() }, err: sendq.ErrClosed},
		{name: "Close", end: func(w *sendq.Writer) { w.Close() }},
		{name: "Shutdown", end: func(w *sendq.Writer) { w.Shutdown(t.Context()) }},
		{
			name: "a write fails",
			conn: func(*testing.T) net.Conn {
				conn := readingPeer()
				conn.Fault = faultconn.FailAt(0, refused)
				return conn
			},
			end: func(w *sendq.Writer) { w.WriteString("hello\n") },
			err: refused,
		},
		{
			name: "the peer resets",
			conn: func(t *testing.T) net.Conn {
				conn, peer := tcpPair(t)
				reset(t, peer)
				return conn
			},
			end: func(w *sendq.Writer) {
				for w.Flush(t.Context()) == nil {
					w.WriteString("hello\n")
				}
			},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			var conn net.Conn = readingPeer()
			if test.conn != nil {
				conn = test.conn(t)
			}
			b := sendq.NewBroker(nil)
			room := b.Room("room")
			// Many names, which take a while to remove: Done must wait for it.
			const names = 200
			w := register(t, b, memberName(0), conn)
			for i := range names {
				if i > 0 {
					require.NoError(t, b.Register(memberName(i), w))
				}
				require.NoError(t, room.Join(memberName(i)))
			}

			var ending sync.WaitGroup
			ending.Go(func() { test.end(w) })
			<-w.Done()
			require.Zero(t, b.Len())
			require.Zero(t, room.Len())
			require.Empty(t, slices.Collect(b.Names()))
			require.Empty(t, slices.Collect(room.Members()))
			require.Zero(t, b.Broadcast([]byte("anyone?\n")))
			require.ErrorIs(t, b.Send(memberName(0), nil), sendq.ErrUnknownName)
			ending.Wait()
			if test.err != nil {
				require.ErrorIs(t, w.Err(), test.err)
			}

			// The name is free, and its rooms are not inherited.
			register(t, b, memberName(0), readingPeer())
			require.Zero(t, room.Len())
		})
	}
}

func TestBrokerParksNoGoroutine(t *testing.T) {
	b := sendq.NewBroker(nil)
	before := runtime.NumGoroutine()
	joinMany(t, b, 1000)
	require.LessOrEqual(t, goroutinesLeft(before), before)
}

func TestBrokerWriterWithSeveralNames(t *testing.T) {
	b := sendq.NewBroker(nil)
	peer := readingPeer()
	w := register(t, b, "bob", peer)
	require.NoError(t, b.Register("robert", w))
	require.Equal(t, 2, b.Len())

	line := []byte("hello\n")
	require.Equal(t, 2, b.Broadcast(line), "once for each name")
	require.Equal(t, 1, b.BroadcastFrom("bob", line), "a sender is a name, not a Writer")
	room := b.Room("room")
	require.NoError(t, room.Join("bob"))
	require.Equal(t, 1, room.Publish(line))
	require.NoError(t, w.Flush(t.Context()))
	require.Len(t, linesOf(peer), 4)

	require.True(t, b.Unregister("bob", w))
	require.Zero(t, room.Len())
	got, ok := b.Lookup("robert")
	require.True(t, ok)
	require.Same(t, w, got)

	require.NoError(t, b.Register("bob", w))
	w.CloseNow()
	require.Zero(t, b.Len())
}

func TestBrokerFromSkipsTheSender(t *testing.T) {
	for _, test := range []struct {
		sender    string
		broadcast []string
		publish   []string
	}{
		{"a", []string{"b", "outsider"}, []string{"b"}},
		{"b", []string{"a", "outsider"}, []string{"a"}},
		{"outsider", []string{"a", "b"}, []string{"a", "b"}},
		{"nobody", []string{"a", "b", "outsider"}, []string{"a", "b"}},
		{"", []string{"a", "b", "outsider"}, []string{"a", "b"}},
	} {
		t.Run(test.sender, func(t *testing.T) {
			b := sendq.NewBroker(nil)
			room := b.Room("room")
			peers := make(map[string]*faultconn.Conn)
			for _, name := range []string{"a", "b", "outsider"} {
				peers[name] = readingPeer()
				register(t, b, name, peers[name])
				if name != "outsider" {
					require.NoError(t, room.Join(name))
				}
			}
			got := func(line string) (names []string) {
				flushAll(t, b)
				for name, peer := range peers {
					if slices.Contains(linesOf(peer), line) {
						names = append(names, name)
					}
				}
				slices.Sort(names)
				return names
			}

			require.Equal(t, len(test.broadcast), b.BroadcastFrom(test.sender, []byte("to all\n")))
			require.Equal(t, test.broadcast, got("to all\n"))
			require.Equal(t, len(test.publish), room.PublishFrom(test.sender, []byte("to room\n")))
			require.Equal(t, test.publish, got("to room\n"))
		})
	}
}

// The message may be reused when the call returns, long before a stalled recipient
// gets it.
func TestBrokerMessageMayBeReused(t *testing.T) {
	b := sendq.NewBroker(nil)
	peer := stalledPeer()
	w := register(t, b, "bob", peer)
	require.NoError(t, b.Room("room").Join("bob"))

	var want []string
	for _, size := range []int{1, 100, 16 << 10, 20 << 10, 1 << 20} {
		message := bytes.Repeat([]byte("x"), size)
		message[size-1] = '\n'
		for range 1 + len(fanOuts) {
			want = append(want, string(message))
		}
		send := func(do func(p []byte)) {
			p := bytes.Clone(message)
			do(p)
			clear(p)
		}
		send(func(p []byte) { require.NoError(t, b.Send("bob", p)) })
		for _, fanOut := range fanOuts {
			send(func(p []byte) { require.Equal(t, 1, fanOut.send(b, p)) })
		}
	}
	peer.Release()
	require.NoError(t, w.Flush(t.Context()))
	require.True(t, slices.Equal(want, linesOf(peer)), "the messages were changed")
}

func TestRoomFromFirstMemberToLast(t *testing.T) {
	b := sendq.NewBroker(nil)
	early := b.Room("room") // a handle made before there are members
	requireMembers := func(want ...string) {
		t.Helper()
		for _, room := range []*sendq.Room{early, b.Room("room")} {
			require.Equal(t, want, slices.Sorted(room.Members()))
			require.Equal(t, len(want), room.Len())
			require.Equal(t, len(want), room.Publish([]byte("hello\n")))
		}
		require.Zero(t, b.Room("another").Len())
	}
	requireMembers()

	a := register(t, b, "a", readingPeer())
	c := register(t, b, "c", readingPeer())
	register(t, b, "d", readingPeer())
	require.ErrorIs(t, early.Join("nobody"), sendq.ErrUnknownName)
	require.ErrorContains(t, early.Join("nobody"), `"nobody"`)
	requireMembers()
	require.NoError(t, early.Join("a"))
	require.NoError(t, early.Join("a"), "again")
	requireMembers("a")
	require.NoError(t, b.Room("room").Join("c"))
	require.NoError(t, early.Join("d"))
	requireMembers("a", "c", "d")

	require.True(t, early.Leave("d"))
	require.False(t, early.Leave("d"))
	require.False(t, early.Leave("nobody"))
	requireMembers("a", "c")
	require.True(t, b.Unregister("a", a))
	require.False(t, early.Leave("a"))
	requireMembers("c")
	require.NoError(t, b.Register("a", a))
	requireMembers("c") // the name is back, its membership is not
	c.CloseNow()
	requireMembers()

	require.NoError(t, early.Join("a"))
	requireMembers("a")
	require.True(t, early.Leave("a"))
	requireMembers()
}

// What is gone leaves nothing behind: neither rooms nor names nor Writers.
func TestBrokerLeavesNothingBehind(t *testing.T) {
	b := sendq.NewBroker(nil)
	resident := register(t, b, "resident", readingPeer())
	heap := func() int {
		runtime.GC()
		runtime.GC() // the first leaves what pools hold
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc)
	}
	before := heap()
	for i := range 2000 {
		name := fmt.Sprintf("%d%1000s", i, "")
		require.NoError(t, b.Register(name, resident))
		require.NoError(t, b.Room(name).Join("resident"))
		require.NoError(t, b.Room(name).Join(name))
		require.Equal(t, 2, b.Room(name).Publish(nil))
		require.True(t, b.Room(name).Leave("resident"))
		require.True(t, b.Unregister(name, resident))
	}
	require.NoError(t, resident.Flush(t.Context()))
	require.Less(t, heap()-before, 500_000)
	runtime.KeepAlive(b)
}

// An iteration is over the names as they were when it began; the loop may call
// anything, and may stop at any time.
func TestBrokerIterate(t *testing.T) {
	b := sendq.NewBroker(nil)
	joinMany(t, b, 10)
	room := b.Room("room")

	for _, names := range []func(func(string) bool){b.Names(), room.Members()} {
		seen := 0
		for range names {
			if seen++; seen == 3 {
				break
			}
		}
		require.Equal(t, 3, seen)
		for range 2 { // a Seq can be ranged over again
			require.Len(t, slices.Collect(names), 10)
		}
	}

	var seen []string
	for name := range room.Members() {
		seen = append(seen, name)
		require.True(t, room.Leave(name))
		require.NoError(t, room.Join(name))
		require.True(t, room.Leave(name))
		register(t, b, "new "+name, readingPeer())
		require.NoError(t, room.Join("new "+name))
		room.Publish([]byte("hello\n"))
	}
	require.Len(t, seen, 10)
	require.Equal(t, 10, room.Len())

	seen = nil
	for name := range b.Names() {
		seen = append(seen, name)
		w, ok := b.Lookup(name)
		require.True(t, ok)
		if len(seen)%2 == 0 {
			require.True(t, b.Unregister(name, w))
		} else {
			require.NoError(t, w.Close())
		}
		require.Equal(t, b.Len(), len(slices.Collect(b.Names())))
	}
	require.Len(t, seen, 20)
	require.Zero(t, b.Len())
	require.Zero(t, room.Len())
}

// A name is any string: none means all, or nobody, or several.
func TestBrokerOddNames(t *testing.T) {
	odd := []string{"", "*", ">", "#x", "a.b", "a, b", "line\nbreak", "\x00", "\xff", "é", "e\u0301", strings.Repeat("long", 1<<16)}
	b := sendq.NewBroker(nil)
	peers := make(map[string]*faultconn.Conn)
	for _, name := range odd {
		peers[name] = readingPeer()
		register(t, b, name, peers[name])
		require.NoError(t, b.Room(name).Join(name))
	}
	require.ElementsMatch(t, odd, slices.Collect(b.Names()))
	for _, name := range odd {
		require.NoError(t, b.Send(name, []byte("direct\n")))
		require.Equal(t, 1, b.Room(name).Publish([]byte("in the room\n")))
		require.Zero(t, b.Room(name).PublishFrom(name, []byte("from\n")))
		require.Equal(t, []string{name}, slices.Collect(b.Room(name).Members()))
	}
	flushAll(t, b)
	for name, peer := range peers {
		require.Equal(t, []string{"direct\n", "in the room\n"}, linesOf(peer), "%q", name)
		require.True(t, b.Room(name).Leave(name))
	}
}

// 16 names come and go over TCP, in every way, while others send to them. Nobody stays
// on as a ghost, and nobody is found after the end.
func TestBrokerChurn(t *testing.T) {
	const names, lives = 16, 12
	b := sendq.NewBroker(nil)
	room := b.Room("room")
	line := []byte("hello\n")

	// live registers a Writer, and ends it once the peer has heard something.
	live := func(name string, life int) {
		conn, peer := tcpPair(t)
		w := sendq.NewWriter(conn, nil)
		if !assert.NoError(t, b.Register(name, w)) {
			w.CloseNow()
			return
		}
		assert.NoError(t, room.Join(name))
		assert.NoError(t, b.Room(name).Join(name))
		io.ReadFull(peer, make([]byte, 100*len(line)))

		var reader sync.WaitGroup
		switch life % 6 {
		case 0, 1:
			reset(t, peer) // and the next message fails
		case 2:
			reader.Go(func() { io.Copy(io.Discard, peer) })
			assert.NoError(t, w.Close())
		case 3:
			w.CloseNow()
		case 4:
			assert.True(t, b.Unregister(name, w))
			w.CloseNow()
		case 5:
			assert.True(t, room.Leave(name))
			reset(t, peer)
		}
		<-w.Done()
		_, ok := b.Lookup(name)
		assert.False(t, ok)
		assert.NotContains(t, slices.Collect(room.Members()), name)
		assert.Zero(t, b.Room(name).Len())
		reader.Wait()
		peer.Close()
	}

	churning, stop := context.WithCancel(t.Context())
	var others sync.WaitGroup
	for i := range 3 {
		others.Go(func() {
			sender := memberName(i)
			for churning.Err() == nil {
				for j := range names {
					b.Send(memberName(j), line)
					if w, ok := b.Lookup(memberName(j)); ok {
						w.Flush(churning) // lets the peers keep pace
					}
				}
				b.Broadcast(line)
				b.BroadcastFrom(sender, line)
				room.Publish(line)
				room.PublishFrom(sender, line)
			}
		})
	}
	others.Go(func() {
		var last [names]*sendq.Writer
		for churning.Err() == nil {
			for i := range names {
				w := last[i]
				over := w != nil && hasEnded(w)
				last[i], _ = b.Lookup(memberName(i))
				if over && last[i] == w {
					assert.Fail(t, "Lookup found a Writer after its end")
				}
			}
			runtime.Gosched()
		}
	})

	var churn sync.WaitGroup
	for i := range names {
		churn.Go(func() {
			for life := range lives {
				live(memberName(i), life)
			}
		})
	}
	churn.Wait()
	stop()
	others.Wait()

	require.Empty(t, slices.Collect(b.Names()))
	require.Empty(t, slices.Collect(room.Members()))
	require.Zero(t, b.Broadcast(line))
}

func TestBrokerShutdownDelivers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const members = 10
		b := sendq.NewBroker(nil)
		var peers []*faultconn.Conn
		for i := range members {
			peer := stalledPeer()
			peers = append(peers, peer)
			register(t, b, memberName(i), peer)
			time.AfterFunc(time.Duration(i)*time.Second, peer.Release)
		}
		want := []string{"first\n", strings.Repeat("x", 1<<20) + "\n", "last\n"}
		for _, line := range want {
			require.Equal(t, members, b.Broadcast([]byte(line)))
		}

		start := time.Now()
		require.NoError(t, b.Shutdown(t.Context()))
		require.Equal(t, (members-1)*time.Second, time.Since(start), "as long as the slowest takes")
		for i, peer := range peers {
			require.True(t, slices.Equal(want, linesOf(peer)), memberName(i))
			_, err := peer.Read(nil)
			require.ErrorIs(t, err, net.ErrClosed, memberName(i))
		}
		require.Zero(t, b.Len())
		require.NoError(t, b.Shutdown(t.Context()), "again")
		require.NoError(t, b.Close(), "again")
	})
}

// All end under one deadline, not one after the other, and the error tells of those
// that did not deliver.
func TestBrokerShutdownUnderOneDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := sendq.NewBroker(nil)
		for i := range 10 {
			register(t, b, fmt.Sprintf("stalled-%d", i), stalledPeer())
			register(t, b, fmt.Sprintf("reading-%d", i), readingPeer())
			register(t, b, fmt.Sprintf("idle-%d", i), stalledPeer())
		}
		for name := range b.Names() {
			if !strings.HasPrefix(name, "idle") {
				require.NoError(t, b.Send(name, []byte("hello\n")))
			}
		}
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		err := b.Shutdown(ctx)
		require.Equal(t, 3*time.Second, time.Since(start))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		for i := range 10 {
			require.ErrorContains(t, err, fmt.Sprintf("stalled-%d: ", i))
		}
		require.NotContains(t, err.Error(), "reading")
		require.NotContains(t, err.Error(), "idle")
		require.Zero(t, b.Len())
	})
}

func TestBrokerShutdownMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := sendq.NewBroker(nil)
		w := register(t, b, "bob", stalledPeer())
		require.NoError(t, b.Room("room").Join("bob"))
		require.NoError(t, b.Send("bob", []byte("stuck\n")))

		// Of several bounds the first to pass ends the Writers, for every caller.
		start := time.Now()
		var callers sync.WaitGroup
		for _, bound := range []time.Duration{2 * time.Second, time.Minute} {
			callers.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), bound)
				defer cancel()
				assert.ErrorContains(t, b.Shutdown(ctx), "bob: ")
				assert.Equal(t, 2*time.Second, time.Since(start))
			})
		}
		synctest.Wait()
		require.ErrorIs(t, b.Send("bob", []byte("late\n")), net.ErrClosed)
		for _, fanOut := range fanOuts {
			require.Zero(t, fanOut.send(b, []byte("late\n")), fanOut.name)
		}
		require.ErrorIs(t, b.Register("carol", w), sendq.ErrClosed)
		callers.Wait()
		require.EqualValues(t, 1, w.Stats().Undelivered)
	})
}

func TestBrokerShutdownWithDoneContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := sendq.NewBroker(nil)
		w := register(t, b, "bob", stalledPeer())
		require.NoError(t, b.Send("bob", []byte("stuck\n")))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		start := time.Now()
		require.ErrorIs(t, b.Shutdown(ctx), context.Canceled)
		require.Zero(t, time.Since(start))
		require.True(t, hasEnded(w))
	})
}

// Close is the hard end: it waits for no peer, says what was not delivered, and hands it
// back.
func TestBrokerClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		returned := 0
		b := sendq.NewBroker(&sendq.BrokerOptions{OnUndelivered: func(_ string, messages iter.Seq[[]byte], _ error) {
			time.Sleep(time.Second) // a database
			returned += len(slices.Collect(messages))
		}})
		for i := range 5 {
			register(t, b, memberName(i), stalledPeer())
		}
		idle := register(t, b, "idle", readingPeer())
		b.BroadcastFrom("idle", []byte("stuck\n"))
		start := time.Now()
		err := b.Close()
		require.Equal(t, 5*time.Second, time.Since(start), "the time of the handler alone")
		require.Equal(t, 5, returned)
		for i := range 5 {
			require.ErrorContains(t, err, memberName(i)+": ")
		}
		require.NotContains(t, err.Error(), "idle")
		require.Equal(t, sendq.ErrClosed, idle.Err())
		var undelivered *sendq.UndeliveredError
		require.ErrorAs(t, err, &undelivered)
		require.EqualValues(t, 1, undelivered.Messages)
		require.EqualValues(t, len("stuck\n"), undelivered.Bytes)
		require.ErrorIs(t, undelivered, net.ErrClosed)
		require.ErrorIs(t, b.Register("late", sendq.NewWriter(readingPeer(), nil)), sendq.ErrClosed)
		require.NoError(t, b.Close(), "again")
	})
}

// A name is either refused or its Writer is ended: none slips through.
func TestBrokerShutdownMeetsRegister(t *testing.T) {
	for range 200 {
		b := sendq.NewBroker(nil)
		var writers [4]*sendq.Writer
		var registering sync.WaitGroup
		for i := range writers {
			registering.Go(func() {
				w := sendq.NewWriter(readingPeer(), nil)
				if err := b.Register(memberName(i), w); err != nil {
					assert.ErrorIs(t, err, sendq.ErrClosed)
					return
				}
				writers[i] = w
			})
		}
		require.NoError(t, b.Close())
		registering.Wait()
		for _, w := range writers {
			require.True(t, w == nil || hasEnded(w))
		}
		require.Zero(t, b.Len())
	}
}

// The four ways to reach many, all of whom are in "room".
var fanOuts = []struct {
	name string
	send func(b *sendq.Broker, p []byte) int
}{
	{"Broadcast", func(b *sendq.Broker, p []byte) int { return b.Broadcast(p) }},
	{"BroadcastFrom", func(b *sendq.Broker, p []byte) int { return b.BroadcastFrom("nobody", p) }},
	{"Publish", func(b *sendq.Broker, p []byte) int { return b.Room("room").Publish(p) }},
	{"PublishFrom", func(b *sendq.Broker, p []byte) int { return b.Room("room").PublishFrom("nobody", p) }},
}

// register gives name to a new Writer for conn, which the test ends.
func register(t *testing.T, b *sendq.Broker, name string, conn net.Conn) *sendq.Writer {
	t.Helper()
	w := sendq.NewWriter(conn, nil)
	t.Cleanup(func() { w.CloseNow() })
	require.NoError(t, b.Register(name, w))
	return w
}

// joinMany registers n members of "room" whose peers read.
func joinMany(t *testing.T, b *sendq.Broker, n int) []*faultconn.Conn {
	t.Helper()
	peers := make([]*faultconn.Conn, n)
	for i := range peers {
		peers[i] = readingPeer()
		register(t, b, memberName(i), peers[i])
		require.NoError(t, b.Room("room").Join(memberName(i)))
	}
	return peers
}

func memberName(i int) string { return fmt.Sprintf("member-%d", i) }

const publishers = 8

// publishAtOnce publishes n lines from each of several goroutines, in each of the
// given ways by turns. No two lines are the same.
func publishAtOnce(n int, publish ...func(p []byte) int) {
	var publishing sync.WaitGroup
	for i := range publishers {
		publishing.Go(func() {
			for j := range n {
				publish[j%len(publish)](fmt.Appendf(nil, "%d from %d\n", j, i))
			}
		})
	}
	publishing.Wait()
}

// requireSameLines checks that all peers got the same n lines in the same order.
func requireSameLines(t *testing.T, b *sendq.Broker, peers []*faultconn.Conn, n int) {
	t.Helper()
	flushAll(t, b)
	first := linesOf(peers[0])
	require.Len(t, first, n)
	for i, peer := range peers {
		require.True(t, slices.Equal(first, linesOf(peer)), "%s sees another order", memberName(i))
	}
}

// inBoth returns what is in b of a, and what is in a of b.
func inBoth(a, b []string) ([]string, []string) {
	common := make(map[string]int)
	for _, line := range slices.Concat(a, b) {
		common[line]++
	}
	once := func(line string) bool { return common[line] < 2 }
	return slices.DeleteFunc(a, once), slices.DeleteFunc(b, once)
}

// flushAll waits until all Writers have written what they have accepted.
func flushAll(t *testing.T, b *sendq.Broker) {
	t.Helper()
	for name := range b.Names() {
		w, ok := b.Lookup(name)
		require.True(t, ok)
		require.NoError(t, w.Flush(t.Context()))
	}
}

func hasEnded(w *sendq.Writer) bool {
	select {
	case <-w.Done():
		return true
	default:
		return false
	}
}

// readingPeer returns a connection that takes whatever is written.
func readingPeer() *faultconn.Conn { return faultconn.New() }

// stalledPeer returns a connection whose writes are stuck until Release or Close.
func stalledPeer() *faultconn.Conn {
	conn := faultconn.New()
	conn.Stall()
	return conn
}

// linesOf returns the lines that conn has taken.
func linesOf(conn *faultconn.Conn) []string {
	return slices.Collect(strings.Lines(string(conn.Bytes())))
}

// The sender whose message ends a Writer learns that, even if the name is free before it looks
// at it again.
func TestSenderLearnsThatItHasEndedASlowConsumer(t *testing.T) {
	b := sendq.NewBroker(nil)
	var senders sync.WaitGroup
	for g := range 8 {
		senders.Go(func() {
			for i := range 600 {
				name := fmt.Sprint(g, " ", i)
				w := sendq.NewWriter(stalledPeer(), &sendq.WriterOptions{MaxPending: 100})
				assert.NoError(t, b.Register(name, w))
				assert.NoError(t, b.Send(name, []byte("first")))
				assert.ErrorIs(t, b.Send(name, []byte("second")), sendq.ErrSlowConsumer)
			}
		})
	}
	senders.Wait()
}
