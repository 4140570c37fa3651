package sendq

import (
	"context"
	"errors"
	"io"
	"math"
	"net"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq/internal/sock"
	"github.com/sendq-go/sendq/sendqtest"
)

// Canceled calls of Flush are forgotten. Outside of the package only memory would show it.
func TestQueueForgetsCanceledFlushes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := sendqtest.NewConn()
		conn.Stall()
		w := NewWriter(conn, nil)
		require.NoError(t, w.Send([]byte("message")))
		ctx, cancel := context.WithCancel(t.Context())
		var flushed []chan error
		for range 10 {
			result := make(chan error)
			flushed = append(flushed, result)
			go func() { result <- w.Flush(ctx) }()
		}
		synctest.Wait()
		require.NotNil(t, w.watchers)
		cancel()
		for _, result := range flushed {
			require.ErrorIs(t, <-result, context.Canceled)
		}
		require.Nil(t, w.watchers)
		conn.Release()
		require.NoError(t, w.Close())
	})
}

// An idle Writer takes at most 256 bytes of heap, everything included.
func TestWriterIsSmall(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			address := "127.0.0.1:0"
			if network == "unix" {
				address = filepath.Join(t.TempDir(), "socket")
			}
			listener, err := net.Listen(network, address)
			require.NoError(t, err)
			defer listener.Close()
			conn, err := net.Dial(network, listener.Addr().String())
			require.NoError(t, err)
			defer conn.Close()
			writers := make([]*Writer, 10_000)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for i := range writers {
				writers[i] = NewWriter(conn, nil)
			}
			runtime.ReadMemStats(&after)
			each := (after.TotalAlloc - before.TotalAlloc) / uint64(len(writers))
			require.LessOrEqual(t, each, uint64(256))
		})
	}
}

// A closing or ended Writer keeps no message of a blocked sender.
func TestRefusedSendersAreForgotten(t *testing.T) {
	for name, end := range map[string]func(w *Writer){
		"Shutdown": func(w *Writer) { _ = w.Shutdown(context.Background()) },
		"CloseNow": func(w *Writer) { _ = w.CloseNow() },
	} {
		t.Run(name, func(t *testing.T) {
			conn := sendqtest.NewConn()
			conn.Stall()
			w := NewWriter(conn, &WriterOptions{MaxPending: 100, Overflow: Block})
			require.NoError(t, w.Send(make([]byte, 36)))
			refused := make(chan error, 1)
			go func() { refused <- w.Send(make([]byte, 36)) }()
			waiting := func() int {
				w.mu.Lock()
				defer w.mu.Unlock()
				return w.limits.blocked.Len()
			}
			for waiting() == 0 {
				runtime.Gosched()
			}
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				end(w)
			}()
			require.ErrorIs(t, <-refused, ErrClosed)
			require.Zero(t, waiting())
			conn.Release()
			<-ended
		})
	}
}

// Close also waits until the peer's kernel has acknowledged the goodbye, although all messages have
// arrived.
func TestFinishWaitsForTheGoodbye(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	inner, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	defer inner.Close()
	peer, err := l.Accept()
	require.NoError(t, err)
	defer peer.Close()
	if _, err := sock.StateOf(inner); errors.Is(err, errors.ErrUnsupported) {
		t.Skip("this platform does not tell what is acknowledged")
	}

	// The kernel is full of other data, and the goodbye follows that data.
	require.NoError(t, inner.(*net.TCPConn).SetWriteBuffer(1))
	require.NoError(t, inner.SetWriteDeadline(time.Now().Add(50*time.Millisecond)))
	_, err = inner.Write(make([]byte, 64<<20))
	require.Error(t, err)
	conn := &lookHookConn{Conn: inner, after: 12, do: func() { _, _ = io.Copy(io.Discard, peer) }}
	w := NewWriter(conn, nil)
	w.watch().linger = &linger{aborted: make(chan struct{}), isKnown: true, goal: math.MaxInt64} // the first look lowers it
	w.deliverRest()
	s, err := sock.StateOf(inner)
	require.NoError(t, err)
	require.Zero(t, s.Unacknowledged)
}

// A lookHookConn calls do at one of the looks at its inner connection.
type lookHookConn struct {
	net.Conn
	looks, after int
	do           func()
}

func (c *lookHookConn) NetConn() net.Conn {
	if c.looks++; c.looks == c.after {
		c.do()
	}
	return c.Conn
}

