package sendq_test

import (
	"context"
	"net"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
)

// The new Writer has the name while the old one is still ending, and writes nothing new before the
// old one's messages.
func TestTakeoverMeanwhile(t *testing.T) {
	for _, tt := range []struct {
		name string
		opts *sendq.WriterOptions // of the new Writer
		test func(t *testing.T, u takeover)
	}{
		{"the name is the new Writer's", nil, func(t *testing.T, u takeover) {
			u.begin()
			requireHas(t, u.b, "bob", u.w)
			require.ErrorIs(t, u.b.Register("bob", u.w), sendq.ErrNameTaken)
			later := sendInAllWays(t, u.b, "later")
			synctest.Wait()
			require.Zero(t, u.w.Stats().Writes, "before what the old one leaves")
			require.False(t, hasEnded(u.old))
			u.end()
			requireReceived(t, u, slices.Concat(u.left, later)...)
		}},
		{"what is not begun waits", nil, func(t *testing.T, u takeover) {
			u.w.WriteString("begun\n")
			synctest.Wait()
			u.w.WriteString("waiting\n")
			u.begin()
			requireTake(t, u.peer, "begun\n")
			synctest.Wait()
			u.end()
			requireReceived(t, u, "old 0\n", "old 1\n", "waiting\n")
		}},
		{"the age of what waits", framed, func(t *testing.T, u takeover) {
			u.w.WriteString("begun\n")
			synctest.Wait()
			u.w.WriteString("waiting\n")
			time.Sleep(time.Second)
			u.w.Stats() // takes a sample
			u.begin()
			u.end()
			time.Sleep(time.Hour)
			requireTake(t, u.peer, "begun\nold 0\nold 1\n")
			synctest.Wait()
			s := u.w.Stats()
			require.EqualValues(t, 1, s.Pending)
			require.Equal(t, time.Hour, s.OldestPending)
			requireReceived(t, u, "waiting\n")
		}},
		{"Flush", nil, func(t *testing.T, u takeover) {
			u.w.WriteString("begun\n")
			synctest.Wait()
			begun := async(func() error { return u.w.Flush(t.Context()) })
			synctest.Wait()
			u.w.WriteString("waiting\n")
			waiting := async(func() error { return u.w.Flush(t.Context()) })
			oldFlush := async(func() error { return u.old.Flush(t.Context()) })
			u.begin()
			u.w.WriteString("later\n")
			u.end()
			require.ErrorIs(t, <-oldFlush, sendq.ErrTakenOver)

			requireTake(t, u.peer, "begun\n")
			require.NoError(t, <-begun, "whatever comes next")
			requireTake(t, u.peer, "old 0\nold 1\nwaiting")
			synctest.Wait()
			require.Empty(t, waiting)
			requireTake(t, u.peer, "\n")
			require.NoError(t, <-waiting)
			requireReceived(t, u, "later\n")
		}},
		{"WaitPending", nil, func(t *testing.T, u takeover) {
			u.w.WriteString("begun\n")
			synctest.Wait()
			u.w.WriteString("waiting\n")
			none := async(func() error { return u.w.WaitPending(t.Context(), 0) })
			few := async(func() error { return u.w.WaitPending(t.Context(), len("waiting\n")) })
			synctest.Wait()
			u.begin()
			u.end()
			for _, part := range []string{"begun\n", "old 0\nold 1", "\n"} {
				synctest.Wait()
				require.Empty(t, none, "before %q", part)
				require.Empty(t, few, "before %q", part)
				requireTake(t, u.peer, part)
			}
			requireReceived(t, u, "waiting\n")
			require.NoError(t, <-few)
			require.NoError(t, <-none)
		}},
		{"Close", nil, func(t *testing.T, u takeover) {
			u.w.WriteString("begun\n")
			synctest.Wait()
			u.begin()
			closed := async(u.w.Close)
			received := async(func() content { return readAll(u.peer) })
			synctest.Wait()
			require.Empty(t, closed)
			u.end()
			require.NoError(t, <-closed)
			require.Equal(t, content{bytes: "begun\nold 0\nold 1\n"}, <-received)
		}},
		// Close waits for the old Writer, although there is nothing to write yet.
		{"Close of an idle one", nil, func(t *testing.T, u takeover) {
			u.begin()
			closed := async(u.w.Close)
			received := async(func() content { return readAll(u.peer) })
			synctest.Wait()
			require.Empty(t, closed)
			u.end()
			require.NoError(t, <-closed)
			require.Equal(t, content{bytes: "old 0\nold 1\n"}, <-received)
		}},
		{"the new Writer ends", nil, func(t *testing.T, u takeover) {
			u.begin()
			require.NoError(t, u.b.Send("bob", []byte("own\n")))
			u.w.CloseNow()
			require.Zero(t, u.b.Len())
			u.end()
			synctest.Wait()
			require.ElementsMatch(t, []handBack{
				{"bob", []string{"own\n"}, sendq.ErrClosed},
				{"bob", u.left, sendq.ErrTakenOver},
			}, u.returned.all())
			requireTakenOver(t, u.old, u.left)
			assertConserved(t, u.w.Stats())
		}},
		{"the new Writer loses the name", nil, func(t *testing.T, u takeover) {
			u.begin()
			require.False(t, u.b.Unregister("bob", u.old))
			require.True(t, u.b.Unregister("bob", u.w))
			other := register(t, u.b, "bob", readingPeer())
			u.end()
			requireReceived(t, u, u.left...)
			requireHas(t, u.b, "bob", other)
		}},
		{"the next takeover", nil, func(t *testing.T, u takeover) {
			u.begin()
			require.NoError(t, u.b.Send("bob", []byte("to the second\n")))
			peer := readingPeer()
			third := sendq.NewWriter(peer, nil)
			registered := async(func() error { return u.b.Register("bob", third) })
			for range 1000 {
				runtime.Gosched() // Register waits for a mutex, and synctest.Wait does not see that
			}
			require.Empty(t, registered)
			u.end()
			require.NoError(t, <-registered)
			require.NoError(t, third.Close())
			require.Equal(t, []string{"old 0\n", "old 1\n", "to the second\n"}, linesOf(peer))
			requireTakenOver(t, u.w, linesOf(peer))
		}},
		{"a batch", nil, func(t *testing.T, u takeover) {
			u.begin()
			batch := u.b.NewBatch()
			batch.Send("bob", []byte("a\n"))
			batch.Broadcast([]byte("b\n"))
			require.Equal(t, 2, batch.Flush().Accepted)
			synctest.Wait()
			require.Zero(t, u.w.Stats().Writes)
			u.end()
			requireReceived(t, u, "old 0\n", "old 1\n", "a\n", "b\n")
		}},
		{"Shutdown delivers", nil, func(t *testing.T, u takeover) {
			u.begin()
			down := async(func() error { return u.b.Shutdown(t.Context()) })
			received := async(func() content { return readAll(u.peer) })
			synctest.Wait()
			require.Empty(t, down)
			u.end()
			require.NoError(t, <-down)
			require.Equal(t, content{bytes: "old 0\nold 1\n"}, <-received)
		}},
		{"Shutdown returns after the last call of OnUndelivered", nil, func(t *testing.T, u takeover) {
			u.begin()
			down := async(func() error {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				err := u.b.Shutdown(ctx)
				assert.Equal(t, []handBack{{"bob", u.left, sendq.ErrTakenOver}}, u.returned.all())
				return err
			})
			time.Sleep(2 * time.Second)
			u.end()
			<-down
		}},
	} {
		t.Run(tt.name, func(t *testing.T) { inTakeoverWith(t, tt.opts, tt.test) })
	}
}

