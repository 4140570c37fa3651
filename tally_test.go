package sendq_test

import (
	"context"
	"reflect"
	"runtime"
	"sync"
	"testing"
	"time"
	"weak"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/internal/faultconn"
)

// Each end counts by its cause, with what was not written.
func TestTallyEnds(t *testing.T) {
	done, cancel := context.WithCancel(t.Context())
	cancel()
	broken := readingPeer()
	broken.Fault = faultconn.FailAt(2, errBroken)
	for name, test := range map[string]struct {
		conn *faultconn.Conn
		end  func(w *sendq.Writer)
		want sendq.Ends
	}{
		"Close": {readingPeer(), func(w *sendq.Writer) { w.Close() },
			sendq.Ends{Delivered: sendq.EndStats{Writers: 1}}},
		"CloseNow": {stalledPeer(), func(w *sendq.Writer) { w.CloseNow() },
			sendq.Ends{Closed: sendq.EndStats{Writers: 1, Undelivered: 1, UndeliveredBytes: 3}}},
		"Shutdown, canceled": {stalledPeer(), func(w *sendq.Writer) { w.Shutdown(done) },
			sendq.Ends{Expired: sendq.EndStats{Writers: 1, Undelivered: 1, UndeliveredBytes: 3}}},
		"Close, CloseTimeout": {stalledPeer(), func(w *sendq.Writer) { w.Close() },
			sendq.Ends{Expired: sendq.EndStats{Writers: 1, Undelivered: 1, UndeliveredBytes: 3}}},
		"MaxPending": {stalledPeer(), func(w *sendq.Writer) { w.Write(make([]byte, 900)) },
			sendq.Ends{SlowConsumer: sendq.EndStats{Writers: 1, Undelivered: 1, UndeliveredBytes: 3}}},
		"error": {broken, func(*sendq.Writer) {},
			sendq.Ends{Failed: sendq.EndStats{Writers: 1, Undelivered: 1, UndeliveredBytes: 3}}},
	} {
		t.Run(name, func(t *testing.T) {
			var tally sendq.Tally
			w := sendq.NewWriter(test.conn, &sendq.WriterOptions{MaxPending: 1000, CloseTimeout: time.Millisecond})
			if test.want.Delivered.Writers > 0 {
				w = sendq.NewWriter(test.conn, patient)
			}
			tally.Add(w)
			w.WriteString("one")
			test.end(w)
			<-w.Done()
			require.Equal(t, sendq.TallyStats{Ends: test.want, WriterStats: w.Stats()}, tally.Stats())
		})
	}
}

// A Writer counts once, from when it is added, with what it did before; not if it has ended.
func TestTallyAdd(t *testing.T) {
	var tally sendq.Tally
	w := sendq.NewWriter(readingPeer(), nil)
	w.WriteString("before")
	tally.Add(w)
	tally.Add(w)
	w.WriteString("after")
	require.NoError(t, w.Flush(t.Context()))
	require.Equal(t, sendq.TallyStats{Writers: 1, WriterStats: w.Stats()}, tally.Stats())

	require.NoError(t, w.Close())
	want := sendq.TallyStats{WriterStats: w.Stats(), Ends: sendq.Ends{Delivered: sendq.EndStats{Writers: 1}}}
	require.Equal(t, want, tally.Stats())
	tally.Add(w)
	require.Equal(t, want, tally.Stats())
}

// The most of any one Writer, where a sum would make no sense.
func TestTallyMost(t *testing.T) {
	var tally sendq.Tally
	for _, size := range []int{10, 300, 20} {
		w := sendq.NewWriter(stalledPeer(), nil)
		defer w.CloseNow()
		w.Write(make([]byte, size))
		w.Stats() // its age is taken from here on
		tally.Add(w)
		time.Sleep(2 * time.Millisecond)
	}
	s := tally.Stats()
	require.EqualValues(t, 330, s.PendingBytes)
	require.EqualValues(t, 300, s.PeakPendingBytes)
	require.GreaterOrEqual(t, s.OldestPending, 6*time.Millisecond)
}

// Whatever Writers come and go meanwhile, no counter ever goes back, and every snapshot adds up.
func TestTallyNeverGoesBack(t *testing.T) {
	const workers, each = 4, 300
	var tally sendq.Tally
	var work sync.WaitGroup
	var mu sync.Mutex
	var accepted int64
	for worker := range workers {
		work.Go(func() {
			for i := range each {
				conn := readingPeer()
				if i%3 == 0 {
					conn = stalledPeer()
				}
				w := sendq.NewWriter(conn, &sendq.WriterOptions{
					MaxPending: 1000, Overflow: sendq.Overflow(i % 4), CloseTimeout: time.Millisecond,
				})
				tally.Add(w)
				for range 8 {
					ctx, cancel := context.WithTimeout(t.Context(), 10*time.Microsecond)
					w.WriteContext(ctx, make([]byte, 100+worker))
					cancel()
				}
				if i%2 == 0 {
					w.Close()
				} else {
					w.CloseNow()
				}
				mu.Lock()
				accepted += w.Stats().Accepted
				mu.Unlock()
			}
		})
	}
	over := make(chan struct{})
	go func() { work.Wait(); close(over) }()
	var last sendq.TallyStats
	for isOver := false; !isOver; {
		select {
		case <-over:
			isOver = true
		default:
		}
		s := tally.Stats()
		assertConserved(t, s.WriterStats)
		requireNotLess(t, countersOf(s), countersOf(last))
		last = s
	}
	require.Equal(t, accepted, last.Accepted)
	require.Zero(t, last.Writers)
	require.Zero(t, last.Pending)
	ends := last.Ends
	require.EqualValues(t, workers*each, ends.Delivered.Writers+ends.Closed.Writers+ends.Expired.Writers+ends.SlowConsumer.Writers)
	require.Equal(t, last.Undelivered, ends.Closed.Undelivered+ends.Expired.Undelivered+ends.SlowConsumer.Undelivered)
}

// A Writer that has ended is not kept.
func TestTallyForgetsEndedWriters(t *testing.T) {
	var tally sendq.Tally
	var ended weak.Pointer[sendq.Writer]
	func() {
		w := sendq.NewWriter(readingPeer(), nil)
		ended = weak.Make(w)
		tally.Add(w)
		tally.Stats()
		w.Close()
	}()
	require.Eventually(t, func() bool { runtime.GC(); return ended.Value() == nil }, time.Minute, time.Millisecond)
	runtime.KeepAlive(&tally)
}

// countersOf returns the figures of s that must never go back.
func countersOf(s sendq.TallyStats) (counters []int64) {
	s.Pending, s.PendingBytes, s.OldestPending = 0, 0, 0
	for _, v := range []any{s.Ends, s.WriterStats} {
		counters = append(counters, integers(reflect.ValueOf(v))...)
	}
	return counters
}

func integers(v reflect.Value) (all []int64) {
	if v.Kind() != reflect.Struct {
		return []int64{v.Int()}
	}
	for _, f := range v.Fields() {
		all = append(all, integers(f)...)
	}
	return all
}

func requireNotLess(t *testing.T, now, before []int64) {
	t.Helper()
	for i := range now {
		require.GreaterOrEqual(t, now[i], before[i], "counter %d", i)
	}
}
