package sendq_test

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/sendqtest"
)

// keeping are the options of Writers that can be resumed.
var keeping = &sendq.WriterOptions{Keep: 1 << 20}

// A peer that is back gets what it has not received, written or not, behind the answer.
func TestResume(t *testing.T) {
	for _, policy := range []sendq.NamePolicy{sendq.NameReject, sendq.NameTakeover} {
		t.Run(policy.String(), func(t *testing.T) {
			b, returned := newBroker(policy)
			conn := sendqtest.NewConn()
			old := sendq.NewWriter(conn, keeping)
			require.NoError(t, b.Register("bob", old))
			require.NoError(t, b.Room("room").Join("bob"))
			send := func(from, to int) {
				for i := from; i < to; i++ {
					require.NoError(t, b.Send("bob", fmt.Appendf(nil, "line %d\n", i)))
				}
			}
			send(0, 10)
			require.NoError(t, old.Flush(t.Context()))
			require.NoError(t, old.Acknowledge(2))
			conn.Stall()
			send(10, 20)
			require.NoError(t, second(old.WriteUrgent([]byte("pong\n"))))

			peer := sendqtest.NewConn()
			w := sendq.NewWriter(peer, keeping)
			resumed, err := b.Resume(t.Context(), "bob", w, 7, answerTo)
			require.NoError(t, err)
			require.Equal(t, sendq.Resumed{Messages: 13}, resumed)
			require.ErrorIs(t, old.Err(), sendq.ErrTakenOver)
			send(20, 21)
			require.Equal(t, 1, b.Room("room").Publish([]byte("line 21\n")))
			require.NoError(t, w.Flush(t.Context()))
			require.Equal(t, "back, 13 lines, 0 missed\n"+lines(7, 22), string(peer.Bytes()))

			// The next count goes on from the last one, and the answer does not count.
			require.ErrorIs(t, w.Acknowledge(6), sendq.ErrWrongCount)
			require.NoError(t, w.Acknowledge(9))
			require.EqualValues(t, 13, w.Stats().Kept)
			again := sendqtest.NewConn()
			next := sendq.NewWriter(again, keeping)
			resumed, err = b.Resume(t.Context(), "bob", next, 20, nil)
			require.NoError(t, err)
			require.Equal(t, sendq.Resumed{Messages: 2}, resumed)
			require.NoError(t, next.Close())
			require.Equal(t, lines(20, 22), string(again.Bytes()))
			require.Empty(t, returned.all())
		})
	}
}

func answerTo(r sendq.Resumed) []byte {
	return fmt.Appendf(nil, "back, %d lines, %d missed\n", r.Messages, r.Missed)
}

// lines returns the lines "line from\n" to "line to-1\n".
func lines(from, to int) string {
	var s strings.Builder
	for _, line := range linesFrom(from, to) {
		s.Write(line)
	}
	return s.String()
}

// If a connection breaks before the peer has received anything on it, the peer comes back with the
// count that it had.
func TestResumeAgain(t *testing.T) {
	b, _ := newBroker(sendq.NameReject)
	require.NoError(t, b.Register("bob", sendq.NewWriter(sendqtest.NewConn(), keeping)))
	for i := range 10 {
		require.NoError(t, b.Send("bob", fmt.Appendf(nil, "line %d\n", i)))
	}
	flushAll(t, b)
	for range 3 {
		w := sendq.NewWriter(sendqtest.NewConn(), keeping)
		resumed, err := b.Resume(t.Context(), "bob", w, 4, answerTo)
		require.NoError(t, err)
		require.Equal(t, sendq.Resumed{Messages: 6}, resumed)
		require.NoError(t, w.Flush(t.Context()))
	}
	peer := sendqtest.NewConn()
	w := sendq.NewWriter(peer, keeping)
	resumed, err := b.Resume(t.Context(), "bob", w, 5, answerTo)
	require.NoError(t, err)
	require.Equal(t, sendq.Resumed{Messages: 5}, resumed)
	require.NoError(t, w.Close())
	require.Equal(t, "back, 5 lines, 0 missed\n"+lines(5, 10), string(peer.Bytes()))
}

// The peer is told how many messages are gone, or that nobody knows.
func TestResumeWithLosses(t *testing.T) {
	for _, tt := range []struct {
		name     string
		keep     int
		received int64
		want     sendq.Resumed
	}{
		{"all kept", 1 << 20, 10, sendq.Resumed{Messages: 90}},
		{"few kept", 10 * 72, 10, sendq.Resumed{Messages: 10, Missed: 80}},
		{"what is gone was received", 10 * 72, 95, sendq.Resumed{Messages: 5}},
		{"nothing kept", 0, 10, sendq.Resumed{Missed: 90}},
		{"nothing missed", 0, 100, sendq.Resumed{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b, _ := newBroker(sendq.NameTakeover)
			old := sendq.NewWriter(sendqtest.NewConn(), &sendq.WriterOptions{Keep: tt.keep})
			require.NoError(t, b.Register("bob", old))
			for i := range 100 {
				require.NoError(t, b.Send("bob", fmt.Appendf(nil, "line %2d\n", i)))
			}
			require.NoError(t, old.Flush(t.Context()))
			w := sendq.NewWriter(sendqtest.NewConn(), keeping)
			resumed, err := b.Resume(t.Context(), "bob", w, tt.received, nil)
			require.NoError(t, err)
			require.Equal(t, tt.want, resumed)
			require.NoError(t, w.Close())
		})
	}
	t.Run("nobody has the name", func(t *testing.T) {
		b, _ := newBroker(sendq.NameTakeover)
		peer := sendqtest.NewConn()
		w := sendq.NewWriter(peer, keeping)
		resumed, err := b.Resume(t.Context(), "bob", w, 10, answerTo)
		require.NoError(t, err)
		require.Equal(t, sendq.Resumed{Missed: -1}, resumed)
		requireHas(t, b, "bob", w)
		require.NoError(t, b.Send("bob", []byte("line\n")))
		require.NoError(t, w.Flush(t.Context()))
		require.Equal(t, "back, 0 lines, -1 missed\nline\n", string(peer.Bytes()))
		require.NoError(t, w.Acknowledge(11))
		require.ErrorIs(t, w.Acknowledge(12), sendq.ErrWrongCount)
	})
}

