package sendq_test

import (
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/sendqtest"
)

// An urgent message does not overtake the answer of Resume.
func TestUrgentAfterTheAnswer(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	b := sendq.NewBroker(nil)
	require.NoError(t, b.Register("bob", sendq.NewWriter(sendqtest.NewConn(), keeping)))
	require.NoError(t, b.Send("bob", []byte("line 0\n")))
	flushAll(t, b)
	peer := sendqtest.NewConn()
	w := sendq.NewWriter(peer, keeping)
	require.NoError(t, second(b.Resume(t.Context(), "bob", w, 0, answerTo)))
	require.NoError(t, second(w.WriteUrgent([]byte("pong\n"))))
	require.NoError(t, w.Flush(t.Context()))
	require.True(t, strings.HasPrefix(string(peer.Bytes()), "back, "), "%q", peer.Bytes())
}

// If the program's function panics, no message is lost.
func TestAnswerPanics(t *testing.T) {
	var returned handBacks
	b := sendq.NewBroker(&sendq.BrokerOptions{OnUndelivered: returned.add, Linger: time.Minute})
	old := sendq.NewWriter(stalledPeer(), keeping)
	require.NoError(t, b.Register("bob", old))
	require.NoError(t, b.Send("bob", []byte("line 0\n")))
	peer := sendqtest.NewConn()
	w := sendq.NewWriter(peer, keeping)
	require.Panics(t, func() {
		b.Resume(t.Context(), "bob", w, 0, func(sendq.Resumed) []byte { panic("answer") })
	})
	w.Fail(io.EOF) // as a handler would
	peer = sendqtest.NewConn()
	w = sendq.NewWriter(peer, keeping)
	resumed, err := b.Resume(t.Context(), "bob", w, 0, nil)
	require.NoError(t, err)
	w.Close()
	require.Equal(t, "line 0\n", string(peer.Bytes()), "%v %v", resumed, returned.all())
}

// An answer that is not written is nobody's message.
func TestAnswerIsNotHandedBack(t *testing.T) {
	var returned handBacks
	b := sendq.NewBroker(&sendq.BrokerOptions{OnUndelivered: returned.add})
	w := sendq.NewWriter(stalledPeer(), keeping)
	require.NoError(t, second(b.Resume(t.Context(), "bob", w, 0, answerTo)))
	require.NoError(t, b.Send("bob", []byte("line 0\n")))
	w.Fail(io.EOF)
	b.CloseNow()
	require.Len(t, returned.all(), 1)
	require.Equal(t, []string{"line 0\n"}, returned.all()[0].messages)
}

// One of two names is resumed before the failed Writer has ended. The heir does not bring its messages again.
func TestHeirOfTwoNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var returned handBacks
		b := sendq.NewBroker(&sendq.BrokerOptions{Linger: time.Minute, OnUndelivered: returned.add})
		conn := hooked(sendqtest.NewConn())
		closing := make(chan struct{})
		conn.Enter = func(method string) {
			if method == "Close" {
				<-closing
			}
		}
		conn.Stall()
		old := sendq.NewWriter(conn, keeping)
		require.NoError(t, b.Register("a", old))
		require.NoError(t, b.Register("c", old))
		require.NoError(t, b.Send("a", []byte("line 0\n")))
		failed := async(func() error { return old.Fail(errReset) })
		synctest.Wait()
		peer := sendqtest.NewConn()
		w := sendq.NewWriter(peer, keeping)
		resumed := async(func() error { return second(b.Resume(t.Context(), "a", w, 0, nil)) })
		synctest.Wait()
		close(closing)
		require.NoError(t, <-failed)
		require.NoError(t, <-resumed)
		require.NoError(t, w.Close())
		require.Equal(t, "line 0\n", string(peer.Bytes()))
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		require.Empty(t, returned.all())
	})
}

// A Writer with names in two Brokers leaves its messages to one of them.
func TestHeirOfTwoBrokers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var returned handBacks
		b1 := sendq.NewBroker(&sendq.BrokerOptions{Linger: time.Minute})
		b2 := sendq.NewBroker(&sendq.BrokerOptions{OnUndelivered: returned.add})
		old := sendq.NewWriter(stalledPeer(), keeping)
		require.NoError(t, b1.Register("a", old))
		require.NoError(t, b2.Register("a", old))
		require.NoError(t, b1.Send("a", []byte("line 0\n")))
		require.NoError(t, old.Fail(errReset))
		synctest.Wait()
		peer := sendqtest.NewConn()
		w := sendq.NewWriter(peer, keeping)
		require.NoError(t, second(b1.Resume(t.Context(), "a", w, 0, nil)))
		require.NoError(t, w.Close())
		require.True(t, len(returned.all()) == 0 || len(peer.Bytes()) == 0)
	})
}

// If nobody comes back, the messages are handed back although only the other Broker has OnUndelivered.
func TestHeirOfTwoBrokersExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var returned handBacks
		b1 := sendq.NewBroker(&sendq.BrokerOptions{Linger: time.Minute})
		b2 := sendq.NewBroker(&sendq.BrokerOptions{OnUndelivered: returned.add})
		old := sendq.NewWriter(stalledPeer(), keeping)
		require.NoError(t, b1.Register("a", old))
		require.NoError(t, b2.Register("a", old))
		require.NoError(t, b1.Send("a", []byte("line 0\n")))
		require.NoError(t, old.Fail(errReset))
		time.Sleep(2 * time.Minute)
		require.Len(t, returned.all(), 1)
		require.Equal(t, []string{"line 0\n"}, returned.all()[0].messages)
	})
}

