package sendq_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/internal/faultconn"
)

// Whatever the old Writer and the new one are in the middle of: the new peer gets what the
// new Writer has begun, then what the old one had left, then everything else.
func TestTakeover(t *testing.T) {
	for _, o := range oldWriters {
		for _, n := range newWriters {
			t.Run(o.name+", by one that is "+n.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b, returned := newBroker(sendq.Takeover)
					old, oldPeer := overPipe(t, o.opts)
					require.NoError(t, b.Register("bob", old))
					require.NoError(t, b.Room("room").Join("bob"))
					left := o.prepare(t, b, old, oldPeer)
					w, peer := overPipe(t, n.opts)
					got, begun, waiting := n.prepare(t, w, peer)
					synctest.Wait()

					require.NoError(t, b.Register("bob", w))
					require.True(t, hasEnded(old))
					requireTakenOver(t, old, left)
					requireHas(t, b, "bob", w)
					require.Equal(t, 1, b.Len())
					require.Equal(t, []string{"bob"}, slices.Collect(b.Room("room").Members()))

					later := sendInAllWays(t, b, "later")
					received := async(func() content { return readAll(peer) })
					require.NoError(t, w.Close())
					got += (<-received).bytes
					want := strings.Join(slices.Concat(begun, left, waiting, later), "")
					require.True(t, want == got, "got %.200q, want %.200q", got, want)
					s := w.Stats()
					assertConserved(t, s)
					require.Equal(t, s.Accepted, s.Written)
					require.Empty(t, returned.all())
				})
			})
		}
	}
}

// What a takeover may find: each gives work to a Writer that has the name "bob", and returns
// what it will not have written.
var oldWriters = []struct {
	name    string
	opts    *sendq.WriterOptions
	prepare func(t *testing.T, b *sendq.Broker, w *sendq.Writer, peer net.Conn) (left []string)
}{
	{"idle", nil, func(t *testing.T, b *sendq.Broker, _ *sendq.Writer, peer net.Conn) []string {
		require.NoError(t, b.Send("bob", []byte("read")))
		take(t, peer, 4)
		return nil
	}},
	{"stuck", nil, func(t *testing.T, b *sendq.Broker, _ *sendq.Writer, _ net.Conn) []string {
		return sendInAllWays(t, b, "old")
	}},
	{"stuck in a message", nil, func(t *testing.T, b *sendq.Broker, _ *sendq.Writer, peer net.Conn) []string {
		sent := sendInAllWays(t, b, "old")
		take(t, peer, len(sent[0])+len(sent[1])+1)
		return sent[2:]
	}},
	{"stuck in a long message", nil, func(t *testing.T, b *sendq.Broker, _ *sendq.Writer, peer net.Conn) []string {
		long := longMessage()
		require.NoError(t, b.Send("bob", []byte(long)))
		sent := sendInAllWays(t, b, "old")
		take(t, peer, 300<<10)
		return slices.Concat([]string{long}, sent)
	}},
	{"closing", nil, func(t *testing.T, b *sendq.Broker, w *sendq.Writer, peer net.Conn) []string {
		sent := sendInAllWays(t, b, "old")
		go func() { assert.ErrorIs(t, w.Close(), sendq.ErrTakenOver) }()
		take(t, peer, 1)
		return sent
	}},
	{"framed", framed, func(t *testing.T, b *sendq.Broker, _ *sendq.Writer, peer net.Conn) []string {
		sent := sendInAllWays(t, b, "old")
		take(t, peer, len(sent[0])+1)
		return sent[1:]
	}},
	{"dropping", &sendq.WriterOptions{MaxPending: 1000, Overflow: sendq.DropOldest}, func(t *testing.T, b *sendq.Broker, w *sendq.Writer, _ net.Conn) (left []string) {
		for i := range 100 {
			left = append(left, fmt.Sprintf("old %d\n", i))
			w.WriteString(left[i])
			synctest.Wait() // so that the first, and no other, is being written
		}
		dropped := int(w.Stats().Dropped)
		require.NotZero(t, dropped)
		return slices.Delete(left, 1, 1+dropped)
	}},
}

// Who may take over: each gives work to a Writer without a name, and returns what the peer
// has got by then, and the messages of which something has been written, and the others.
var newWriters = []struct {
	name    string
	opts    *sendq.WriterOptions
	prepare func(t *testing.T, w *sendq.Writer, peer net.Conn) (got string, begun, waiting []string)
}{
	{"new", nil, func(t *testing.T, _ *sendq.Writer, _ net.Conn) (string, []string, []string) {
		return "", nil, nil
	}},
	{"stuck", nil, func(t *testing.T, w *sendq.Writer, _ net.Conn) (string, []string, []string) {
		own := writeOneByOne(w, 10)
		return "", own[:1], own[1:]
	}},
	{"stuck in a message", nil, func(t *testing.T, w *sendq.Writer, peer net.Conn) (string, []string, []string) {
		own := writeOneByOne(w, 10)
		return take(t, peer, 3), own[:1], own[1:]
	}},
	{"stuck in one of several messages", nil, func(t *testing.T, w *sendq.Writer, peer net.Conn) (string, []string, []string) {
		own := writeOneByOne(w, 10)
		got := take(t, peer, len(own[0])+3) // nine are being written together
		w.WriteString("the next\n")
		return got, own, []string{"the next\n"}
	}},
	{"stuck in a long message", nil, func(t *testing.T, w *sendq.Writer, peer net.Conn) (string, []string, []string) {
		long := longMessage()
		w.WriteString(long)
		return take(t, peer, 300<<10), []string{long}, writeOneByOne(w, 3)
	}},
	{"framed", framed, func(t *testing.T, w *sendq.Writer, peer net.Conn) (string, []string, []string) {
		own := writeOneByOne(w, 10)
		return take(t, peer, len(own[0])+3), own[:2], own[2:]
	}},
	{"limited", &sendq.WriterOptions{MaxPending: 1 << 20, MaxAge: time.Hour, WriteTimeout: time.Hour, Budget: sendq.NewBudget(1 << 20)},
		func(t *testing.T, w *sendq.Writer, peer net.Conn) (string, []string, []string) {
			own := writeOneByOne(w, 10)
			return take(t, peer, 3), own[:1], own[1:]
		}},
}

// longMessage returns one that takes three conn.Writes.
var longMessage = sync.OnceValue(func() string { return string(letters(600 << 10)) })

var framed = &sendq.WriterOptions{MessageFramed: true}

// writeOneByOne writes n lines, each when the Writer has nothing more to do, and returns them.
func writeOneByOne(w *sendq.Writer, n int) (lines []string) {
	for i := range n {
		lines = append(lines, fmt.Sprintf("new %d\n", i))
		w.WriteString(lines[i])
		synctest.Wait()
	}
	return lines
}

