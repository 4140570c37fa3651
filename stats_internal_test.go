package sendq

import (
	"math"
	"math/rand/v2"
	"net"
	"reflect"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// Collecting the figures of a Broker's Writers delays nothing else.
func TestStatsHoldUpNothingElse(t *testing.T) {
	newWriter := func() *Writer {
		conn, _ := net.Pipe()
		return NewWriter(conn, nil)
	}
	b := NewBroker(nil)
	defer b.CloseNow()
	busy, bob := newWriter(), newWriter()
	defer bob.CloseNow()
	require.NoError(t, b.Register("busy", busy))
	require.NoError(t, b.Register("bob", bob))
	require.NoError(t, b.Room("room").Join("bob"))

	busy.mu.Lock() // Stats waits here
	asked := make(chan BrokerStats)
	go func() { asked <- b.Stats() }()
	for !b.tally.isRead() {
		runtime.Gosched()
	}
	carol := newWriter()
	require.NoError(t, b.Register("carol", carol))
	require.NoError(t, b.Room("room").Join("carol"))
	require.NoError(t, b.Send("bob", []byte("direct")))
	require.Equal(t, 2, b.Room("room").Publish([]byte("to a room")))
	require.NoError(t, carol.CloseNow())
	require.True(t, b.Unregister("bob", bob))
	require.Empty(t, asked)
	busy.mu.Unlock()
	require.Equal(t, 2, (<-asked).Writers)
}

// isRead reports whether there is a snapshot of the Writers.
func (t *Tally) isRead() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return reflect.ValueOf(&t.living).Elem().FieldByName("frozen").Bool()
}

// A Writer that Register refuses never counts, whatever the reason.
func TestRefusedWriterDoesNotCount(t *testing.T) {
	b := NewBroker(&BrokerOptions{NamePolicy: NameTakeover})
	defer b.CloseNow()
	require.NoError(t, b.Register("bob", newIdleWriter()))

	closing := newIdleWriter()
	_, err := closing.WriteString("nobody reads this")
	require.NoError(t, err)
	closed := make(chan error)
	go func() { closed <- closing.Shutdown(t.Context()) }()
	for closing.currentState() == open {
	}
	require.ErrorIs(t, b.Register("bob", closing), ErrClosed)
	require.Equal(t, 1, b.Stats().Writers)
	require.NoError(t, closing.CloseNow())
	require.Error(t, <-closed)
	require.ErrorIs(t, b.Register("bob", closing), ErrClosed)
	require.ErrorIs(t, b.Register("alice", closing), ErrClosed)
	require.Equal(t, TallyStats{Writers: 1}, b.Stats().TallyStats)
	w, _ := b.Lookup("bob")
	require.Equal(t, open, w.currentState())
}

// A Writer that ends during Register counts if and only if it got the name.
func TestWriterThatEndsInRegisterCounts(t *testing.T) {
	for _, policy := range []NamePolicy{NameReject, NameTakeover} {
		b := NewBroker(&BrokerOptions{NamePolicy: policy})
		var registered atomic.Int64
		for range 2000 {
			w := newIdleWriter()
			var start atomic.Bool
			closed := make(chan struct{})
			go func() {
				for !start.Load() {
				}
				for range rand.IntN(200) {
					w.Err()
				}
				w.CloseNow()
				close(closed)
			}()
			start.Store(true)
			if b.Register("bob", w) == nil {
				registered.Add(1)
			}
			<-closed
		}
		require.NoError(t, b.CloseNow())
		s := b.Stats()
		require.Zero(t, s.Writers)
		require.Equal(t, registered.Load(), s.Ends.Closed.Writers+s.Ends.TakenOver.Writers)
	}
}

// A quantile of fan-outs that Prometheus estimates from the buckets is near the true one: less than
// one recipient below it up to 10, and off by less than a factor of 1.5 up to a million.
func TestFanOutQuantileIsNear(t *testing.T) {
	for _, size := range slices.Concat(upTo(100_000), []int{100_001, 333_333, 999_999, 1_000_000}) {
		var f fanOuts
		f.count(100, size)
		sizes := f.stats().Sizes
		for _, q := range []float64{0.01, 0.5, 0.99, 1} {
			got, want := quantile(q, sizes), float64(size)
			isNear := math.Ceil(got) == want
			if size > 10 {
				isNear = max(got/want, want/got) < 1.5
			}
			if !isNear { // require.True would take most of the time
				require.Fail(t, "far off", "quantile %v of %d: %v", q, size, got)
			}
		}
	}

	var mixed fanOuts
	for size := 1; size <= 1000; size++ {
		mixed.count(1, size)
	}
	for _, q := range []float64{0.001, 0.01, 0.25, 0.5, 0.9, 0.99, 1} {
		got, want := quantile(q, mixed.stats().Sizes), 1000*q
		require.Less(t, max(got/want, want/got), 1.1, "quantile %v", q)
	}
	require.EqualValues(t, 1000*1001/2, mixed.stats().Recipients)
}

func upTo(n int) (all []int) {
	for i := range n {
		all = append(all, i+1)
	}
	return all
}

// quantile is histogram_quantile of Prometheus: linear within a bucket.
func quantile(q float64, buckets []FanOutBucket) float64 {
	var all, below, from float64
	for _, b := range buckets {
		all += float64(b.Messages)
	}
	for _, b := range buckets {
		n, to := float64(b.Messages), float64(b.UpTo)
		switch {
		case below+n < q*all:
		case b.UpTo == math.MaxInt64:
			return from
		default:
			return from + (to-from)*(q*all-below)/n
		}
		below, from = below+n, to
	}
	return math.NaN()
}