// A peer is silent from the look that found something to take until it takes some.
func TestSilence(t *testing.T) {
	for _, tt := range []struct {
		name      string
		last, now sock.State
		isWriting bool // since before the last look
		want      bool
	}{
		{"nothing to take", sock.State{Acknowledged: 5}, sock.State{Acknowledged: 5}, false, false},
		{"bytes that are new", sock.State{Acknowledged: 5}, sock.State{Acknowledged: 5, Unacknowledged: 1}, true, false},
		{"the same bytes", sock.State{Acknowledged: 5, Unacknowledged: 1}, sock.State{Acknowledged: 5, Unacknowledged: 1}, false, true},
		{"more bytes", sock.State{Acknowledged: 5, Unacknowledged: 1}, sock.State{Acknowledged: 5, Unacknowledged: 9}, false, true},
		{"some were acknowledged", sock.State{Acknowledged: 5, Unacknowledged: 9}, sock.State{Acknowledged: 6, Unacknowledged: 8}, true, false},
		{"some were read", sock.State{Unread: 9}, sock.State{Unread: 8}, true, false},
		{"none were read", sock.State{Unread: 9}, sock.State{Unread: 9}, true, true},
		{"a write", sock.State{}, sock.State{}, true, true},
	} {
		l := &limits{deadlines: deadlines{peer: tt.last}}
		require.Equal(t, tt.want, l.isSilent(tt.now, tt.isWriting), tt.name)
		l.deadlines.begun++ // a write has begun since, and the one before has returned
		require.Equal(t, tt.want && tt.last.Unacknowledged > 0, l.isSilent(tt.now, tt.isWriting), tt.name)
	}
}

// A write may take a part of what it was given. An urgent message that was behind all of it stays
// before later urgent ones.
func TestUrgentAfterAPartialWrite(t *testing.T) {
	w := NewWriter(sendqtest.NewConn(), &WriterOptions{MaxPending: 1000, Overflow: DropOldest})
	w.flushing = true // by this test
	for _, p := range []string{"a", "b", "c", "d"} {
		w.WriteString(p)
	}
	w.queue.Peek(3, math.MaxInt64)
	w.WriteUrgent([]byte("1"))
	w.wrote(w.queue.Advance(1))
	w.WriteUrgent([]byte("2"))
	require.Equal(t, "bc12d", messagesOf(w))
	w.dropOldest(1)
	w.WriteUrgent([]byte("3"))
	require.Equal(t, "c123d", messagesOf(w))
	w.flushing = false
	w.CloseNow()
}

func messagesOf(w *Writer) string {
	return string(slices.Concat(slices.Collect(w.queue.All())...))
}

// A paused Writer has no flusher to give back the memory of a queue that has expired.
func TestExpiredQueueKeepsNoMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := NewWriter(sendqtest.NewConn(), &WriterOptions{MaxAge: time.Minute, Expire: true})
		require.True(t, w.pause())
		for range 1000 {
			w.WriteString("message")
		}
		time.Sleep(59 * time.Second)
		require.Zero(t, w.Stats().Dropped)
		time.Sleep(time.Minute)
		require.EqualValues(t, 1000, w.Stats().Dropped)
		require.Zero(t, w.queue)
		w.resume()
		w.CloseNow()
	})
}

// A hiddenConn may lose bytes when it is closed, and hides how many.
type hiddenConn struct{ net.Conn }

func (hiddenConn) LocalAddr() net.Addr { return &net.TCPAddr{} }

// A limit or a lost name while Close waits for the peer ends that wait at once. It is too late for a
// farewell, and no reason for an error if nothing is known to be lost.
func TestDismissedWhenAllIsWritten(t *testing.T) {
	for _, cause := range []error{ErrSlowConsumer, ErrNameLost} {
		synctest.Test(t, func(t *testing.T) {
			w := NewWriter(hiddenConn{sendqtest.NewConn()}, &WriterOptions{Farewell: func(error) []byte { panic("called") }})
			require.NoError(t, w.Send([]byte("message")))
			closed := make(chan error, 1)
			began := time.Now()
			go func() { closed <- w.Close() }()
			synctest.Wait()
			require.Empty(t, closed)
			w.dismiss(cause)
			require.NoError(t, <-closed)
			require.Less(t, time.Since(began), unknownWait)
		})
	}
}