// A new Writer that has written a part of a message when the takeover begins writes the rest
// before anything else, also if that takes a second conn.Write.
func TestTakeoverBetweenTwoWrites(t *testing.T) {
	inTakeover(t, func(t *testing.T, u underWay) {
		long := longMessage()
		u.w.WriteString(long)
		received := take(t, u.peer, 300<<10)
		u.begin()
		u.w.WriteString("waiting\n")
		received += take(t, u.peer, 212<<10) // the end of the second write
		synctest.Wait()
		require.EqualValues(t, 2, u.w.Stats().Writes)
		u.end()
		rest := async(func() content { return readAll(u.peer) })
		require.NoError(t, u.w.Close())
		require.True(t, long+"old 0\nold 1\nwaiting\n" == received+(<-rest).bytes)
	})
}

// While the old Writer ends, which may take it some time.
func TestTakeoverMeanwhile(t *testing.T) {
	t.Run("the name is the new Writer's", func(t *testing.T) {
		inTakeover(t, func(t *testing.T, u underWay) {
			u.begin()
			requireHas(t, u.b, "bob", u.w)
			require.ErrorIs(t, u.b.Register("bob", u.w), sendq.ErrNameTaken)
			later := sendInAllWays(t, u.b, "later")
			synctest.Wait()
			require.Zero(t, u.w.Stats().Writes, "before what the old one leaves")
			require.False(t, hasEnded(u.old))
			u.end()
			requireReceived(t, u, slices.Concat(u.left, later)...)
		})
	})

	t.Run("what is not begun waits", func(t *testing.T) {
		inTakeover(t, func(t *testing.T, u underWay) {
			u.w.WriteString("begun\n")
			synctest.Wait()
			u.w.WriteString("waiting\n")
			u.begin()
			requireTake(t, u.peer, "begun\n")
			synctest.Wait()
			u.end()
			requireReceived(t, u, "old 0\n", "old 1\n", "waiting\n")
		})
	})

	t.Run("the age of what waits", func(t *testing.T) {
		inTakeoverBy(t, framed, func(t *testing.T, u underWay) {
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
		})
	})

	t.Run("Flush", func(t *testing.T) {
		inTakeover(t, func(t *testing.T, u underWay) {
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
		})
	})

	t.Run("WaitPending", func(t *testing.T) {
		inTakeover(t, func(t *testing.T, u underWay) {
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
		})
	})

	t.Run("Close", func(t *testing.T) {
		inTakeover(t, func(t *testing.T, u underWay) {
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
		})
	})

	// It ends after the old one then, although nothing is left to write.
	t.Run("Close of an idle one", func(t *testing.T) {
		inTakeover(t, func(t *testing.T, u underWay) {
			u.begin()
			closed := async(u.w.Close)
			received := async(func() content { return readAll(u.peer) })
			synctest.Wait()
			require.Empty(t, closed)
			u.end()
			require.NoError(t, <-closed)
			require.Equal(t, content{bytes: "old 0\nold 1\n"}, <-received)
		})
	})

	t.Run("the new Writer ends", func(t *testing.T) {
		inTakeover(t, func(t *testing.T, u underWay) {
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
		})
	})

	t.Run("the new Writer loses the name", func(t *testing.T) {
		inTakeover(t, func(t *testing.T, u underWay) {
			u.begin()
			require.False(t, u.b.Unregister("bob", u.old))
			require.True(t, u.b.Unregister("bob", u.w))
			other := register(t, u.b, "bob", readingPeer())
			u.end()
			requireReceived(t, u, u.left...)
			requireHas(t, u.b, "bob", other)
		})
	})

	t.Run("the next takeover", func(t *testing.T) {
		inTakeover(t, func(t *testing.T, u underWay) {
			u.begin()
			require.NoError(t, u.b.Send("bob", []byte("to the second\n")))
			peer := readingPeer()
			third := sendq.NewWriter(peer, nil)
			registered := async(func() error { return u.b.Register("bob", third) })
			for range 1000 {
				runtime.Gosched() // it waits for a mutex, which synctest.Wait does not see
			}
			require.Empty(t, registered)
			u.end()
			require.NoError(t, <-registered)
			require.NoError(t, third.Close())
			require.Equal(t, []string{"old 0\n", "old 1\n", "to the second\n"}, linesOf(peer))
			requireTakenOver(t, u.w, linesOf(peer))
		})
	})

	t.Run("a batch", func(t *testing.T) {
		inTakeover(t, func(t *testing.T, u underWay) {
			u.begin()
			batch := u.b.NewBatch()
			batch.Send("bob", []byte("a\n"))
			batch.Broadcast([]byte("b\n"))
			require.Equal(t, 2, batch.Flush().Accepted)
			synctest.Wait()
			require.Zero(t, u.w.Stats().Writes)
			u.end()
			requireReceived(t, u, "old 0\n", "old 1\n", "a\n", "b\n")
		})
	})

	t.Run("Shutdown delivers", func(t *testing.T) {
		inTakeover(t, func(t *testing.T, u underWay) {
			u.begin()
			down := async(func() error { return u.b.Shutdown(t.Context()) })
			received := async(func() content { return readAll(u.peer) })
			synctest.Wait()
			require.Empty(t, down)
			u.end()
			require.NoError(t, <-down)
			require.Equal(t, content{bytes: "old 0\nold 1\n"}, <-received)
		})
	})

	t.Run("Shutdown returns after the last call of OnUndelivered", func(t *testing.T) {
		inTakeover(t, func(t *testing.T, u underWay) {
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
		})
	})
}

// A Writer that is closing takes nothing over: it might have written its last message.
func TestTakeoverByOneThatIsClosing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, returned := newBroker(sendq.Takeover)
		old, _ := overPipe(t, nil)
		require.NoError(t, b.Register("bob", old))
		require.NoError(t, b.Send("bob", []byte("old\n")))
		conn, letGo := lingering()
		w := sendq.NewWriter(conn, nil)
		closed := async(w.Close)
		synctest.Wait() // until conn.Close waits
		require.ErrorIs(t, b.Register("bob", w), sendq.ErrClosed)
		requireHas(t, b, "bob", old)
		letGo()
		require.NoError(t, <-closed)
		require.NoError(t, old.Err())
		require.Empty(t, returned.all())
	})
}