// A node that takes a name over during a local takeover gets the messages of both Writers.
func TestEvictionDuringTakeover(t *testing.T) {
	var returned handBacks
	node, b := alone(t, &sendq.BrokerOptions{Names: sendq.Takeover, OnUndelivered: returned.add})
	conn, releaseClose := stalledClose()
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
	releaseClose()
	require.Equal(t, [][]byte{[]byte("old\n"), []byte("new\n")}, (<-evicted).Undelivered)
	require.NoError(t, <-registered)
	require.NoError(t, b.Close())
	require.Empty(t, returned.all())
}

// A takeover is in progress from begin to end.
type takeover struct {
	b          *sendq.Broker
	returned   *handBacks
	old        *sendq.Writer
	left       []string // the messages of old, stuck in the first
	w          *sendq.Writer
	peer       net.Conn // of w
	begin, end func()
}

func inTakeover(t *testing.T, test func(t *testing.T, u takeover)) {
	inTakeoverWith(t, nil, test)
}

// inTakeoverWith runs test in a bubble. The new Writer has the options, and gets the name at begin.
func inTakeoverWith(t *testing.T, opts *sendq.WriterOptions, test func(t *testing.T, u takeover)) {
	synctest.Test(t, func(t *testing.T) {
		b, returned := newBroker(sendq.Takeover)
		conn, releaseClose := stalledClose()
		old := register(t, b, "bob", conn)
		t.Cleanup(releaseClose)
		require.NoError(t, b.Room("room").Join("bob"))
		left := []string{"old 0\n", "old 1\n"}
		for _, line := range left {
			require.NoError(t, b.Send("bob", []byte(line)))
		}
		w, peer := overPipe(t, opts)
		var registered <-chan error
		begin := func() {
			registered = async(func() error { return b.Register("bob", w) })
			synctest.Wait()
			require.Empty(t, registered)
		}
		end := func() {
			releaseClose()
			require.NoError(t, <-registered)
		}
		test(t, takeover{b, returned, old, left, w, peer, begin, end})
	})
}

// requireReceived closes the new Writer and requires the lines at its peer.
func requireReceived(t *testing.T, u takeover, want ...string) {
	t.Helper()
	received := async(func() content { return readAll(u.peer) })
	require.NoError(t, u.w.Close())
	require.Equal(t, content{bytes: strings.Join(want, "")}, <-received)
	requireTakenOver(t, u.old, u.left)
	assertConserved(t, u.w.Stats())
	require.Empty(t, u.returned.all())
}
