package sendq_test

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/sendqtest"
)

// The answer comes before an urgent message that is sent while Resume waits. Otherwise the urgent
// message would not count, and be lost with the connection.
func TestResumeAnswersBeforeUrgentMessages(t *testing.T) {
	b, _ := newBroker(sendq.NameTakeover)
	conn := hooked(sendqtest.NewConn())
	closing := make(chan struct{})
	conn.Enter = func(method string) {
		if method == "Close" {
			<-closing
		}
	}
	old := sendq.NewWriter(conn, keeping)
	require.NoError(t, b.Register("bob", old))
	for i := range 3 {
		require.NoError(t, b.Send("bob", fmt.Appendf(nil, "line %d\n", i)))
	}
	require.NoError(t, old.Flush(t.Context()))
	peer := sendqtest.NewConn()
	w := sendq.NewWriter(peer, keeping)
	resumed := async(func() error { return second(b.Resume(t.Context(), "bob", w, 1, answerTo)) })
	for has, _ := b.Lookup("bob"); has != w; has, _ = b.Lookup("bob") {
		runtime.Gosched()
	}
	require.NoError(t, second(w.WriteUrgent([]byte("pong\n"))))
	close(closing)
	require.NoError(t, <-resumed)
	require.NoError(t, w.Flush(t.Context()))
	require.Equal(t, "back, 2 lines, 0 missed\npong\n"+lines(1, 3), string(peer.Bytes()))

	again := sendqtest.NewConn()
	next := sendq.NewWriter(again, keeping)
	require.NoError(t, second(b.Resume(t.Context(), "bob", next, 1, nil)))
	require.NoError(t, next.Close())
	require.Equal(t, "pong\n"+lines(1, 3), string(again.Bytes()))
}

// A peer that has lost some of what it had received is told exactly what is gone, also if the answer
// to its last count is not written yet.
func TestResumeWithLessThanBefore(t *testing.T) {
	for _, stalls := range []bool{false, true} {
		b, _ := newBroker(sendq.NameTakeover)
		old := sendq.NewWriter(sendqtest.NewConn(), keeping)
		require.NoError(t, b.Register("bob", old))
		for i := range 10 {
			require.NoError(t, b.Send("bob", fmt.Appendf(nil, "line %d\n", i)))
		}
		require.NoError(t, old.Flush(t.Context()))
		conn := sendqtest.NewConn()
		if stalls {
			conn.Stall()
		}
		w := sendq.NewWriter(conn, keeping)
		require.NoError(t, second(b.Resume(t.Context(), "bob", w, 5, answerTo)))
		if !stalls {
			require.NoError(t, w.Flush(t.Context()))
		}
		require.Zero(t, w.Stats().Acknowledged)
		peer := sendqtest.NewConn()
		next := sendq.NewWriter(peer, keeping)
		require.NoError(t, second(b.Resume(t.Context(), "bob", next, 3, answerTo)))
		require.NoError(t, next.Close())
		require.Equal(t, "back, 5 lines, 2 missed\n"+lines(5, 10), string(peer.Bytes()))
	}
}
