package sendq_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/sendqtest"
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

	// The old Writer has many names, so its end takes a while and reaches "bob" after another
	// Writer has got that name.
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

func TestNamePolicy(t *testing.T) {
	require.Equal(t, []string{"Reject", "Takeover", "Attach", "NamePolicy(3)"},
		[]string{sendq.NameReject.String(), sendq.NameTakeover.String(), sendq.NameAttach.String(), sendq.NamePolicy(3).String()})
	require.PanicsWithValue(t, "sendq: NewBroker: no such NamePolicy: NamePolicy(3)",
		func() { sendq.NewBroker(&sendq.BrokerOptions{NamePolicy: 3}) })

	b, _ := newBroker(sendq.NameReject)
	w := register(t, b, "bob", readingPeer())
	other := sendq.NewWriter(readingPeer(), nil)
	require.ErrorIs(t, b.Register("bob", other), sendq.ErrNameTaken)
	require.ErrorContains(t, b.Register("bob", w), `"bob"`)
	requireHas(t, b, "bob", w)
	require.False(t, hasEnded(w) || hasEnded(other))
	w.CloseNow()
	require.NoError(t, b.Register("bob", other))
	other.CloseNow()
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

	require.NoError(t, b.CloseNow())
	require.ErrorIs(t, b.Register("carol", other), sendq.ErrClosed)
	require.ErrorIs(t, b.Register("carol", other), net.ErrClosed)
	require.NoError(t, other.Close())
}

// However the end of a Writer and its registration interleave, no name remains.
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
				conn.FailAfter(0, refused)
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
			// Removing many names takes a while, and Done must wait for it.
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

			// The name is free, and its new Writer is in no room.
			register(t, b, memberName(0), readingPeer())
			require.Zero(t, room.Len())
		})
	}
}

// However an old Writer ends, its successor keeps the name and the rooms.
func TestOldEndNeverTouchesSuccessor(t *testing.T) {
	const names, rounds = 4, 100
	for _, policy := range []sendq.NamePolicy{sendq.NameTakeover, sendq.NameAttach} {
		t.Run(policy.String(), func(t *testing.T) {
			b, _ := newBroker(policy)
			ctx, stop := context.WithCancel(t.Context())
			var sending, running sync.WaitGroup
			for range 2 {
				sending.Go(func() {
					for ctx.Err() == nil {
						b.Broadcast([]byte("to all\n"))
						b.Room("room").Publish([]byte("to the room\n"))
						b.Send("0", []byte("to one\n"))
						runtime.Gosched()
					}
				})
			}
			for i := range names {
				name := fmt.Sprint(i)
				running.Go(func() {
					old := sendq.NewWriter(readingPeer(), nil)
					assert.NoError(t, b.Register(name, old))
					for round := range rounds {
						var ending sync.WaitGroup
						switch round % 4 {
						case 0:
							ending.Go(func() { old.CloseNow() })
						case 1:
							ending.Go(func() { old.Close() })
						case 2:
							ending.Go(func() { b.Unregister(name, old) })
						}
						w := sendq.NewWriter(oneOf(readingPeer, stalledPeer)(), &sendq.WriterOptions{CloseTimeout: time.Millisecond})
						assert.NoError(t, b.Register(name, w))
						assert.NoError(t, b.Room("room").Join(name))
						ending.Wait()
						if policy == sendq.NameAttach || round%4 == 2 {
							old.CloseNow()
						}
						assert.True(t, hasEnded(old))
						assert.False(t, b.Unregister(name, old))
						got, _ := b.Lookup(name)
						assert.Same(t, w, got)
						assert.False(t, hasEnded(w))
						assert.True(t, b.Room("room").Has(name))
						old = w
					}
					old.CloseNow()
				})
			}
			running.Wait()
			stop()
			sending.Wait()
			require.Zero(t, b.Len())
			require.Zero(t, b.Room("room").Len())
		})
	}
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

// A Writer with many names loses one as fast as it gets one.
func TestWriterWithManyNames(t *testing.T) {
	names := sized(100_000)
	b := sendq.NewBroker(nil)
	w := sendq.NewWriter(readingPeer(), nil)
	for i := range names {
		require.NoError(t, b.Register(memberName(i), w))
	}
	for i := range names {
		require.True(t, b.Unregister(memberName(i), w))
	}
	for i := range names {
		require.NoError(t, b.Register(memberName(i), w))
	}
	w.CloseNow()
	require.Zero(t, b.Len())
}

// An iteration covers the names that existed when it began. The loop may call any method and may
// stop at any time.
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

// Any string is a name, and none has a special meaning.
func TestBrokerOddNames(t *testing.T) {
	odd := []string{"", "*", ">", "#x", "a.b", "a, b", "line\nbreak", "\x00", "\xff", "é", "e\u0301", strings.Repeat("long", 1<<16)}
	b := sendq.NewBroker(nil)
	peers := make(map[string]*sendqtest.Conn)
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