func TestTakeoverChain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, returned := newBroker(sendq.Takeover)
		var received strings.Builder
		var want, left []string // left by the last
		var last *sendq.Writer
		for i := range 100 {
			w, peer := overPipe(t, nil)
			require.NoError(t, b.Register("bob", w))
			require.NoError(t, b.Room("room").Join("bob"))
			if last != nil {
				requireTakenOver(t, last, left)
			}
			sent := sendInAllWays(t, b, fmt.Sprint(i))
			want, left, last = append(want, sent...), append(left, sent...), w
			for range i % 20 { // some read more than was sent of late, some nothing
				if len(left) > 0 {
					received.WriteString(take(t, peer, len(left[0])))
					left = left[1:]
				}
			}
			if len(left) > 0 && i%2 > 0 {
				take(t, peer, 1) // of a message that the next one gets whole
			}
		}
		final, peer := overPipe(t, nil)
		require.NoError(t, b.Register("bob", final))
		rest := async(func() content { return readAll(peer) })
		require.NoError(t, b.Shutdown(t.Context()))
		received.WriteString((<-rest).bytes)
		require.True(t, strings.Join(want, "") == received.String())
		require.Empty(t, returned.all())
	})
}

// What the old Writer yields stays as it is when the new one has written it and its memory
// is used again.
func TestTakeoverLeavesUndeliveredAlone(t *testing.T) {
	b, _ := newBroker(sendq.Takeover)
	old := register(t, b, "bob", stalledPeer())
	var left []string
	for i := range 1000 {
		left = append(left, fmt.Sprintf("old %d\n", i))
		require.NoError(t, b.Send("bob", []byte(left[i])))
	}
	require.NoError(t, register(t, b, "bob", readingPeer()).Close())
	for i := range 10 {
		register(t, b, memberName(i), stalledPeer())
		for range 1000 {
			require.NoError(t, b.Send(memberName(i), []byte("something else\n")))
		}
	}
	requireTakenOver(t, old, left)
}

// However many take the same name at once: each message is written once, and one of them has
// the name at the end.
func TestTakeoverAtOnce(t *testing.T) {
	const takers, takeovers, senders, messages = 4, 400, 32, 1500
	b, returned := newBroker(sendq.Takeover)
	register(t, b, "bob", stalledPeer())
	peers := make(chan *faultconn.Conn, takers*takeovers)
	var running sync.WaitGroup
	for range takers {
		running.Go(func() {
			for range takeovers {
				peer := oneOf(readingPeer, stalledPeer)()
				assert.NoError(t, b.Register("bob", sendq.NewWriter(peer, nil)))
				peers <- peer
			}
		})
	}
	var want []string
	for sender := range senders {
		for i := range messages {
			want = append(want, fmt.Sprintf("%d from %d\n", i, sender))
		}
		running.Go(func() {
			for i := range messages {
				assert.NoError(t, b.Send("bob", fmt.Appendf(nil, "%d from %d\n", i, sender)))
			}
		})
	}
	running.Wait()
	last := readingPeer() // the one before may be stalled
	register(t, b, "bob", last)
	require.Equal(t, 1, b.Len())
	require.NoError(t, b.Shutdown(t.Context()))

	got := linesOf(last)
	for range takers * takeovers {
		got = append(got, linesOf(<-peers)...)
	}
	// The end of an old one may have come in the middle of a message.
	got = slices.DeleteFunc(got, func(line string) bool { return !strings.HasSuffix(line, "\n") })
	slices.Sort(want)
	slices.Sort(got)
	require.True(t, slices.Equal(want, got), "%d lines, %d of them different, not %d", len(got), len(slices.Compact(slices.Clone(got))), len(want))
	require.Empty(t, returned.all())
}

// Two that take each other's name at once may end each other. Then nothing is left of either
// but what is handed back.
func TestTakeoverOfEachOther(t *testing.T) {
	for range 200 {
		b, returned := newBroker(sendq.Takeover)
		x, y := register(t, b, "x", stalledPeer()), register(t, b, "y", stalledPeer())
		require.NoError(t, b.Send("x", []byte("to x\n")))
		require.NoError(t, b.Send("y", []byte("to y\n")))
		var running sync.WaitGroup
		running.Go(func() { b.Register("y", x) })
		running.Go(func() { b.Register("x", y) })
		running.Wait()
		x.CloseNow()
		y.CloseNow()
		assertConserved(t, x.Stats())
		assertConserved(t, y.Stats())
		require.Zero(t, b.Len())
		require.NoError(t, b.Close())
		var messages []string
		for _, call := range returned.all() {
			messages = append(messages, call.messages...)
		}
		require.ElementsMatch(t, []string{"to x\n", "to y\n"}, messages)
	}
}

// What is inherited has been accepted: MaxPending does not matter.
func TestTakeoverMaxPending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, returned := newBroker(sendq.Takeover)
		old := register(t, b, "bob", stalledPeer())
		require.NoError(t, b.Room("room").Join("bob"))
		left := sendInAllWays(t, b, "old")
		w, peer := overPipe(t, &sendq.WriterOptions{MaxPending: 1000, Overflow: sendq.DropNewest})
		require.NoError(t, b.Register("bob", w))
		requireTakenOver(t, old, left)
		require.ErrorIs(t, b.Send("bob", []byte("too much\n")), sendq.ErrDropped)
		requireTake(t, peer, strings.Join(left, ""))
		require.NoError(t, w.Flush(t.Context()))
		require.NoError(t, b.Send("bob", []byte("room again\n")))
		requireTake(t, peer, "room again\n")
		s := w.Stats()
		assertConserved(t, s)
		require.EqualValues(t, 1, s.Dropped)
		require.Empty(t, returned.all())
	})
}

// Who would wait for room at the new Writer waits for what it inherits, too.
func TestTakeoverBlock(t *testing.T) {
	inTakeoverBy(t, &sendq.WriterOptions{MaxPending: 100, Overflow: sendq.Block}, func(t *testing.T, u underWay) {
		u.w.WriteString("begun\n")
		blocked := async(func() error { return second(u.w.WriteString("blocked\n")) })
		synctest.Wait()
		u.begin()
		u.end()
		requireTake(t, u.peer, "begun\n")
		requireTake(t, u.peer, "old 0\nold 1") // not the whole of both
		synctest.Wait()
		require.Empty(t, blocked)
		requireTake(t, u.peer, "\n")
		require.NoError(t, <-blocked)
		requireReceived(t, u, "blocked\n")
	})
}

