package sendq_test

import (
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
)

// A Writer that is closed while it takes a name over, and whose write under way ends only then,
// waits for what the old one leaves all the same.
func TestTakeoverByOneThatClosesDuringAWrite(t *testing.T) {
	inTakeover(t, func(t *testing.T, u underWay) {
		u.w.WriteString("begun\n")
		synctest.Wait()
		u.begin()
		closed := async(u.w.Close)
		synctest.Wait()
		requireTake(t, u.peer, "begun\n")
		synctest.Wait()
		require.Empty(t, closed)
		received := async(func() content { return readAll(u.peer) })
		u.end()
		require.NoError(t, <-closed)
		require.Equal(t, content{bytes: "old 0\nold 1\n"}, <-received)
		requireTakenOver(t, u.old, u.left)
		require.Empty(t, u.returned.all())
	})
}

// Two Writers that take two names of one over, before it has ended, do not both get what it
// leaves.
func TestTakeoverOfTwoNamesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, returned := newBroker(sendq.Takeover)
		conn, letGo := lingering()
		defer letGo()
		old := register(t, b, "bob", conn)
		require.NoError(t, b.Register("robert", old))
		require.NoError(t, b.Send("bob", []byte("to bob\n")))
		require.NoError(t, b.Send("robert", []byte("to robert\n")))
		bobs, roberts := readingPeer(), readingPeer()
		bob, robert := sendq.NewWriter(bobs, nil), sendq.NewWriter(roberts, nil)
		registeredBob := async(func() error { return b.Register("bob", bob) })
		registeredRobert := async(func() error { return b.Register("robert", robert) })
		synctest.Wait()
		requireHas(t, b, "bob", bob)
		requireHas(t, b, "robert", robert)
		letGo()
		require.NoError(t, <-registeredBob)
		require.NoError(t, <-registeredRobert)
		require.NoError(t, bob.Close())
		require.NoError(t, robert.Close())
		require.Equal(t, []string{"to bob\n", "to robert\n"}, slices.Concat(linesOf(bobs), linesOf(roberts)))
		synctest.Wait()
		require.Empty(t, returned.all())
	})
}

// A Writer that is closed while it takes over a name, of which nothing is left, ends when the
// takeover does, and not at its CloseTimeout.
func TestTakeoverOfNothingByOneThatIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := newBroker(sendq.Takeover)
		conn, letGo := lingering()
		register(t, b, "bob", conn)
		w, _ := overPipe(t, nil)
		registered := async(func() error { return b.Register("bob", w) })
		synctest.Wait()
		closed := async(w.Close)
		synctest.Wait()
		letGo()
		require.NoError(t, <-registered)
		began := time.Now()
		require.NoError(t, <-closed)
		require.Zero(t, time.Since(began))
	})
}

// What comes of a takeover never counts at MaxPending, also when the message in front of it, which
// was being written, has gone.
func TestTakeoverBehindAMessageAndMaxPending(t *testing.T) {
	inTakeoverBy(t, &sendq.WriterOptions{MaxPending: 1000}, func(t *testing.T, u underWay) {
		require.NoError(t, u.w.Send(make([]byte, 500)))
		synctest.Wait()
		u.begin()
		u.end()
		take(t, u.peer, 500)
		synctest.Wait()
		require.NoError(t, u.w.Send(counted(1000)))
		require.NoError(t, u.w.CloseNow())
	})
}

// A Broker that is being shut down lets nobody take over from a Writer that is not done yet.
func TestNoTakeoverDuringShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := newBroker(sendq.Takeover)
		conn := stalledPeer()
		w := register(t, b, "bob", conn)
		require.NoError(t, b.Send("bob", []byte("hello\n")))
		down := async(func() error { return b.Shutdown(t.Context()) })
		synctest.Wait()
		require.ErrorIs(t, b.Register("bob", sendq.NewWriter(readingPeer(), nil)), sendq.ErrClosed)
		requireHas(t, b, "bob", w)
		conn.Release()
		require.NoError(t, <-down)
	})
}

// A node that takes a name over during a takeover here gets what both Writers leave.
func TestEvictionDuringTakeover(t *testing.T) {
	var returned handBacks
	node, b := alone(t, &sendq.BrokerOptions{Names: sendq.Takeover, OnUndelivered: returned.add})
	conn, letGo := lingering()
	old := register(t, b, "bob", conn)
	require.NoError(t, b.Send("bob", []byte("old\n")))
	w := sendq.NewWriter(stalledPeer(), nil)
	registered := async(func() error { return b.Register("bob", w) })
	for old.Err() == nil {
		runtime.Gosched()
	}
	require.NoError(t, b.Send("bob", []byte("new\n")))
	evicted := async(func() (e sendq.Estate) {
		e, _ = node.Evict("bob", "other")
		return e
	})
	for range 1000 {
		runtime.Gosched() // Evict could return now, and must not
	}
	letGo()
	require.Equal(t, [][]byte{[]byte("old\n"), []byte("new\n")}, (<-evicted).Undelivered)
	require.NoError(t, <-registered)
	require.NoError(t, b.Close())
	require.Empty(t, returned.all())
}
