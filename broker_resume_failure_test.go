package sendq_test

import (
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/sendqtest"
)

// The new connection may fail while Resume waits for the end of the old one. The peer is told on the next
// one what is gone.
func TestResumeOfABrokenConnectionTellsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := sendq.NewBroker(&sendq.BrokerOptions{Linger: linger})
		conn, releaseClose := stalledClose()
		conn.Release()
		old := sendq.NewWriter(conn, &sendq.WriterOptions{Keep: 5 * 71})
		require.NoError(t, b.Register("bob", old))
		for _, line := range linesFrom(0, 9) {
			require.NoError(t, b.Send("bob", line))
		}
		require.NoError(t, old.Flush(t.Context()))
		resume := func(w *sendq.Writer) sendq.Resumed {
			resumed, err := b.Resume(t.Context(), "bob", w, 0, nil)
			if err != nil {
				t.Error(err)
			}
			return resumed
		}
		w := sendq.NewWriter(sendqtest.NewConn(), keeping)
		resumed := async(func() sendq.Resumed { return resume(w) })
		synctest.Wait()
		require.NoError(t, w.Fail(io.EOF))
		releaseClose()
		require.Equal(t, sendq.Resumed{Messages: 5, Missed: 4}, <-resumed)
		require.Equal(t, sendq.Resumed{Messages: 5, Missed: 4}, resume(sendq.NewWriter(sendqtest.NewConn(), keeping)))
		b.CloseNow()
	})
}

// A Writer that ends while it takes over inherits nothing, so the messages are handed back. If the peer
// comes back before that Writer has ended, it is told that something is missing.
func TestResumeAfterAnEndDuringTakeover(t *testing.T) {
	for _, tt := range []struct {
		name   string
		linger time.Duration
		end    func(w *sendq.Writer) error
	}{
		{"CloseNow", linger, (*sendq.Writer).CloseNow},
		{"a failure without Linger", 0, func(w *sendq.Writer) error { return w.Fail(errReset) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var returned handBacks
				b := sendq.NewBroker(&sendq.BrokerOptions{Linger: tt.linger, OnUndelivered: returned.add})
				oldConn, releaseOld := stalledClose()
				newConn, releaseNew := stalledClose()
				require.NoError(t, b.Register("bob", sendq.NewWriter(oldConn, keeping)))
				require.NoError(t, b.Send("bob", []byte("line 0\n")))
				w := sendq.NewWriter(newConn, keeping)
				resumed := async(func() error { return second(b.Resume(t.Context(), "bob", w, 0, nil)) })
				synctest.Wait()
				ended := async(func() error { return tt.end(w) })
				synctest.Wait()
				releaseOld()
				require.NoError(t, <-resumed)
				last := sendq.NewWriter(sendqtest.NewConn(), keeping)
				var result sendq.Resumed
				resumed = async(func() (err error) {
					result, err = b.Resume(t.Context(), "bob", last, 0, nil)
					return err
				})
				synctest.Wait()
				releaseNew()
				require.NoError(t, <-resumed)
				require.NoError(t, <-ended)
				require.Equal(t, sendq.Resumed{Missed: -1}, result)
				require.Len(t, returned.all(), 1)
				require.Equal(t, []string{"line 0\n"}, returned.all()[0].messages)
				b.CloseNow()
			})
		})
	}
}

// A name that was free may be away before Resume has made the answer. The peer is told again that the
// number of missing messages is unknown.
func TestResumeOfAFreeNameByABrokenConnection(t *testing.T) {
	for range 100 {
		b := sendq.NewBroker(&sendq.BrokerOptions{Linger: linger})
		w := sendq.NewWriter(sendqtest.NewConn(), keeping)
		failed := async(func() error {
			for {
				if has, _ := b.Lookup("bob"); has == w {
					return w.Fail(io.EOF)
				}
			}
		})
		require.NoError(t, second(b.Resume(t.Context(), "bob", w, 10, nil)))
		require.NoError(t, <-failed)
		resumed, err := b.Resume(t.Context(), "bob", sendq.NewWriter(sendqtest.NewConn(), keeping), 10, nil)
		require.NoError(t, err)
		require.Equal(t, sendq.Resumed{Missed: -1}, resumed)
		b.CloseNow()
	}
}

// Linger may end before the takeover does. Everything is handed back then, once.
func TestLingerEndsDuringTakeover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var returned handBacks
		b := sendq.NewBroker(&sendq.BrokerOptions{Linger: linger, OnUndelivered: returned.add})
		conn, releaseClose := stalledClose()
		require.NoError(t, b.Register("bob", sendq.NewWriter(conn, keeping)))
		require.NoError(t, b.Send("bob", []byte("line 0\n")))
		w := sendq.NewWriter(sendqtest.NewConn(), keeping)
		resumed := async(func() error { return second(b.Resume(t.Context(), "bob", w, 0, nil)) })
		synctest.Wait()
		require.NoError(t, b.Send("bob", []byte("line 1\n")))
		require.NoError(t, w.Fail(io.EOF))
		require.NoError(t, b.Send("bob", []byte("line 2\n")))
		time.Sleep(linger)
		synctest.Wait()
		releaseClose()
		require.NoError(t, <-resumed)
		synctest.Wait()
		var got []string
		for _, call := range returned.all() {
			got = append(got, call.messages...)
		}
		require.ElementsMatch(t, []string{"line 0\n", "line 1\n", "line 2\n"}, got)
		b.CloseNow()
	})
}