// What is inherited counts to the Budget of the new Writer, which may cost its life, or
// that of another.
func TestTakeoverBudget(t *testing.T) {
	for _, tt := range []struct {
		name            string
		backlog         int // of another Writer, in messages; 10 are inherited
		limit           int // of the Budget
		ends, endsOther bool
	}{
		{"suffices", 5, 15, false, false},
		{"is spent on another", 12, 21, false, true},
		{"is too small", 5, 9, true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				message := counted(100)
				budget := sendq.NewBudget(100 * tt.limit)
				b, returned := newBroker(sendq.Takeover)
				other, _ := overPipe(t, &sendq.WriterOptions{Budget: budget})
				for range tt.backlog {
					require.NoError(t, other.Send(message))
				}
				old := register(t, b, "bob", stalledPeer())
				for range 10 {
					require.NoError(t, b.Send("bob", message))
				}
				w, peer := overPipe(t, &sendq.WriterOptions{Budget: budget})
				require.NoError(t, b.Register("bob", w))
				requireTakenOver(t, old, slices.Repeat([]string{string(message)}, 10))
				synctest.Wait()
				require.Equal(t, tt.endsOther, hasEnded(other))
				require.Equal(t, tt.ends, hasEnded(w))
				assertConserved(t, w.Stats())
				if tt.ends {
					require.ErrorIs(t, w.Err(), sendq.ErrSlowConsumer)
					require.Equal(t, []handBack{{"bob", slices.Repeat([]string{string(message)}, 10), w.Err()}}, returned.all())
					return
				}
				other.CloseNow()
				require.Equal(t, 1000, budget.Pending())
				take(t, peer, 10*len(message))
				require.NoError(t, w.Close())
				require.Zero(t, budget.Pending())
				require.Empty(t, returned.all())
			})
		})
	}
}

// A takeover that fails leaves everything as it was.
func TestTakeoverFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, returned := newBroker(sendq.Takeover)
		w, peer := overPipe(t, nil)
		require.NoError(t, b.Register("bob", w))
		require.ErrorIs(t, b.Register("bob", w), sendq.ErrNameTaken)
		late := sendq.NewWriter(readingPeer(), nil)
		late.CloseNow()
		require.ErrorIs(t, b.Register("bob", late), sendq.ErrClosed)
		requireHas(t, b, "bob", w)
		require.NoError(t, b.Send("bob", []byte("hello\n")))
		requireTake(t, peer, "hello\n")
		down := async(func() error { return b.Shutdown(t.Context()) })
		synctest.Wait()
		require.ErrorIs(t, b.Register("bob", sendq.NewWriter(readingPeer(), nil)), sendq.ErrClosed)
		require.NoError(t, <-down)
		require.Empty(t, returned.all())
	})
}

// A Writer that loses one of its names in a takeover ends, and what it had left, for whatever
// name it was, goes to the one that took over.
func TestTakeoverOfOneOfTwoNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, returned := newBroker(sendq.Takeover)
		old := register(t, b, "bob", stalledPeer())
		require.NoError(t, b.Register("robert", old))
		require.NoError(t, b.Send("bob", []byte("to bob\n")))
		require.NoError(t, b.Send("robert", []byte("to robert\n")))
		peer := readingPeer()
		w := register(t, b, "bob", peer)
		require.Equal(t, []string{"bob"}, slices.Collect(b.Names()))
		require.NoError(t, w.Close())
		require.Equal(t, []string{"to bob\n", "to robert\n"}, linesOf(peer))
		synctest.Wait()
		require.Empty(t, returned.all())
	})
}

// Senders of all kinds, over connections of all kinds, while new connections take the name
// over, whose peers read, read slowly, do not read, or reset. What a connection took is
// known; what came of it at the peer is not after a reset. Every message that was accepted
// has been taken whole by one connection, or was handed back, once; and those of a sender
// in order.
func TestTakeoverUnderLoad(t *testing.T) {
	for _, tr := range transports {
		t.Run(tr.name, func(t *testing.T) { takeOverUnderLoad(t, tr) })
	}
}

func takeOverUnderLoad(t *testing.T, tr transport) {
	const senders, messages = 4, 300
	b, returned := newBroker(sendq.Takeover)
	var accepted [senders][]int
	var sending sync.WaitGroup
	started := make(chan struct{})
	for sender := range senders {
		sending.Go(func() {
			<-started
			for i := range messages {
				way := waysToBob[(sender+i)%len(waysToBob)]
				if way.send(b, frame(sender, i, size(i+2)>>2)) == 1 {
					accepted[sender] = append(accepted[sender], i)
				}
				time.Sleep(time.Duration(rand.IntN(200)) * time.Microsecond)
			}
		})
	}
	allSent := async(func() error { sending.Wait(); return nil })

	type connection struct {
		*sendq.Writer
		taken   *recordingConn
		arrived <-chan arrival
	}
	var chain []connection
	next := func(read func(peer net.Conn) arrival) {
		conn, peer := tr.pair(t)
		c := connection{taken: &recordingConn{Conn: conn}}
		c.Writer = sendq.NewWriter(c.taken, nil)
		c.arrived = async(func() arrival { return read(peer) })
		require.NoError(t, b.Register("bob", c.Writer))
		b.Room("room").Join("bob") // unless it has been reset already
		chain = append(chain, c)
	}
	reads := func(peer net.Conn) arrival { return receive(peer) }
	readers := []func(peer net.Conn) arrival{
		reads,
		func(net.Conn) arrival { return arrival{} }, // stuck
		func(peer net.Conn) arrival { return receive(slowReader{peer}) },
		func(peer net.Conn) arrival {
			io.CopyN(io.Discard, peer, rand.Int64N(100_000))
			reset(t, peer)
			return arrival{}
		},
	}
	next(readers[0])
	close(started)
	for over := false; !over; {
		select {
		case <-allSent:
			over = true
		case <-time.After(time.Duration(rand.IntN(5)) * time.Millisecond):
			next(readers[len(chain)%len(readers)])
		}
	}
	next(reads)
	require.NoError(t, b.Shutdown(t.Context()))

	var outcomes, handedBack [senders][]int
	for i, c := range chain {
		require.True(t, hasEnded(c.Writer))
		s := c.Stats()
		assertConserved(t, s)
		taken := receive(bytes.NewReader(c.taken.taken))
		require.NotEqual(t, errChecksum, taken.err)
		arrived := <-c.arrived
		require.NotEqual(t, errChecksum, arrived.err, "torn")
		if i == len(chain)-1 {
			require.Equal(t, taken, arrived)
		}
		written := 0
		for sender, numbers := range taken.order {
			outcomes[sender] = append(outcomes[sender], numbers...)
			written += len(numbers)
			arrived := arrived.order[sender]
			require.True(t, slices.Equal(numbers[:min(len(arrived), len(numbers))], arrived))
		}
		require.EqualValues(t, s.Written, written)
	}
	for _, call := range returned.all() {
		a := receive(strings.NewReader(strings.Join(call.messages, "")))
		require.NoError(t, a.err)
		for sender, numbers := range a.order {
			handedBack[sender] = append(handedBack[sender], numbers...)
		}
	}
	total := 0
	for sender := range senders {
		total += len(handedBack[sender])
		require.True(t, slices.IsSorted(outcomes[sender]))
		require.True(t, slices.IsSorted(handedBack[sender]))
		all := slices.Concat(outcomes[sender], handedBack[sender])
		slices.Sort(all)
		require.Equal(t, accepted[sender], all)
	}
	t.Logf("%d takeovers; %d messages handed back", len(chain)-1, total)
}

