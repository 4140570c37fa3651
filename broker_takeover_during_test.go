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
	"github.com/sendq-go/sendq/relay"
)

// The new Writer has the name while the old one is still ending, and writes nothing new before the
// old one's messages.
func TestTakeoverMeanwhile(t *testing.T) {
	for _, tt := range []struct {
		name string
		opts *sendq.WriterOptions // of the new Writer
		test func(t *testing.T, tk takeover)
	}{
		{"the name is the new Writer's", nil, func(t *testing.T, tk takeover) {
			tk.begin()
			requireHas(t, tk.b, "bob", tk.w)
			require.ErrorIs(t, tk.b.Register("bob", tk.w), sendq.ErrNameTaken)
			later := sendInAllWays(t, tk.b, "later")
			synctest.Wait()
			require.Zero(t, tk.w.Stats().Writes, "before what the old one leaves")
			require.False(t, hasEnded(tk.old))
			tk.end()
			requireReceived(t, tk, slices.Concat(tk.left, later)...)
		}},
		{"what is not begun waits", nil, func(t *testing.T, tk takeover) {
			tk.w.WriteString("begun\n")
			synctest.Wait()
			tk.w.WriteString("waiting\n")
			tk.begin()
			requireTake(t, tk.peer, "begun\n")
			synctest.Wait()
			tk.end()
			requireReceived(t, tk, "old 0\n", "old 1\n", "waiting\n")
		}},
		{"the age of what waits", framed, func(t *testing.T, tk takeover) {
			tk.w.WriteString("begun\n")
			synctest.Wait()
			tk.w.WriteString("waiting\n")
			time.Sleep(time.Second)
			tk.w.Stats() // takes a sample
			tk.begin()
			tk.end()
			time.Sleep(time.Hour)
			requireTake(t, tk.peer, "begun\nold 0\nold 1\n")
			synctest.Wait()
			s := tk.w.Stats()
			require.EqualValues(t, 1, s.Pending)
			require.Equal(t, time.Hour, s.OldestPending)
			requireReceived(t, tk, "waiting\n")
		}},
		{"Flush", nil, func(t *testing.T, tk takeover) {
			tk.w.WriteString("begun\n")
			synctest.Wait()
			begun := async(func() error { return tk.w.Flush(t.Context()) })
			synctest.Wait()
			tk.w.WriteString("waiting\n")
			waiting := async(func() error { return tk.w.Flush(t.Context()) })
			oldFlush := async(func() error { return tk.old.Flush(t.Context()) })
			tk.begin()
			tk.w.WriteString("later\n")
			tk.end()
			require.ErrorIs(t, <-oldFlush, sendq.ErrTakenOver)

			requireTake(t, tk.peer, "begun\n")
			require.NoError(t, <-begun, "whatever comes next")
			requireTake(t, tk.peer, "old 0\nold 1\nwaiting")
			synctest.Wait()
			require.Empty(t, waiting)
			requireTake(t, tk.peer, "\n")
			require.NoError(t, <-waiting)
			requireReceived(t, tk, "later\n")
		}},
		{"WaitPending", nil, func(t *testing.T, tk takeover) {
			tk.w.WriteString("begun\n")
			synctest.Wait()
			tk.w.WriteString("waiting\n")
			none := async(func() error { return tk.w.WaitPending(t.Context(), 0) })
			few := async(func() error { return tk.w.WaitPending(t.Context(), len("waiting\n")) })
			synctest.Wait()
			tk.begin()
			tk.end()
			for _, part := range []string{"begun\n", "old 0\nold 1", "\n"} {
				synctest.Wait()
				require.Empty(t, none, "before %q", part)
				require.Empty(t, few, "before %q", part)
				requireTake(t, tk.peer, part)
			}
			requireReceived(t, tk, "waiting\n")
			require.NoError(t, <-few)
			require.NoError(t, <-none)
		}},
		{"Close", nil, func(t *testing.T, tk takeover) {
			tk.w.WriteString("begun\n")
			synctest.Wait()
			tk.begin()
			closed := async(tk.w.Close)
			received := async(func() content { return readAll(tk.peer) })
			synctest.Wait()
			require.Empty(t, closed)
			tk.end()
			require.NoError(t, <-closed)
			require.Equal(t, content{bytes: "begun\nold 0\nold 1\n"}, <-received)
		}},
		// Close waits for the old Writer, although there is nothing to write yet.
		{"Close of an idle one", nil, func(t *testing.T, tk takeover) {
			tk.begin()
			closed := async(tk.w.Close)
			received := async(func() content { return readAll(tk.peer) })
			synctest.Wait()
			require.Empty(t, closed)
			tk.end()
			require.NoError(t, <-closed)
			require.Equal(t, content{bytes: "old 0\nold 1\n"}, <-received)
		}},
		{"the new Writer ends", nil, func(t *testing.T, tk takeover) {
			tk.begin()
			require.NoError(t, tk.b.Send("bob", []byte("own\n")))
			tk.w.CloseNow()
			require.Zero(t, tk.b.Len())
			tk.end()
			synctest.Wait()
			require.ElementsMatch(t, []handBack{
				{"bob", []string{"own\n"}, sendq.ErrClosed},
				{"bob", tk.left, sendq.ErrTakenOver},
			}, tk.returned.all())
			requireTakenOver(t, tk.old, tk.left)
			assertConserved(t, tk.w.Stats())
		}},
		{"the new Writer loses the name", nil, func(t *testing.T, tk takeover) {
			tk.begin()
			require.False(t, tk.b.Unregister("bob", tk.old))
			require.True(t, tk.b.Unregister("bob", tk.w))
			other := register(t, tk.b, "bob", readingPeer())
			tk.end()
			requireReceived(t, tk, tk.left...)
			requireHas(t, tk.b, "bob", other)
		}},
		{"the next takeover", nil, func(t *testing.T, tk takeover) {
			tk.begin()
			require.NoError(t, tk.b.Send("bob", []byte("to the second\n")))
			peer := readingPeer()
			third := sendq.NewWriter(peer, nil)
			registered := async(func() error { return tk.b.Register("bob", third) })
			synctest.Wait()
			require.Empty(t, registered)
			tk.end()
			require.NoError(t, <-registered)
			require.NoError(t, third.Close())
			require.Equal(t, []string{"old 0\n", "old 1\n", "to the second\n"}, linesOf(peer))
			requireTakenOver(t, tk.w, linesOf(peer))
		}},
		{"a batch", nil, func(t *testing.T, tk takeover) {
			tk.begin()
			batch := tk.b.NewBatch()
			batch.Send("bob", []byte("a\n"))
			batch.Broadcast([]byte("b\n"))
			require.Equal(t, 2, batch.Flush().Accepted)
			synctest.Wait()
			require.Zero(t, tk.w.Stats().Writes)
			tk.end()
			requireReceived(t, tk, "old 0\n", "old 1\n", "a\n", "b\n")
		}},
		{"Shutdown delivers", nil, func(t *testing.T, tk takeover) {
			tk.begin()
			down := async(func() error { return tk.b.Shutdown(t.Context()) })
			received := async(func() content { return readAll(tk.peer) })
			synctest.Wait()
			require.Empty(t, down)
			tk.end()
			require.NoError(t, <-down)
			require.Equal(t, content{bytes: "old 0\nold 1\n"}, <-received)
		}},
		{"Shutdown returns after the last call of OnUndelivered", nil, func(t *testing.T, tk takeover) {
			tk.begin()
			down := async(func() error {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				err := tk.b.Shutdown(ctx)
				assert.Equal(t, []handBack{{"bob", tk.left, sendq.ErrTakenOver}}, tk.returned.all())
				return err
			})
			time.Sleep(2 * time.Second)
			tk.end()
			<-down
		}},
	} {
		t.Run(tt.name, func(t *testing.T) { inTakeoverWith(t, tt.opts, tt.test) })
	}
}

