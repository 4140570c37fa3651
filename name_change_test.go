package sendq

import (
	"math"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq/internal/faultconn"
	"github.com/sendq-go/sendq/internal/queue"
)

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
