package sendq

import (
	"math"
	"net"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq/internal/queue"
	"github.com/sendq-go/sendq/sendqtest"
)

// A name with many Writers has an index, so removing one does not search all.
func TestManyWritersHaveAnIndex(t *testing.T) {
	const many = 100
	b := NewBroker(&BrokerOptions{NamePolicy: NameAttach})
	defer b.CloseNow()
	for range many {
		require.NoError(t, b.Register("bob", newIdleWriter()))
	}
	require.Equal(t, many, b.names.Get("bob").index.Len())
}

// The counts of large fan-outs exceed 32 bits.
func TestFanOutsCountBeyondInt32(t *testing.T) {
	var f fanOuts
	f.count(math.MaxInt32, math.MaxInt32)
	require.Equal(t, int64(math.MaxInt32)*math.MaxInt32, f.stats().Recipients)
}

func newIdleWriter() *Writer {
	conn, _ := net.Pipe()
	return NewWriter(conn, nil)
}

// A fan-out in progress, to all or to a room, delays no other operation.
func TestFanOutHoldsUpNothingElse(t *testing.T) {
	b := NewBroker(nil)
	conn, _ := net.Pipe()
	w := NewWriter(conn, nil)
	require.NoError(t, b.Register("bob", w))
	require.NoError(t, b.Room("room").Join("bob"))

	b.all.order.Lock() // as a fan-out in progress does
	b.rooms.Get("room").order.Lock()
	require.NoError(t, b.Send("bob", []byte("direct")))
	require.Equal(t, 1, b.SendTo([]string{"bob", "carol"}, []byte("to several")).Accepted)
	otherConn, _ := net.Pipe()
	other := NewWriter(otherConn, nil)
	require.NoError(t, b.Register("carol", other))
	require.NoError(t, b.Room("room").Join("carol"))
	require.Equal(t, 2, b.Room("room").Len())
	require.True(t, b.Room("room").Leave("carol"))
	require.NoError(t, b.Room("other").Join("carol"))
	require.Equal(t, 1, b.Room("other").Publish([]byte("another room")))
	w.CloseNow()
	require.Equal(t, 1, b.Len())
	b.all.order.Unlock()
	require.True(t, b.Unregister("carol", other))
	other.CloseNow()
}

// whileLocked runs f, which sends to the only Writer of n, in a goroutine. After f has looked up
// the Writers of the name, whileLocked calls meanwhile with the Writer locked. It returns after f.
func whileLocked(n *member, f, meanwhile func()) {
	w := n.first.writer
	w.mu.Lock()
	n.writers.Store(nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	for n.writers.Load() == nil {
		runtime.Gosched()
	}
	meanwhile()
	w.mu.Unlock()
	<-done
}

// If a takeover happens while a room replays to the name, the new Writer gets the replay.
func TestReplayDuringTakeover(t *testing.T) {
	b := NewBroker(nil)
	old, next := NewWriter(sendqtest.NewConn(), nil), NewWriter(sendqtest.NewConn(), nil)
	require.NoError(t, b.Register("bob", old))
	n := b.names.Get("bob")
	g := &group{kept: queue.History{MaxMessages: 1}}
	g.kept.Add(queue.Lone([]byte("hello\n")))
	whileLocked(n, func() {
		idle := newWakeList()
		defer idle.done()
		require.Equal(t, 1, g.replay(n, 1, idle))
	}, func() {
		old.state = closing
		n.writers.Store(&[]*Writer{next})
	})
	require.NoError(t, next.Close())
	require.EqualValues(t, 1, next.Stats().Written)
}

// A message that ends a slow Writer is refused with ErrSlowConsumer, even if the name is free when
// the sender looks again.
func TestSlowConsumerWhoseNameIsFree(t *testing.T) {
	b := NewBroker(nil)
	w := NewWriter(sendqtest.NewConn(), nil)
	require.NoError(t, b.Register("bob", w))
	n := b.names.Get("bob")
	whileLocked(n, func() {
		m := copyOf([]byte("hello\n"))
		accepted, err := n.deliver(&m, nil)
		require.Zero(t, accepted)
		require.ErrorIs(t, err, ErrSlowConsumer)
	}, func() {
		w.state, w.err = aborting, ErrSlowConsumer
		n.writers.Store(&[]*Writer{})
	})
}