// Unregister of one name does not end the wait of another.
func TestUnregisterOneOfTwoNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := sendq.NewBroker(&sendq.BrokerOptions{Linger: time.Minute})
		conn := hooked(sendqtest.NewConn())
		closing := make(chan struct{})
		conn.Enter = func(method string) {
			if method == "Close" {
				<-closing
			}
		}
		old := sendq.NewWriter(conn, keeping)
		require.NoError(t, b.Register("a", old))
		require.NoError(t, b.Register("c", old))
		failed := async(func() error { return old.Fail(errReset) })
		synctest.Wait()
		require.True(t, b.Unregister("a", old))
		synctest.Wait()
		close(closing)
		require.NoError(t, <-failed)
		synctest.Wait()
		require.NoError(t, b.Send("c", []byte("line\n")))
		b.CloseNow()
	})
}

// An heir without a name ends.
func TestUnregisterHeir(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := sendq.NewBroker(&sendq.BrokerOptions{Linger: time.Hour})
		w := sendq.NewWriter(sendqtest.NewConn(), keeping)
		require.NoError(t, b.Register("bob", w))
		w.Fail(io.EOF)
		heir, _ := b.Lookup("bob")
		require.True(t, b.Unregister("bob", heir))
		synctest.Wait()
		require.True(t, hasEnded(heir))
	})
}

// A message may be acknowledged before its write has returned. No urgent message to the heir is taken for
// it.
func TestUrgentMessageToAnHeir(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := sendq.NewBroker(&sendq.BrokerOptions{Linger: linger})
		old := sendq.NewWriter(stalledPeer(), keeping)
		require.NoError(t, b.Register("bob", old))
		require.NoError(t, b.Send("bob", []byte("line 0\n")))
		synctest.Wait()
		require.NoError(t, old.Acknowledge(1))
		require.NoError(t, old.Fail(errReset))
		require.NoError(t, b.Send("bob", []byte("line 1\n")))
		heir, _ := b.Lookup("bob")
		require.NoError(t, second(heir.WriteUrgent([]byte("urgent\n"))))
		requireResumes(t, b, 1, lines(1, 2))
		b.CloseNow()
	})
}

// Nobody hears the last words to a peer that is away.
func TestDrainOfAnAwayName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var returned handBacks
		b := sendq.NewBroker(&sendq.BrokerOptions{Linger: time.Hour, OnUndelivered: returned.add})
		w := sendq.NewWriter(sendqtest.NewConn(), keeping)
		require.NoError(t, b.Register("bob", w))
		w.Fail(io.EOF)
		require.NoError(t, b.Send("bob", []byte("line\n")))
		_ = b.Drain(t.Context(), time.Minute, func(string) []byte { return []byte("goodbye\n") })
		require.Equal(t, []string{"line\n"}, returned.all()[0].messages)
	})
}

// A Budget that ends a Writer does not end another for its heir.
func TestHeirWithoutRoomInTheBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		budget := sendq.NewBudget(100 << 10)
		b := sendq.NewBroker(&sendq.BrokerOptions{Linger: time.Hour})
		opts := &sendq.WriterOptions{Keep: 1 << 20, Budget: budget}
		var ws []*sendq.Writer
		for i, size := range []int{60, 20, 10} {
			w := sendq.NewWriter(stalledPeer(), opts)
			ws = append(ws, w)
			name := fmt.Sprint(i)
			require.NoError(t, b.Register(name, w))
			for range size {
				require.NoError(t, b.Send(name, counted(1<<10)))
			}
			synctest.Wait()
		}
		require.NoError(t, b.Send("2", counted(11<<10)))
		synctest.Wait()
		require.Error(t, ws[0].Err())
		require.NoError(t, ws[1].Err())
		require.NoError(t, ws[2].Err())
		b.CloseNow()
		synctest.Wait()
		require.Zero(t, budget.PendingBytes())
	})
}

// While a name is away, nothing keeps the old connection in memory.
func TestHeirForgetsItsPredecessor(t *testing.T) {
	b := sendq.NewBroker(&sendq.BrokerOptions{Linger: time.Hour})
	var freed atomic.Bool
	opts := &sendq.WriterOptions{Keep: 8 << 20}
	before := heap()
	func() {
		conn := discarded()
		runtime.AddCleanup(conn, func(int) { freed.Store(true) }, 0)
		w := sendq.NewWriter(sendq.StreamConn(conn), opts)
		require.NoError(t, b.Register("bob", w))
		for range 7 << 10 {
			require.NoError(t, b.Send("bob", make([]byte, 1<<10)))
		}
		require.NoError(t, w.Flush(t.Context()))
		require.NoError(t, w.Fail(io.EOF))
	}()
	for range 7 << 10 {
		require.NoError(t, b.Send("bob", make([]byte, 1<<10)))
	}
	after := heap() - before
	require.Less(t, after, opts.Keep*5/4)
	require.True(t, freed.Load())
	runtime.KeepAlive(b)
}
