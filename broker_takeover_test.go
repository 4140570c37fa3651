package sendq_test

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
)

// Whatever the two Writers are doing, the new peer gets the message that the new Writer has begun,
// then the messages of the old Writer, then everything else.
func TestTakeover(t *testing.T) {
	for _, o := range oldWriters {
		for _, n := range newWriters {
			t.Run(o.name+", by one that is "+n.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b, returned := newBroker(sendq.NameTakeover)
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

// A takeover does not pass on what is for the old connection only.
func TestTakeoverOfUrgentMessages(t *testing.T) {
	b, returned := newBroker(sendq.NameTakeover)
	old := register(t, b, "bob", stalledPeer())
	sendForOneConnection(t, old)
	peer := readingPeer()
	w := register(t, b, "bob", peer)
	require.EqualValues(t, 5, old.Stats().Undelivered)
	require.NoError(t, w.Close())
	require.Equal(t, "first\nalways\n", string(peer.Bytes()))
	require.Empty(t, returned.all())
}

// sendForOneConnection sends through w, whose peer is stalled. A takeover passes on "first\nalways\n".
func sendForOneConnection(t *testing.T, w *sendq.Writer) {
	require.NoError(t, second(w.WriteString("first\n")))
	for range 2 {
		require.NoError(t, second(w.WriteUrgent([]byte("pong"))))
	}
	require.NoError(t, second(w.WriteAlways([]byte("always\n"))))
	require.NoError(t, w.CloseWith([]byte("goodbye")))
}

// oldWriters prepare a Writer that has the name "bob", and return the messages it will leave.
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

// newWriters prepare a Writer without a name. They return the bytes that the peer has read, the
// messages already begun, and the messages that wait.
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

// longMessage returns a message that takes three conn.Writes.
var longMessage = sync.OnceValue(func() string { return string(letters(600 << 10)) })

var framed = &sendq.WriterOptions{MessageFramed: true}

// writeOneByOne writes n lines, waiting until the Writer is idle or stuck after each, and returns
// them.
func writeOneByOne(w *sendq.Writer, n int) (lines []string) {
	for i := range n {
		lines = append(lines, fmt.Sprintf("new %d\n", i))
		w.WriteString(lines[i])
		synctest.Wait()
	}
	return lines
}

// If a takeover begins in the middle of a message, the new Writer first writes the rest of it, even
// if that takes a second conn.Write.
func TestTakeoverBetweenTwoWrites(t *testing.T) {
	inTakeover(t, func(t *testing.T, tk takeover) {
		long := longMessage()
		tk.w.WriteString(long)
		received := take(t, tk.peer, 300<<10)
		tk.begin()
		tk.w.WriteString("waiting\n")
		received += take(t, tk.peer, 212<<10) // the end of the second write
		synctest.Wait()
		require.EqualValues(t, 2, tk.w.Stats().Writes)
		tk.end()
		rest := async(func() content { return readAll(tk.peer) })
		require.NoError(t, tk.w.Close())
		require.True(t, long+"old 0\nold 1\nwaiting\n" == received+(<-rest).bytes)
	})
}

// A failed takeover changes nothing.
func TestTakeoverFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, returned := newBroker(sendq.NameTakeover)
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

// A closing Writer takes over nothing, because it may have written its last message.
func TestTakeoverByOneThatIsClosing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, returned := newBroker(sendq.NameTakeover)
		old, _ := overPipe(t, nil)
		require.NoError(t, b.Register("bob", old))
		require.NoError(t, b.Send("bob", []byte("old\n")))
		conn, releaseClose := stalledClose()
		w := sendq.NewWriter(conn, nil)
		closed := async(w.Close)
		synctest.Wait() // until conn.Close waits
		require.ErrorIs(t, b.Register("bob", w), sendq.ErrClosed)
		requireHas(t, b, "bob", old)
		releaseClose()
		require.NoError(t, <-closed)
		require.NoError(t, old.Err())
		require.Empty(t, returned.all())
	})
}

// A Writer that is closed during its takeover waits for the old Writer's messages, even if its last
// write returns in between.
func TestTakeoverByOneThatClosesDuringAWrite(t *testing.T) {
	inTakeover(t, func(t *testing.T, tk takeover) {
		tk.w.WriteString("begun\n")
		synctest.Wait()
		tk.begin()
		closed := async(tk.w.Close)
		synctest.Wait()
		requireTake(t, tk.peer, "begun\n")
		synctest.Wait()
		require.Empty(t, closed)
		received := async(func() content { return readAll(tk.peer) })
		tk.end()
		require.NoError(t, <-closed)
		require.Equal(t, content{bytes: "old 0\nold 1\n"}, <-received)
		requireTakenOver(t, tk.old, tk.left)
		require.Empty(t, tk.returned.all())
	})
}

// If there is nothing to inherit, a Writer that is closed during its takeover ends with the
// takeover, not at its CloseTimeout.
func TestTakeoverOfNothingByOneThatIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := newBroker(sendq.NameTakeover)
		conn, releaseClose := stalledClose()
		register(t, b, "bob", conn)
		w, _ := overPipe(t, nil)
		registered := async(func() error { return b.Register("bob", w) })
		synctest.Wait()
		closed := async(w.Close)
		synctest.Wait()
		releaseClose()
		require.NoError(t, <-registered)
		began := time.Now()
		require.NoError(t, <-closed)
		require.Zero(t, time.Since(began))
	})
}

// A Writer that loses one of two names in a takeover ends. The new Writer gets its messages for
// both names.
func TestTakeoverOfOneOfTwoNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, returned := newBroker(sendq.NameTakeover)
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

// Undelivered of the old Writer stays valid after the new Writer has written the messages and their
// memory is reused.
func TestTakeoverLeavesUndeliveredAlone(t *testing.T) {
	b, _ := newBroker(sendq.NameTakeover)
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

// During Shutdown of the Broker a takeover fails, even if the old Writer has not ended.
func TestNoTakeoverDuringShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := newBroker(sendq.NameTakeover)
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
