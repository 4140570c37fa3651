package sendq

import (
	"math"
	"net"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq/internal/faultconn"
	"github.com/sendq-go/sendq/internal/queue"
)

// Who has many Writers loses one without a look at all of them: there is an index.
func TestManyWritersHaveAnIndex(t *testing.T) {
	const many = 100
	b := NewBroker(&BrokerOptions{Names: Attach})
	defer b.Close()
	for range many {
		require.NoError(t, b.Register("bob", newIdleWriter()))
	}
	require.Equal(t, many, b.names.Get("bob").index.Len())
}

// The numbers of a large fan-out are larger than an int of 32 bits.
func TestFanOutsCountBeyondInt32(t *testing.T) {
	var f fanOuts
	f.count(math.MaxInt32, math.MaxInt32, nil)
	require.Equal(t, int64(math.MaxInt32)*math.MaxInt32, f.stats().Recipients)
}

func newIdleWriter() *Writer {
	conn, _ := net.Pipe()
	return NewWriter(conn, nil)
}

// While a message is on its way to all and to a room, everything else goes on.
func TestFanOutHoldsUpNothingElse(t *testing.T) {
	b := NewBroker(nil)
	conn, _ := net.Pipe()
	w := NewWriter(conn, nil)
	require.NoError(t, b.Register("bob", w))
	require.NoError(t, b.Room("room").Join("bob"))

	b.all.order.Lock() // as the fan-out does, which is in the midst of its recipients
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

// whileLocked runs f in a goroutine, which sends to the only Writer of n, and calls meanwhile with
// the Writer locked, when f has looked who has the name. It returns when f has.
func whileLocked(n *named, f, meanwhile func()) {
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

// If the name is taken over while a room replays to it, the new Writer gets the replay.
func TestReplayDuringTakeover(t *testing.T) {
	b := NewBroker(nil)
	old, next := NewWriter(faultconn.New(), nil), NewWriter(faultconn.New(), nil)
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

// A message that ends a slow Writer is refused for that reason, although the name is free by the
// time the sender looks.
func TestSlowConsumerWhoseNameIsFree(t *testing.T) {
	b := NewBroker(nil)
	w := NewWriter(faultconn.New(), nil)
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

// Nobody claims a name that a Writer has got since the call of Register looked.
func TestClaimOfANameThatIsTaken(t *testing.T) {
	b := NewBroker(nil)
	require.NoError(t, b.Register("bob", NewWriter(faultconn.New(), nil)))
	b.cluster = newCluster(nil)
	_, err := b.beginClaim("bob", NewWriter(faultconn.New(), nil))
	require.Equal(t, errChanged, err)
}

// The count of takeovers by one Writer does not overflow.
func TestHoldIsBounded(t *testing.T) {
	w := NewWriter(faultconn.New(), nil)
	w.paused = math.MaxInt16
	require.False(t, w.pause())
}
