package sendq_test

import (
	"io"
	"net"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/sendqtest"
)

// The Resume of an abandoned connection may come after that of the next one.
func TestLateResume(t *testing.T) {
	b, _ := resumedWithFive(t, sendqtest.NewConn(), keeping)
	late := sendq.NewWriter(stalledPeer(), keeping) // began before, but its login was late
	require.NoError(t, second(b.Resume(t.Context(), "bob", late, 3, nil)))
	require.NoError(t, late.Fail(io.EOF))
	resumed, err := b.Resume(t.Context(), "bob", sendq.NewWriter(sendqtest.NewConn(), keeping), 5, nil)
	require.NoError(t, err)
	require.Equal(t, sendq.Resumed{}, resumed)
	b.CloseNow()
}

// The connection of a late Resume may fail while Resume waits. Its heir knows what the peer can have
// received before.
func TestLateResumeOfABrokenConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, releaseClose := stalledClose()
		conn.Release()
		b, _ := resumedWithFive(t, conn, keeping)
		late := sendq.NewWriter(stalledPeer(), keeping)
		done := async(func() error { return second(b.Resume(t.Context(), "bob", late, 3, nil)) })
		synctest.Wait()
		require.NoError(t, late.Fail(io.EOF))
		releaseClose()
		require.NoError(t, <-done)
		resumed, err := b.Resume(t.Context(), "bob", sendq.NewWriter(sendqtest.NewConn(), keeping), 5, nil)
		require.NoError(t, err)
		require.Equal(t, sendq.Resumed{}, resumed)
		b.CloseNow()
	})
}

// If messages are gone, a late Resume numbers the others anew. So the count of the later connection
// stands for other messages, and is refused.
func TestLateResumeWithLosses(t *testing.T) {
	for name, lose := range map[string]func(next *sendq.Writer) error{
		"acknowledged": func(next *sendq.Writer) error { return next.Acknowledge(5) },
		"beyond Keep":  func(*sendq.Writer) error { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			b, next := resumedWithFive(t, sendqtest.NewConn(), &sendq.WriterOptions{Keep: 71, MaxPending: 1 << 20})
			require.NoError(t, lose(next))
			late := sendq.NewWriter(stalledPeer(), keeping)
			require.NoError(t, second(b.Resume(t.Context(), "bob", late, 3, nil)))
			require.NoError(t, late.Fail(io.EOF))
			require.NoError(t, b.Send("bob", []byte("line 5\n")))
			w := sendq.NewWriter(sendqtest.NewConn(), keeping)
			require.ErrorIs(t, second(b.Resume(t.Context(), "bob", w, 5, nil)), sendq.ErrWrongCount)
			b.CloseNow()
		})
	}
}

// A node cannot refuse the count if another one has the name. There the number of missing messages is
// unknown.
func TestRelayLateResumeWithLosses(t *testing.T) {
	inCluster(t, 2, sendq.BrokerOptions{Linger: linger}, func(t *testing.T, _ *hub, bs []*sendq.Broker) {
		old := sendq.NewWriter(readingPeer(), keeping)
		require.NoError(t, bs[0].Register("bob", old))
		for _, line := range linesFrom(0, 5) {
			require.NoError(t, bs[0].Send("bob", line))
		}
		require.NoError(t, old.Flush(t.Context()))
		require.NoError(t, old.Acknowledge(5))
		resume := func(node int, received int64) (*sendq.Writer, sendq.Resumed) {
			settle()
			w := sendq.NewWriter(stalledPeer(), keeping)
			resumed, err := bs[node].Resume(t.Context(), "bob", w, received, nil)
			require.NoError(t, err)
			return w, resumed
		}
		late, resumed := resume(1, 3)
		require.Equal(t, sendq.Resumed{Missed: 2}, resumed)
		require.NoError(t, late.Fail(io.EOF))
		require.NoError(t, bs[1].Send("bob", []byte("line 5\n")))
		_, resumed = resume(0, 5)
		require.Equal(t, sendq.Resumed{Messages: 1, Missed: -1}, resumed)
	})
}

// resumedWithFive returns a Broker in which bob has resumed with 3 messages, through a Writer on conn. He
// has 5 messages now.
func resumedWithFive(t *testing.T, conn net.Conn, opts *sendq.WriterOptions) (*sendq.Broker, *sendq.Writer) {
	b := sendq.NewBroker(&sendq.BrokerOptions{Linger: linger})
	require.NoError(t, b.Register("bob", sendq.NewWriter(sendqtest.NewConn(), keeping)))
	for _, line := range linesFrom(0, 5) {
		require.NoError(t, b.Send("bob", line))
	}
	flushAll(t, b)
	w := sendq.NewWriter(conn, opts)
	require.NoError(t, second(b.Resume(t.Context(), "bob", w, 3, nil)))
	require.NoError(t, w.Flush(t.Context()))
	return b, w
}