// A recordingConn knows what the connection beneath took.
type recordingConn struct {
	net.Conn
	taken []byte
}

func (c *recordingConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.taken = append(c.taken, p[:n]...)
	return n, err
}

func (c *recordingConn) NetConn() net.Conn { return c.Conn }

type slowReader struct{ net.Conn }

func (r slowReader) Read(p []byte) (int, error) {
	time.Sleep(time.Duration(rand.IntN(int(time.Millisecond))))
	return r.Conn.Read(p)
}

func TestNamePolicy(t *testing.T) {
	require.Equal(t, []string{"Reject", "Takeover", "Attach", "NamePolicy(3)"},
		[]string{sendq.Reject.String(), sendq.Takeover.String(), sendq.Attach.String(), sendq.NamePolicy(3).String()})
	require.PanicsWithValue(t, "sendq: NewBroker: no such NamePolicy: NamePolicy(3)",
		func() { sendq.NewBroker(&sendq.BrokerOptions{Names: 3}) })

	b, _ := newBroker(sendq.Reject)
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

func TestAttach(t *testing.T) {
	attached := func(t *testing.T, n int) (b *sendq.Broker, returned *handBacks, writers []*sendq.Writer, peers []*faultconn.Conn) {
		b, returned = newBroker(sendq.Attach)
		for range n {
			peers = append(peers, readingPeer())
			writers = append(writers, register(t, b, "bob", peers[len(peers)-1]))
		}
		require.NoError(t, b.Room("room").Join("bob"))
		return b, returned, writers, peers
	}
	requireOneName := func(t *testing.T, b *sendq.Broker) {
		t.Helper()
		require.Equal(t, 1, b.Len())
		require.Equal(t, []string{"bob"}, slices.Collect(b.Names()))
		require.Equal(t, 1, b.Room("room").Len())
		require.Equal(t, []string{"bob"}, slices.Collect(b.Room("room").Members()))
		require.Equal(t, []string{"room"}, slices.Collect(b.RoomsOf("bob")))
	}

	t.Run("each gets every message", func(t *testing.T) {
		b, _, writers, peers := attached(t, 3)
		requireOneName(t, b)
		sent := sendInAllWays(t, b, "")
		require.Zero(t, b.BroadcastFrom("bob", []byte("from bob\n")))
		require.Zero(t, b.Room("room").PublishFrom("bob", []byte("from bob\n")))
		for i, w := range writers {
			require.NoError(t, w.Flush(t.Context()))
			require.Equal(t, sent, linesOf(peers[i]))
		}
	})

	t.Run("in one order", func(t *testing.T) {
		b, _, writers, peers := attached(t, 3)
		publishAtOnce(200, b.Broadcast)
		for i, w := range writers {
			require.NoError(t, w.Flush(t.Context()))
			require.Len(t, linesOf(peers[i]), 200*publishers)
			require.True(t, slices.Equal(linesOf(peers[0]), linesOf(peers[i])))
		}
	})

	t.Run("the name lives until the last ends", func(t *testing.T) {
		b, _, writers, peers := attached(t, 4)
		requireHas(t, b, "bob", writers[0])
		writers[0].CloseNow()
		requireHas(t, b, "bob", writers[1])
		require.True(t, b.Unregister("bob", writers[2]))
		require.False(t, b.Unregister("bob", writers[2]))
		require.False(t, b.Unregister("bob", writers[0]))
		requireHas(t, b, "bob", writers[1])
		requireOneName(t, b)
		sent := sendInAllWays(t, b, "")
		require.NoError(t, writers[1].Close())
		requireHas(t, b, "bob", writers[3])
		requireOneName(t, b)
		require.NoError(t, writers[3].Close())
		require.Empty(t, linesOf(peers[0]))
		require.Equal(t, sent, linesOf(peers[1]))
		require.Empty(t, linesOf(peers[2]))
		require.Equal(t, sent, linesOf(peers[3]))
		require.False(t, hasEnded(writers[2]))

		require.Zero(t, b.Len())
		require.Zero(t, b.Room("room").Len())
		require.ErrorIs(t, b.Send("bob", nil), sendq.ErrUnknownName)
		require.NoError(t, b.Register("bob", writers[2]), "as if it were new")
		require.Zero(t, b.Room("room").Len())
	})

	t.Run("the same Writer twice", func(t *testing.T) {
		b, _, writers, peers := attached(t, 2)
		for _, w := range writers {
			require.ErrorIs(t, b.Register("bob", w), sendq.ErrNameTaken)
		}
		require.NoError(t, b.Send("bob", []byte("once\n")))
		require.NoError(t, b.Shutdown(t.Context()))
		for _, peer := range peers {
			require.Equal(t, []string{"once\n"}, linesOf(peer))
		}
	})

	t.Run("accepted if one accepts", func(t *testing.T) {
		b, _, writers, peers := attached(t, 1)
		limited, limitedPeer := stuck(t, &sendq.WriterOptions{MaxPending: 100, Overflow: sendq.DropNewest})
		require.NoError(t, b.Register("bob", limited))
		sent := sendInAllWays(t, b, "")
		require.Contains(t, sent, string(limitedPeer.Bytes())+sent[0])
		require.EqualValues(t, len(sent)-2, limited.Stats().Dropped, "but those that are too large")
		require.NoError(t, writers[0].Close())
		require.Equal(t, sent, linesOf(peers[0]))

		require.ErrorIs(t, b.Send("bob", []byte("nobody's\n")), sendq.ErrDropped)
		require.Zero(t, b.Broadcast([]byte("nobody's\n")))
		limited.CloseNow()
	})

	t.Run("a closing one leaves the others", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b, returned, writers, peers := attached(t, 2)
			peers[0].Stall()
			require.NoError(t, b.Send("bob", []byte("to both\n")))
			closed := async(writers[0].Close)
			synctest.Wait()
			sent := sendInAllWays(t, b, "")
			require.False(t, hasEnded(writers[0]))
			peers[0].Release()
			require.NoError(t, <-closed)
			require.NoError(t, writers[1].Flush(t.Context()))
			require.Equal(t, []string{"to both\n"}, linesOf(peers[0]))
			require.Equal(t, slices.Concat([]string{"to both\n"}, sent), linesOf(peers[1]))
			require.Empty(t, returned.all())
		})
	})

	t.Run("one that fails leaves the others", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b, returned, writers, peers := attached(t, 2)
			failing := faultconn.New()
			failing.Fault = faultconn.FailAt(3, errBroken)
			register(t, b, "bob", failing)
			require.NoError(t, b.Send("bob", []byte("to all\n")))
			synctest.Wait()
			require.Equal(t, []handBack{{"bob", []string{"to all\n"}, errBroken}}, returned.all())
			requireOneName(t, b)
			for i, w := range writers {
				require.False(t, hasEnded(w))
				require.Equal(t, []string{"to all\n"}, linesOf(peers[i]))
			}
		})
	})

	t.Run("Shutdown ends all", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b, returned, writers, peers := attached(t, 3)
			peers[1].Stall()
			require.NoError(t, b.Send("bob", []byte("last\n")))
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			err := b.Shutdown(ctx)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.Equal(t, 1, strings.Count(err.Error(), "bob: "), "%v", err)
			for _, w := range writers {
				require.True(t, hasEnded(w))
			}
			require.Equal(t, []handBack{{"bob", []string{"last\n"}, context.DeadlineExceeded}}, returned.all())
			require.ErrorIs(t, b.Register("bob", sendq.NewWriter(readingPeer(), nil)), sendq.ErrClosed)
		})
	})
}

