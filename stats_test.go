package sendq_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/sendqtest"
)

func TestStatsTellAgeAndPeak(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, conn := stuck(t, nil)
		time.Sleep(time.Minute)
		w.Write(make([]byte, 64))
		stats := w.Stats()
		require.Equal(t, time.Minute, stats.OldestPending)
		require.EqualValues(t, 100, stats.PeakPendingBytes)
		conn.Release()
		require.NoError(t, w.Flush(t.Context()))
		synctest.Wait()
		stats = w.Stats()
		require.Zero(t, stats.OldestPending)
		require.EqualValues(t, 100, stats.PeakPendingBytes)
		require.EqualValues(t, 2, stats.Writes)
		require.NoError(t, w.Close())
	})
}

// An end counts under its cause, with the unwritten messages.
func TestTallyEnds(t *testing.T) {
	done, cancel := context.WithCancel(t.Context())
	cancel()
	broken := readingPeer()
	broken.FailAfter(2, errBroken)
	for name, test := range map[string]struct {
		conn *sendqtest.Conn
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

// A Writer counts once, from Add on, including its history, unless it has ended.
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

// For some figures the largest of one Writer is reported, because a sum would make no sense.
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

// No counter ever decreases while Writers come and go, and every snapshot adds up.
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

// A Tally does not keep ended Writers alive.
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

// countersOf returns the figures of s that never decrease.
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

// Fan-outs are counted by their number of recipients, for each message, and not without recipients.
func TestBrokerStatsFanOuts(t *testing.T) {
	b := sendq.NewBroker(nil)
	defer b.CloseNow()
	room := b.Room("few")
	require.Zero(t, room.Publish(nil))
	require.Zero(t, b.Broadcast(nil))
	for _, bucket := range b.Stats().FanOuts.Sizes {
		require.Zero(t, bucket.Messages)
	}

	joinMany(t, b, 17)
	for i := range 5 {
		require.NoError(t, room.Join(memberName(i)))
	}
	room.Publish(nil)                      // 5
	room.PublishFrom(memberName(0), nil)   // 4
	room.PublishFrom(memberName(16), nil)  // 5, because the sender is no member
	room.PublishFrom("nobody", nil)        // 5
	b.Broadcast(nil)                       // 17
	b.BroadcastFrom(memberName(0), nil)    // 16
	b.Send(memberName(0), nil)             // none
	b.SendTo([]string{memberName(0)}, nil) // none
	batch := b.NewBatch()
	batch.Publish("few", nil)               // 5
	batch.Publish("few", []byte("another")) // 5
	batch.Flush()

	s := b.Stats()
	require.Equal(t, 17, s.Names)
	require.Equal(t, 2, s.Rooms) // joinMany has made another
	require.Equal(t, 17, s.Writers)
	require.EqualValues(t, 5+4+5+5+17+16+5+5, s.FanOuts.Recipients)
	used := slices.DeleteFunc(s.FanOuts.Sizes, func(b sendq.FanOutBucket) bool { return b.Messages == 0 })
	require.Equal(t, []sendq.FanOutBucket{
		{UpTo: 4, Messages: 1}, {UpTo: 5, Messages: 5}, {UpTo: 20, Messages: 2},
	}, used)
}

// While rooms are busy, every snapshot of the fan-outs has the exact mean.
func TestBrokerStatsFanOutsAreConsistent(t *testing.T) {
	b := sendq.NewBroker(nil)
	defer b.CloseNow()
	joinMany(t, b, 7)
	var over atomic.Bool
	var load sync.WaitGroup
	for range 2 {
		load.Go(func() {
			for !over.Load() {
				b.Broadcast(nil)
			}
		})
	}
	for range 10_000 {
		var messages int64
		s := b.Stats().FanOuts
		for _, bucket := range s.Sizes {
			messages += bucket.Messages
		}
		if !assert.Equal(t, 7*messages, s.Recipients) {
			break
		}
	}
	over.Store(true)
	load.Wait()
}

// A Writer counts once, with any number of names, from its first name until its end.
func TestBrokerStatsOfWriters(t *testing.T) {
	b := sendq.NewBroker(nil)
	w := register(t, b, "bob", readingPeer())
	require.NoError(t, b.Register("robert", w))
	require.Equal(t, 2, b.Broadcast([]byte("hi")))
	require.True(t, b.Unregister("bob", w))
	require.True(t, b.Unregister("robert", w))
	w.WriteString("without a name")
	require.NoError(t, b.Register("bobby", w))
	require.NoError(t, w.Flush(t.Context()))
	s := b.Stats()
	require.Equal(t, 1, s.Names)
	require.Equal(t, sendq.TallyStats{Writers: 1, WriterStats: w.Stats()}, s.TallyStats)

	refused := sendq.NewWriter(readingPeer(), nil)
	require.ErrorIs(t, b.Register("bobby", refused), sendq.ErrNameTaken)
	require.Equal(t, 1, b.Stats().Writers)

	require.NoError(t, b.Shutdown(t.Context()))
	require.ErrorIs(t, b.Register("bobby", refused), sendq.ErrClosed)
	require.Equal(t, sendq.TallyStats{
		WriterStats: w.Stats(), Ends: sendq.Ends{Delivered: sendq.EndStats{Writers: 1}},
	}, b.Stats().TallyStats)
}

// Inherited messages are undelivered for the old Writer and accepted by the new one. No counter
// decreases.
func TestBrokerStatsOfTakeover(t *testing.T) {
	b := sendq.NewBroker(&sendq.BrokerOptions{NamePolicy: sendq.NameTakeover})
	register(t, b, "bob", stalledPeer())
	last := b.Stats()
	for range 100 {
		require.NoError(t, b.Send("bob", []byte("hi")))
		registered := async(func() error { return b.Register("bob", sendq.NewWriter(stalledPeer(), nil)) })
		for isOver := false; !isOver; {
			select {
			case err := <-registered:
				require.NoError(t, err)
				isOver = true
			default:
			}
			s := b.Stats()
			assertConserved(t, s.WriterStats)
			requireNotLess(t, countersOf(s.TallyStats), countersOf(last.TallyStats))
			last = s
		}
	}
	require.EqualValues(t, 100, last.Pending)
	require.EqualValues(t, 100*101/2, last.Undelivered)
	require.EqualValues(t, 100+100*101/2, last.Accepted)
	require.Equal(t, sendq.Ends{
		TakenOver: sendq.EndStats{Writers: 100, Undelivered: last.Undelivered, UndeliveredBytes: last.UndeliveredBytes},
	}, last.Ends)
	b.CloseNow()
}

// The figures can be published as JSON.
func TestBrokerStatsAsJSON(t *testing.T) {
	b := sendq.NewBroker(nil)
	joinMany(t, b, 1)
	b.Broadcast([]byte("hi"))
	b.CloseNow()
	s := b.Stats()
	text, err := json.Marshal(s)
	require.NoError(t, err)
	var back sendq.BrokerStats
	require.NoError(t, json.Unmarshal(text, &back))
	require.Equal(t, s, back)
}

// logged returns a line of log/slog with value, without its time, level and message.
func logged(value any) string {
	var line strings.Builder
	slog.New(slog.NewTextHandler(&line, nil)).Info("", "v", value)
	_, attrs, _ := strings.Cut(line.String(), `msg="" `)
	return strings.TrimSuffix(attrs, "\n")
}

func TestStatsInLogs(t *testing.T) {
	require.Equal(t, "v.accepted=0", logged(sendq.WriterStats{}))
	require.Equal(t, "v.accepted=3 v.written=2 v.pending=1 v.pending_bytes=9 v.oldest_pending=2s",
		logged(sendq.WriterStats{Accepted: 3, Written: 2, Pending: 1, PendingBytes: 9, OldestPending: 2 * time.Second}))
	require.Equal(t, "v.names=0 v.rooms=0 v.writers=0 v.accepted=0", logged(sendq.BrokerStats{}))

	var full sendq.WriterStats
	values := reflect.ValueOf(&full).Elem()
	for i := range values.NumField() {
		values.Field(i).SetInt(int64(1 + i))
	}
	seen := make(map[string]string)
	for attr := range strings.FieldsSeq(logged(full)) {
		key, value, _ := strings.Cut(attr, "=")
		seen[value] = key
	}
	require.Len(t, seen, values.NumField(), "each figure has its own attribute")

	stats := sendq.BrokerStats{Names: 1, Rooms: 2, TallyStats: sendq.TallyStats{Writers: 3}}
	stats.Ends.SlowConsumer.Writers = 4
	stats.FanOuts.Recipients = 5
	require.Equal(t, "v.names=1 v.rooms=2 v.writers=3 v.accepted=0 v.ended_slow_consumer=4 v.fan_out_recipients=5", logged(stats))
	require.Equal(t, "v.writers=3 v.accepted=0 v.ended_slow_consumer=4", logged(stats.TallyStats))
}

func TestUndeliveredErrorInLogs(t *testing.T) {
	err := &sendq.UndeliveredError{Name: "bob", Messages: 2, Bytes: 5, Err: sendq.ErrSlowConsumer}
	require.Equal(t, `v.name=bob v.messages=2 v.bytes=5 v.error="sendq: slow consumer"`, logged(err))
}

// A name that is away is no connection, and what its peer acknowledges counts once, however many
// connections it has had.
func TestStatsOfPeersThatComeBack(t *testing.T) {
	b := sendq.NewBroker(&sendq.BrokerOptions{Linger: time.Hour})
	received := int64(0)
	for range 10 {
		w := sendq.NewWriter(sendqtest.NewConn(), keeping)
		require.NoError(t, second(b.Resume(t.Context(), "bob", w, received, answerTo)))
		for range 10 {
			require.NoError(t, b.Send("bob", []byte("message")))
		}
		require.NoError(t, w.Flush(t.Context()))
		received += 10
		require.NoError(t, w.Acknowledge(received))
		require.NoError(t, w.Fail(io.EOF))
		require.Zero(t, b.Stats().Writers)
		require.Equal(t, 1, b.Stats().Away)
	}
	s := b.Stats()
	require.EqualValues(t, received, s.Acknowledged)
	require.Equal(t, sendq.Ends{Failed: sendq.EndStats{Writers: 10}}, s.Ends)
}