// What cannot be resumed is refused, and changes nothing.
func TestResumeIsRefused(t *testing.T) {
	b, _ := newBroker(sendq.NameReject)
	old := sendq.NewWriter(sendqtest.NewConn(), keeping)
	require.NoError(t, b.Register("bob", old))
	require.NoError(t, b.Send("bob", []byte("message")))
	require.NoError(t, old.Flush(t.Context()))
	used := sendq.NewWriter(sendqtest.NewConn(), keeping)
	used.WriteString("greeting")
	closed := sendq.NewWriter(sendqtest.NewConn(), keeping)
	closed.CloseNow()
	for _, tt := range []struct {
		name     string
		w        *sendq.Writer
		received int64
		is       error
		text     string
	}{
		{"too many", sendq.NewWriter(sendqtest.NewConn(), keeping), 2, sendq.ErrWrongCount, `sendq: resume "bob": wrong count of received messages: 2, and 1 were written`},
		{"negative", sendq.NewWriter(sendqtest.NewConn(), keeping), -1, sendq.ErrWrongCount, `sendq: resume "bob": wrong count of received messages: -1`},
		{"without Keep", sendq.NewWriter(sendqtest.NewConn(), nil), 1, nil, `sendq: resume "bob": the Writer has no Keep`},
		{"used", used, 1, nil, `sendq: resume "bob": something was sent through the Writer before`},
		{"closed", closed, 1, net.ErrClosed, `sendq: register "bob": Writer is closing or has ended: closed`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			resumed, err := b.Resume(t.Context(), "bob", tt.w, tt.received, answerTo)
			require.EqualError(t, err, tt.text)
			if tt.is != nil {
				require.ErrorIs(t, err, tt.is)
			}
			require.Zero(t, resumed)
			require.NoError(t, old.Err())
			if tt.name == "too many" { // it may be registered as a new one
				require.NoError(t, b.Register("carol", tt.w))
				require.NoError(t, b.Send("carol", []byte("message")))
				require.NoError(t, tt.w.Flush(t.Context()))
				require.ErrorIs(t, tt.w.Acknowledge(2), sendq.ErrWrongCount)
				require.NoError(t, tt.w.Acknowledge(1))
			}
			requireHas(t, b, "bob", old)
		})
	}
	t.Run("NameAttach", func(t *testing.T) {
		b, _ := newBroker(sendq.NameAttach)
		_, err := b.Resume(t.Context(), "bob", sendq.NewWriter(sendqtest.NewConn(), keeping), 0, nil)
		require.EqualError(t, err, "sendq: Resume and NameAttach exclude each other")
	})
	require.Panics(t, func() { b.Resume(context.Context(nil), "bob", used, 0, nil) })
}

// A peer may count a farewell. It is no message, so nothing is left out for it.
func TestResumeAfterAFarewell(t *testing.T) {
	b, _ := newBroker(sendq.NameTakeover)
	conn := hooked(sendqtest.NewConn())
	closing := make(chan struct{})
	conn.Enter = func(method string) {
		if method == "Close" {
			<-closing
		}
	}
	old := sendq.NewWriter(conn, &sendq.WriterOptions{
		Keep: 1 << 20, MaxMessages: 3,
		Farewell: func(error) []byte { return []byte("too slow\n") },
	})
	require.NoError(t, b.Register("bob", old))
	require.NoError(t, b.Send("bob", []byte("line 0\n")))
	require.NoError(t, old.Flush(t.Context()))
	conn.Stall()
	for i := range 3 {
		require.NoError(t, b.Send("bob", fmt.Appendf(nil, "line %d\n", i+1)))
	}
	require.ErrorIs(t, b.Send("bob", []byte("line 4\n")), sendq.ErrSlowConsumer)
	conn.Release()
	peer := sendqtest.NewConn()
	w := sendq.NewWriter(peer, keeping)
	for !strings.HasSuffix(string(conn.Bytes()), "too slow\n") {
		runtime.Gosched()
	}
	received := strings.Count(string(conn.Bytes()), "\n") // the farewell too
	resumed := async(func() error {
		return second(b.Resume(t.Context(), "bob", w, int64(received), nil))
	})
	for has, _ := b.Lookup("bob"); has != w; has, _ = b.Lookup("bob") {
		runtime.Gosched()
	}
	close(closing)
	require.NoError(t, <-resumed)
	require.NoError(t, w.Close())
	require.Equal(t, lines(received-1, 4), string(peer.Bytes()))
}