// While Writers attach and end, one that stays gets each message once, also of several that
// are published together and that it does not all accept.
func TestAttachChurn(t *testing.T) {
	b, _ := newBroker(sendq.Attach)
	peer := readingPeer()
	w := sendq.NewWriter(peer, &sendq.WriterOptions{MaxPending: 1000})
	require.NoError(t, b.Register("bob", w))
	require.NoError(t, b.Room("room").Join("bob"))
	ctx, stop := context.WithCancel(t.Context())
	var churn sync.WaitGroup
	for range 2 {
		churn.Go(func() {
			for ctx.Err() == nil {
				w := sendq.NewWriter(stalledPeer(), nil)
				assert.NoError(t, b.Register("bob", w))
				w.CloseNow()
			}
		})
	}
	var want []string
	for i := range 300 {
		lines := []string{fmt.Sprintf("%d a\n", i), fmt.Sprintf("%d b\n", i)}
		want = append(want, lines...)
		batch := b.NewBatch()
		batch.Publish("room", make([]byte, 1000)) // too large for w
		batch.Publish("room", []byte(lines[0]))
		batch.Publish("room", []byte(lines[1]))
		batch.Flush()
		require.NoError(t, w.Flush(t.Context()))
	}
	stop()
	churn.Wait()
	require.NoError(t, w.Close())
	require.True(t, slices.Equal(want, linesOf(peer)), "%d lines, not %d", len(linesOf(peer)), len(want))
}

// Whenever and however an old Writer ends, its successor keeps the name and the rooms.
func TestOldEndNeverTouchesSuccessor(t *testing.T) {
	const names, lives = 4, 100
	for _, policy := range []sendq.NamePolicy{sendq.Takeover, sendq.Attach} {
		t.Run(policy.String(), func(t *testing.T) {
			b, _ := newBroker(policy)
			ctx, stop := context.WithCancel(t.Context())
			var sending, living sync.WaitGroup
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
				living.Go(func() {
					old := sendq.NewWriter(readingPeer(), nil)
					assert.NoError(t, b.Register(name, old))
					for life := range lives {
						var ending sync.WaitGroup
						switch life % 4 {
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
						if policy == sendq.Attach || life%4 == 2 {
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
			living.Wait()
			stop()
			sending.Wait()
			require.Zero(t, b.Len())
			require.Zero(t, b.Room("room").Len())
		})
	}
}

// Whatever ends a Writer that has a name, what it had left is handed back, with the cause.
func TestOnUndelivered(t *testing.T) {
	const limit = time.Second
	left := []string{"one\n", "two\n"}
	for _, tt := range []struct {
		name  string
		opts  *sendq.WriterOptions
		end   func(b *sendq.Broker, w *sendq.Writer, conn *faultconn.Conn)
		cause error
	}{
		{"a failing connection", nil, func(_ *sendq.Broker, _ *sendq.Writer, conn *faultconn.Conn) { conn.Release() }, errBroken},
		{"CloseNow", nil, func(_ *sendq.Broker, w *sendq.Writer, _ *faultconn.Conn) { w.CloseNow() }, sendq.ErrClosed},
		{"CloseTimeout", nil, func(_ *sendq.Broker, w *sendq.Writer, _ *faultconn.Conn) { w.Close() }, context.DeadlineExceeded},
		{"MaxPending", &sendq.WriterOptions{MaxPending: 140}, func(_ *sendq.Broker, w *sendq.Writer, _ *faultconn.Conn) {
			w.WriteString("three\n")
		}, sendq.ErrSlowConsumer},
		{"MaxAge", &sendq.WriterOptions{MaxAge: limit}, func(*sendq.Broker, *sendq.Writer, *faultconn.Conn) {
			time.Sleep(2 * limit)
		}, sendq.ErrSlowConsumer},
		{"Shutdown of the Broker", nil, func(b *sendq.Broker, _ *sendq.Writer, _ *faultconn.Conn) {
			ctx, cancel := context.WithTimeout(context.Background(), limit)
			defer cancel()
			b.Shutdown(ctx)
		}, context.DeadlineExceeded},
		{"Close of the Broker", nil, func(b *sendq.Broker, _ *sendq.Writer, _ *faultconn.Conn) { b.Close() }, sendq.ErrClosed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, returned := newBroker(sendq.Reject)
				conn := stalledPeer()
				conn.Fault = faultconn.FailAt(3, errBroken)
				w := sendq.NewWriter(conn, tt.opts)
				require.NoError(t, b.Register("bob", w))
				require.NoError(t, b.Send("bob", []byte(left[0])))
				require.NoError(t, b.Send("bob", []byte(left[1])))
				synctest.Wait()
				tt.end(b, w, conn)
				synctest.Wait()
				require.True(t, hasEnded(w))
				require.ErrorIs(t, w.Err(), tt.cause)
				require.Equal(t, []handBack{{"bob", left, w.Err()}}, returned.all())
				require.NoError(t, b.Close(), "again")
				require.Len(t, returned.all(), 1)
			})
		})
	}
}

func TestOnUndeliveredIsNotCalled(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(t *testing.T, b *sendq.Broker, w *sendq.Writer, conn *faultconn.Conn)
	}{
		{"all is delivered", func(t *testing.T, _ *sendq.Broker, w *sendq.Writer, conn *faultconn.Conn) {
			conn.Release()
			require.NoError(t, w.Close())
		}},
		{"all is delivered by Shutdown", func(t *testing.T, b *sendq.Broker, _ *sendq.Writer, conn *faultconn.Conn) {
			conn.Release()
			require.NoError(t, b.Shutdown(t.Context()))
		}},
		{"nothing is left", func(t *testing.T, _ *sendq.Broker, w *sendq.Writer, conn *faultconn.Conn) {
			conn.Release()
			require.NoError(t, w.Flush(t.Context()))
			w.CloseNow()
		}},
		{"it has no name any more", func(t *testing.T, b *sendq.Broker, w *sendq.Writer, _ *faultconn.Conn) {
			require.True(t, b.Unregister("bob", w))
			w.CloseNow()
		}},
		{"another takes over and delivers", func(t *testing.T, b *sendq.Broker, _ *sendq.Writer, _ *faultconn.Conn) {
			require.NoError(t, register(t, b, "bob", readingPeer()).Close())
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b, returned := newBroker(sendq.Takeover)
				conn := stalledPeer()
				w := register(t, b, "bob", conn)
				require.NoError(t, b.Send("bob", []byte("hello\n")))
				synctest.Wait()
				tt.end(t, b, w, conn)
				synctest.Wait()
				require.True(t, hasEnded(w))
				require.Empty(t, returned.all())
			})
		})
	}
}

