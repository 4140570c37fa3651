package sendq_test

import (
	"fmt"
	"io"
	"maps"
	"net"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"unsafe"
	"weak"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/sendqtest"
)

// Guarantee 11: a fan-out copies a message at most once, whatever the number of recipients. The
// test runs in a bubble, so waiting for a stalled recipient is a deadlock and fails the test at
// once.
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
	// The first messages start the flushers and make the queues grow.
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

	// All members have the same copy.
	copies := make(map[*byte]bool)
	for _, w := range writers {
		w.CloseNow()
		undelivered := slices.Collect(w.Undelivered())
		require.Len(t, undelivered, 4)
		copies[unsafe.SliceData(undelivered[3])] = true
	}
	require.Len(t, copies, 1)
}

func TestBrokerBroadcastOneOrder(t *testing.T) {
	b := sendq.NewBroker(nil)
	peers := joinMany(t, b, 40)
	publishAtOnce(200, b.Broadcast, func(p []byte) int { return b.BroadcastFrom("nobody", p) })
	requireSameLines(t, b, peers, 200*publishers)
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
			peers := make(map[string]*sendqtest.Conn)
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

// Stalled members of a room share one copy of the pending messages, and other members keep up.
func TestStalledMembersShareOneBacklog(t *testing.T) {
	discard := discarded()
	for _, tt := range []struct{ members, stalled, size int }{
		{200, 10, 64}, {100, 100, 64}, {50, 50, 10 << 10}, {50, 50, 40 << 10},
	} {
		t.Run(fmt.Sprint(tt), func(t *testing.T) {
			const backlog = 4 << 20
			warmUp(tt.members)
			b := sendq.NewBroker(nil)
			room := b.Room("room")
			var reading []*sendq.Writer
			for i := range tt.members {
				conn := net.Conn(discard)
				if i < tt.stalled {
					conn = stalledPeer()
				}
				w := register(t, b, memberName(i), conn)
				require.NoError(t, room.Join(memberName(i)))
				if i >= tt.stalled {
					reading = append(reading, w)
				}
			}
			require.Equal(t, tt.members, room.Publish([]byte("the first starts the flushers")))
			before := heap()
			message := make([]byte, tt.size)
			batch := b.NewBatch()
			for n := 0; n < backlog; n += tt.size {
				batch.Publish("room", message)
				if batch.Len() == 1000 || n+tt.size >= backlog {
					batch.Flush()
					for _, w := range reading { // the others keep up
						require.NoError(t, w.Flush(t.Context()))
					}
				}
			}
			used := heap() - before
			t.Logf("%.3f of one backlog", float64(used)/backlog)
			require.Greater(t, used, backlog)
			require.Less(t, used, backlog*12/10+1<<10*tt.members)
			for i := range tt.stalled {
				w, ok := b.Lookup(memberName(i))
				require.True(t, ok)
				require.GreaterOrEqual(t, w.Stats().PendingBytes, int64(backlog))
			}
			for i := range tt.members {
				w, _ := b.Lookup(memberName(i))
				w.CloseNow()
			}
		})
	}
}

// A quiet room keeps no memory of published messages.
func TestQuietRoomKeepsNothing(t *testing.T) {
	const rooms = 300
	b := sendq.NewBroker(nil)
	discard := discarded()
	w := register(t, b, "bob", discard)
	for i := range rooms {
		require.NoError(t, b.Room(memberName(i)).Join("bob"))
	}
	publish := func(n int) {
		for i := range rooms {
			for range n {
				b.Room(memberName(i)).Publish(make([]byte, 100))
			}
		}
		require.NoError(t, w.Flush(t.Context()))
	}
	publish(1)
	before := heap()
	publish(100)
	require.Less(t, heap()-before, rooms*300, "the smallest block has 512 bytes")
	w.CloseNow()
}

// A peer with one pending message does not keep other messages alive: the history of a room and the
// messages of SendTo are not in large blocks.
func TestFewMessagesCostLittle(t *testing.T) {
	const n = 20
	discard := discarded()
	message := make([]byte, 64)
	warmUp(n)

	t.Run("replay", func(t *testing.T) {
		b := sendq.NewBroker(&sendq.BrokerOptions{ReplayMessages: 10, ReplayBytes: 1024})
		w := register(t, b, "bob", discard)
		before := heap()
		for i := range n {
			room := b.Room(fmt.Sprint(i))
			require.NoError(t, room.Join("bob"))
			for range 3000 {
				room.Publish(message)
			}
		}
		require.NoError(t, w.Flush(t.Context()))
		require.Less(t, heap()-before, n*(10<<10)+64<<10)
		w.CloseNow()
	})

	t.Run("SendTo", func(t *testing.T) {
		b := sendq.NewBroker(nil)
		register(t, b, "reading", discard)
		before := heap()
		for i := range n {
			register(t, b, memberName(i), stalledPeer())
			b.SendTo([]string{memberName(i)}, message)
			for range 500 {
				b.SendTo([]string{"reading"}, message)
			}
		}
		require.Less(t, heap()-before, n*(10<<10)+64<<10)
		b.CloseNow()
	})
}

// A socket in blocking mode, as File.Fd leaves it, delays no other recipient.
func TestBlockingSocketHoldsUpNobody(t *testing.T) {
	b := sendq.NewBroker(nil)
	var reading []*sendq.Writer
	for i := range 12 {
		conn, peer := tcpPair(t)
		if i == 0 {
			makeBlocking(t, conn)
			defer peer.Close() // ends the write that Close of conn cannot
		} else {
			go io.Copy(io.Discard, peer)
		}
		if w := register(t, b, memberName(i), conn); i > 0 {
			reading = append(reading, w)
		}
	}
	for range 100 {
		require.Equal(t, 12, b.Broadcast(make([]byte, 200<<10)))
		for _, w := range reading {
			require.NoError(t, w.Flush(t.Context()))
		}
	}
}

// The list of idle Writers that a large fan-out has used keeps no Writer alive, although the next
// fan-out reuses it.
func TestFanOutForgets(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // one pool, so that it is used again
	b := sendq.NewBroker(nil)
	var ended []weak.Pointer[sendq.Writer]
	func() {
		var writers []*sendq.Writer
		for i := range 100 {
			w := sendq.NewWriter(readingPeer(), nil)
			require.NoError(t, b.Register(memberName(i), w))
			writers = append(writers, w)
		}
		require.Equal(t, len(writers), b.Broadcast([]byte("message")))
		for _, w := range writers {
			require.NoError(t, w.Close())
			ended = append(ended, weak.Make(w))
		}
	}()
	last := register(t, b, "last", readingPeer())
	for range 10 {
		require.Equal(t, 1, b.Broadcast([]byte("message")))
		require.NoError(t, last.Flush(t.Context()))
		runtime.GC()
	}
	for i, w := range ended {
		require.Nil(t, w.Value(), "Writer %d is kept", i)
	}
	require.NoError(t, last.Close())
}

// A Report without refusals allocates nothing, and neither does a recipient of a fan-out.
func TestFanOutAllocatesNothing(t *testing.T) {
	b := sendq.NewBroker(nil)
	names := make([]string, 20)
	for i := range names {
		names[i] = memberName(i)
		conn := sendqtest.NewConn()
		waiting := conn.Stall()
		register(t, b, names[i], conn).WriteString("stuck")
		<-waiting
		require.NoError(t, b.Room("room").Join(names[i]))
	}
	message := make([]byte, 64)
	fanOuts := map[string]func(){
		"SendTo":      func() { b.SendTo(names, message) },
		"Send":        func() { b.Send(names[0], message) },
		"Publish":     func() { b.Room("room").Publish(message) },
		"PublishFrom": func() { b.Room("room").PublishFrom(names[3], message) },
		"Broadcast":   func() { b.Broadcast(message) },
	}
	for _, name := range slices.Sorted(maps.Keys(fanOuts)) {
		for range 1000 {
			fanOuts[name]() // until the lists of segments are long
		}
		if name != "SendTo" { // has short blocks, so short segments
			// Thousands of messages share one block.
			require.Less(t, bytesPerRun(1000, fanOuts[name]), float64(3*64), name)
		}
		require.Zero(t, testing.AllocsPerRun(1000, fanOuts[name]), name)
	}
	for _, name := range names {
		w, _ := b.Lookup(name)
		w.CloseNow()
	}
}

func bytesPerRun(runs int, f func()) float64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range runs {
		f()
	}
	runtime.ReadMemStats(&after)
	return float64(after.TotalAlloc-before.TotalAlloc) / float64(runs)
}
