package sendq_test

import (
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/internal/faultconn"
)

// What many members of a room have pending is one copy of the messages, and those that
// keep up get theirs meanwhile.
func TestStalledMembersShareOneBacklog(t *testing.T) {
	discard := &sink{open: make(chan struct{})}
	close(discard.open)
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

// A room that is quiet keeps nothing of what was published.
func TestQuietRoomKeepsNothing(t *testing.T) {
	const rooms = 300
	b := sendq.NewBroker(nil)
	discard := &sink{open: make(chan struct{})}
	close(discard.open)
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
	require.Less(t, heap()-before, rooms*100)
	w.CloseNow()
}

// Nor does a peer with one message pending keep those of others: neither what a room keeps for
// replay nor what was sent to several names is in large blocks.
func TestFewMessagesCostLittle(t *testing.T) {
	const n = 20
	discard := &sink{open: make(chan struct{})}
	close(discard.open)
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
		b.Close()
	})
}

// A socket that was made a blocking one, which File.Fd does, holds up nobody either.
func TestBlockingSocketHoldsUpNobody(t *testing.T) {
	b := sendq.NewBroker(nil)
	var reading []*sendq.Writer
	for i := range 12 {
		conn, peer := tcpPair(t)
		if i == 0 {
			file, err := conn.(*net.TCPConn).File()
			require.NoError(t, err)
			file.Fd()
			require.NoError(t, file.Close())
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

// Names that join while others are told of it, and leave, all at once: the cost is no
// square of their number. It is counted in bytes allocated, which no noise disturbs.
func TestMassJoinIsNotQuadratic(t *testing.T) {
	cost := func(names int) int {
		b := sendq.NewBroker(nil)
		writers := make([]*sendq.Writer, names)
		for i := range writers {
			writers[i] = sendq.NewWriter(faultconn.New(), nil)
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
	discard := &sink{open: make(chan struct{})}
	close(discard.open)
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