// What was inherited and is not delivered either is handed back once, by the one that had it
// last, before what came later.
func TestOnUndeliveredAfterTakeover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, returned := newBroker(sendq.Takeover)
		for i := range 3 {
			register(t, b, "bob", stalledPeer())
			require.NoError(t, b.Send("bob", fmt.Append(nil, i)))
			synctest.Wait()
		}
		w, _ := b.Lookup("bob")
		w.CloseNow()
		synctest.Wait()
		require.Equal(t, []handBack{{"bob", []string{"0", "1", "2"}, sendq.ErrClosed}}, returned.all())
	})
}

func TestOnUndeliveredOfSeveralNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, returned := newBroker(sendq.Attach)
		w := register(t, b, "bob", stalledPeer())
		require.NoError(t, b.Register("robert", w))
		require.Equal(t, 2, b.Broadcast([]byte("hello\n")))
		w.CloseNow()
		synctest.Wait()
		require.Len(t, returned.all(), 1)
		require.Contains(t, []string{"bob", "robert"}, returned.all()[0].name)
		require.Equal(t, []string{"hello\n", "hello\n"}, returned.all()[0].messages)
	})
}

// The calls come one after the other, in the order in which the Writers ended, and hold up
// nothing but themselves and Shutdown.
func TestOnUndeliveredHoldsUpNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 10
		var b *sendq.Broker
		var returned handBacks
		var calls sync.Mutex
		goOn := make(chan struct{})
		b = sendq.NewBroker(&sendq.BrokerOptions{OnUndelivered: func(name string, messages iter.Seq[[]byte], cause error) {
			if !assert.True(t, calls.TryLock(), "two calls at a time") {
				return
			}
			defer calls.Unlock()
			<-goOn
			returned.add(name, messages, cause)
			for p := range messages { // it may use the Broker
				assert.NoError(t, b.Send("archive", p))
			}
		}})
		archive := readingPeer()
		keeper := register(t, b, "archive", archive)
		goroutines := runtime.NumGoroutine()
		var want []handBack
		for i := range n {
			name := memberName(i)
			w := register(t, b, name, stalledPeer())
			require.NoError(t, b.Room("room").Join(name))
			require.NoError(t, b.Send(name, []byte(name+"\n")))
			w.CloseNow() // returns when the Writer is done
			want = append(want, handBack{name, []string{name + "\n"}, sendq.ErrClosed})
			require.ErrorIs(t, b.Send(name, nil), sendq.ErrUnknownName)
			require.Zero(t, b.Room("room").Len())
		}
		register(t, b, memberName(0), readingPeer()).CloseNow()
		require.Equal(t, 1, b.Broadcast([]byte("first\n")))
		require.NoError(t, keeper.Flush(t.Context()))
		synctest.Wait()
		require.Empty(t, returned.all())
		require.LessOrEqual(t, goroutinesLeft(goroutines+1), goroutines+1, "one for all calls")

		close(goOn)
		synctest.Wait()
		require.Equal(t, want, returned.all())
		require.LessOrEqual(t, goroutinesLeft(goroutines), goroutines)
		require.NoError(t, b.Shutdown(t.Context()))
		require.Len(t, linesOf(archive), 1+n)
	})
}

func TestShutdownWaitsForOnUndelivered(t *testing.T) {
	const bound, call = 5 * time.Second, time.Minute
	for _, tt := range []struct {
		name  string
		end   func(*sendq.Broker, context.Context) error
		cause error
		took  time.Duration
	}{
		{"Shutdown", (*sendq.Broker).Shutdown, context.DeadlineExceeded, bound + 3*call},
		{"Close", func(b *sendq.Broker, _ context.Context) error { return b.Close() }, sendq.ErrClosed, 3 * call},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				called := 0 // unguarded: the return of Shutdown comes after the calls
				b := sendq.NewBroker(&sendq.BrokerOptions{OnUndelivered: func(string, iter.Seq[[]byte], error) {
					time.Sleep(call)
					called++
				}})
				for i := range 3 {
					register(t, b, memberName(i), stalledPeer())
				}
				require.Equal(t, 3, b.Broadcast([]byte("hello\n")))
				start := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), bound)
				defer cancel()
				require.ErrorIs(t, tt.end(b, ctx), tt.cause)
				require.Equal(t, 3, called)
				require.Equal(t, tt.took, time.Since(start))
			})
		})
	}
}

// newBroker returns a Broker, and what it hands back.
func newBroker(policy sendq.NamePolicy) (*sendq.Broker, *handBacks) {
	var returned handBacks
	return sendq.NewBroker(&sendq.BrokerOptions{Names: policy, OnUndelivered: returned.add}), &returned
}

// handBacks are calls of OnUndelivered.
type handBacks struct {
	mu    sync.Mutex
	calls []handBack
}

type handBack struct {
	name     string
	messages []string
	cause    error
}

func (h *handBacks) add(name string, messages iter.Seq[[]byte], cause error) {
	call := handBack{name: name, cause: cause}
	for p := range messages {
		call.messages = append(call.messages, string(p))
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.calls = append(h.calls, call)
}

func (h *handBacks) all() []handBack {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.calls)
}

