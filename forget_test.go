package sendq_test

import (
	"iter"
	"runtime"
	"testing"
	"time"
	"weak"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
)

// requireForgotten requires that nothing keeps a Writer alive.
func requireForgotten(t *testing.T, w weak.Pointer[sendq.Writer]) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); w.Value() != nil; time.Sleep(time.Millisecond) {
		require.True(t, time.Now().Before(deadline), "the Writer is kept")
		runtime.GC()
	}
}

// A Broker that has handed back what a Writer left keeps neither.
func TestOnUndeliveredForgets(t *testing.T) {
	calls := make(chan string)
	b := sendq.NewBroker(&sendq.BrokerOptions{OnUndelivered: func(name string, _ iter.Seq[[]byte], _ error) { calls <- name }})
	end := func(name string) weak.Pointer[sendq.Writer] {
		w := sendq.NewWriter(stalledPeer(), nil)
		require.NoError(t, b.Register(name, w))
		require.NoError(t, b.Send(name, []byte("message")))
		w.CloseNow()
		return weak.Make(w)
	}
	var ended []weak.Pointer[sendq.Writer]
	for i := range 3 { // the first call waits, so that the others are queued together
		ended = append(ended, end(memberName(i)))
	}
	for _, w := range ended {
		<-calls
		requireForgotten(t, w) // while the next call waits
	}
	runtime.KeepAlive(b)
}

// What a large fan-out has used for its idle Writers keeps none of them, although the next
// ones use it again.
func TestFanOutForgets(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // one pool, so that it is used again
	b := sendq.NewBroker(nil)
	var ended []weak.Pointer[sendq.Writer]
	func() {
		var writers []*sendq.Writer
		for i := range 100 {
			w := sendq.NewWriter(readingPeer(), nil)
			require.NoError(t, b.Register(memberName(i), w))
			writers = append(writers, w)
		}
		require.Equal(t, len(writers), b.Broadcast([]byte("message")))
		for _, w := range writers {
			require.NoError(t, w.Close())
			ended = append(ended, weak.Make(w))
		}
	}()
	last := register(t, b, "last", readingPeer())
	for range 10 {
		require.Equal(t, 1, b.Broadcast([]byte("message")))
		require.NoError(t, last.Flush(t.Context()))
		runtime.GC()
	}
	for i, w := range ended {
		require.Nil(t, w.Value(), "Writer %d is kept", i)
	}
	require.NoError(t, last.Close())
}