// A node that takes a name over during a local takeover gets the messages of both Writers.
func TestEvictionDuringTakeover(t *testing.T) {
	var returned handBacks
	node, b := alone(t, &sendq.BrokerOptions{NamePolicy: sendq.NameTakeover, OnUndelivered: returned.add})
	conn, releaseClose := stalledClose()
	old := register(t, b, "bob", conn)
	require.NoError(t, b.Send("bob", []byte("old\n")))
	w := sendq.NewWriter(stalledPeer(), nil)
	registered := async(func() error { return b.Register("bob", w) })
	for old.Err() == nil {
		runtime.Gosched()
	}
	require.NoError(t, b.Send("bob", []byte("new\n")))
	evicted := async(func() (e relay.Handover) {
		e, _ = node.Evict(context.Background(), "bob", "other", 1)
		return e
	})
	for range 1000 {
		runtime.Gosched() // Evict could return now, and must not
	}
	releaseClose()
	require.Equal(t, [][]byte{[]byte("old\n"), []byte("new\n")}, (<-evicted).Undelivered)
	require.NoError(t, <-registered)
	require.NoError(t, b.CloseNow())
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

func inTakeover(t *testing.T, test func(t *testing.T, tk takeover)) {
	inTakeoverWith(t, nil, test)
}

// inTakeoverWith runs test in a bubble. The new Writer has the options, and gets the name at begin.
func inTakeoverWith(t *testing.T, opts *sendq.WriterOptions, test func(t *testing.T, tk takeover)) {
	synctest.Test(t, func(t *testing.T) {
		b, returned := newBroker(sendq.NameTakeover)
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
func requireReceived(t *testing.T, tk takeover, want ...string) {
	t.Helper()
	received := async(func() content { return readAll(tk.peer) })
	require.NoError(t, tk.w.Close())
	require.Equal(t, content{bytes: strings.Join(want, "")}, <-received)
	requireTakenOver(t, tk.old, tk.left)
	assertConserved(t, tk.w.Stats())
	require.Empty(t, tk.returned.all())
}