// waysToBob are the ways of a Broker to reach "bob", who is in "room". Each returns how many
// have accepted the message.
var waysToBob = slices.Concat(fanOuts, []struct {
	name string
	send func(b *sendq.Broker, p []byte) int
}{
	{"Send", func(b *sendq.Broker, p []byte) int {
		if b.Send("bob", p) != nil {
			return 0
		}
		return 1
	}},
	{"SendTo", func(b *sendq.Broker, p []byte) int { return b.SendTo([]string{"bob"}, p).Accepted }},
	{"Batch", func(b *sendq.Broker, p []byte) int {
		batch := b.NewBatch()
		batch.Send("bob", p)
		return batch.Flush().Accepted
	}},
	{"Batch to a room", func(b *sendq.Broker, p []byte) int {
		batch := b.NewBatch()
		batch.Publish("room", p)
		return batch.Flush().Accepted
	}},
})

// sendInAllWays sends lines to "bob", short ones and one that is a block of its own, and
// returns them. They begin with prefix.
func sendInAllWays(t *testing.T, b *sendq.Broker, prefix string) (lines []string) {
	t.Helper()
	for _, length := range []int{1, 20_000, 10} {
		for _, way := range waysToBob {
			if length > 10 && way.name != "Send" && way.name != "Publish" {
				continue
			}
			line := fmt.Sprintf("%s %d by %s %s\n", prefix, len(lines), way.name, strings.Repeat(".", length))
			p := []byte(line)
			require.Equal(t, 1, way.send(b, p), way.name)
			clear(p)
			lines = append(lines, line)
		}
	}
	return lines
}

// overPipe returns a Writer, which the test ends, and its peer.
func overPipe(t *testing.T, opts *sendq.WriterOptions) (*sendq.Writer, net.Conn) {
	t.Helper()
	conn, peer := pipePair(t)
	w := sendq.NewWriter(conn, opts)
	t.Cleanup(func() { w.CloseNow() })
	return w, peer
}

// take reads n bytes.
func take(t *testing.T, peer net.Conn, n int) string {
	t.Helper()
	p := make([]byte, n)
	_, err := io.ReadFull(peer, p)
	require.NoError(t, err)
	return string(p)
}

func requireTake(t *testing.T, peer net.Conn, want string) {
	t.Helper()
	require.Equal(t, want, take(t, peer, len(want)))
}

func requireHas(t *testing.T, b *sendq.Broker, name string, want *sendq.Writer) {
	t.Helper()
	got, ok := b.Lookup(name)
	require.True(t, ok)
	require.Same(t, want, got)
}

// requireTakenOver requires that w has ended by a takeover and tells so, and what it left.
func requireTakenOver(t *testing.T, w *sendq.Writer, left []string) {
	t.Helper()
	require.True(t, hasEnded(w))
	require.ErrorIs(t, w.Err(), sendq.ErrTakenOver)
	for _, err := range []error{second(w.Write(nil)), second(w.WriteString("late\n")), w.Send(nil)} {
		require.ErrorIs(t, err, sendq.ErrTakenOver)
		require.ErrorIs(t, err, net.ErrClosed)
	}
	require.ErrorIs(t, w.Close(), sendq.ErrTakenOver)
	s := w.Stats()
	assertConserved(t, s)
	require.EqualValues(t, len(left), s.Undelivered)
	var got []string
	for p := range w.Undelivered() {
		got = append(got, string(p))
	}
	require.True(t, slices.Equal(left, got), "%.200q, not %.200q", got, left)
}

// An underWay is a takeover that is under way from begin to end.
type underWay struct {
	b          *sendq.Broker
	returned   *handBacks
	old        *sendq.Writer
	left       []string // by old, which is stuck in the first
	w          *sendq.Writer
	peer       net.Conn // of w
	begin, end func()
}

func inTakeover(t *testing.T, test func(t *testing.T, u underWay)) {
	inTakeoverBy(t, nil, test)
}

// inTakeoverBy runs test in a bubble. The new Writer, which has the options, does not have
// the name yet.
func inTakeoverBy(t *testing.T, opts *sendq.WriterOptions, test func(t *testing.T, u underWay)) {
	synctest.Test(t, func(t *testing.T) {
		b, returned := newBroker(sendq.Takeover)
		conn, letGo := lingering()
		old := register(t, b, "bob", conn)
		t.Cleanup(letGo)
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
			letGo()
			require.NoError(t, <-registered)
		}
		test(t, underWay{b, returned, old, left, w, peer, begin, end})
	})
}

// requireReceived ends the new Writer and requires that its peer gets the lines until then.
func requireReceived(t *testing.T, u underWay, want ...string) {
	t.Helper()
	received := async(func() content { return readAll(u.peer) })
	require.NoError(t, u.w.Close())
	require.Equal(t, content{bytes: strings.Join(want, "")}, <-received)
	requireTakenOver(t, u.old, u.left)
	assertConserved(t, u.w.Stats())
	require.Empty(t, u.returned.all())
}

// lingering returns a connection whose writes are stuck until Close, and whose Close until
// letGo.
func lingering() (conn *faultconn.Conn, letGo func()) {
	gate := make(chan struct{})
	conn = stalledPeer()
	conn.Enter = func(method string) {
		if method == "Close" {
			<-gate
		}
	}
	return conn, sync.OnceFunc(func() { close(gate) })
}

// The names of one Writer go one by one as fast as they came.
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

// A Writer may take over any number of names at once: it waits for all.
func TestTakeoverOfManyNamesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const names = 300
		b, _ := newBroker(sendq.Takeover)
		var letGo []func()
		for i := range names {
			conn, release := lingering()
			conn.Stall()
			letGo = append(letGo, release)
			register(t, b, memberName(i), conn)
			require.NoError(t, b.Send(memberName(i), []byte("old\n")))
		}
		peer := readingPeer()
		w := sendq.NewWriter(peer, nil)
		var registered sync.WaitGroup
		for i := range names {
			registered.Go(func() { assert.NoError(t, b.Register(memberName(i), w)) })
		}
		synctest.Wait()
		require.NoError(t, b.Send(memberName(0), []byte("new\n")))
		synctest.Wait()
		require.Empty(t, peer.Bytes())
		for _, release := range letGo {
			release()
		}
		registered.Wait()
		require.NoError(t, b.Shutdown(t.Context()))
		require.Equal(t, strings.Repeat("old\n", names)+"new\n", string(peer.Bytes()))
	})
}

// A handler that ends its goroutine, as t.FailNow does, holds up no other call.
func TestOnUndeliveredSurvivesGoexit(t *testing.T) {
	var calls atomic.Int64
	b := sendq.NewBroker(&sendq.BrokerOptions{OnUndelivered: func(string, iter.Seq[[]byte], error) {
		calls.Add(1)
		runtime.Goexit()
	}})
	for i := range 10 {
		register(t, b, memberName(i), stalledPeer())
	}
	b.Broadcast([]byte("message"))
	require.Error(t, b.Close())
	require.EqualValues(t, 10, calls.Load())
}
