package sendq

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/sendq-go/sendq/internal/queue"
	"github.com/sendq-go/sendq/internal/set"
)

// WriterStats counts a Writer's messages by their outcome. The byte counts are the sizes of the
// messages, without the 64 bytes for each that MaxPending and a Budget add. In every snapshot
// Accepted = Written + Dropped + Undelivered + Pending, for messages and for bytes.
type WriterStats struct {
	Accepted    int64 // messages accepted, including those dropped at once
	Written     int64 // messages taken completely by the connection
	Dropped     int64 // messages dropped by the overflow policy, Expire or WriteLatest
	Undelivered int64 // messages not written when the Writer ended
	Pending     int64 // messages queued or being written

	// The sizes of these messages in bytes.
	AcceptedBytes, WrittenBytes, DroppedBytes, UndeliveredBytes, PendingBytes int64

	// Kept and KeptBytes are the part of Written that is kept until the peer acknowledges it, and
	// Acknowledged is the part that it has acknowledged; see WriterOptions.Keep.
	Kept, KeptBytes, Acknowledged int64

	// Writes is the number of writes to the connection. One write may take many messages.
	Writes int64

	// PeakPendingBytes is the largest value that PendingBytes ever had.
	PeakPendingBytes int64

	// OldestPending is the time that the oldest pending message has waited, at least. It is
	// sampled when a Write of the connection begins and when Stats is called. It may be too low
	// by the time between two samples, or by a third of the age of the backlog. It is never too
	// high.
	OldestPending time.Duration
}

// Stats returns a consistent snapshot of the Writer's counters. It holds the Writer's lock for
// some tens of nanoseconds.
func (w *Writer) Stats() WriterStats {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := WriterStats{
		Accepted: w.accepted, AcceptedBytes: w.acceptedBytes,
		Written:          w.written,
		Writes:           w.writes,
		PeakPendingBytes: max(w.peakPending, w.pendingBytes()),
	}
	if w.limits != nil {
		s.Dropped, s.DroppedBytes = w.limits.dropped, w.limits.droppedBytes
		if k := w.limits.keeper; k != nil {
			s.Kept, s.KeptBytes = k.messages, k.written.Bytes()
			s.Acknowledged = max(0, min(k.acknowledged, w.reached())-k.before)
		}
	}
	s.WrittenBytes = s.AcceptedBytes - s.DroppedBytes - w.queue.Bytes()
	if w.state >= ended {
		s.Undelivered, s.UndeliveredBytes = w.pending(), w.queue.Bytes()
		return s
	}
	stale := w.staleAmount()
	s.Accepted += stale.messages
	s.AcceptedBytes += w.pendingBytes() - w.queue.Bytes()
	s.Pending, s.PendingBytes = w.pending()+stale.messages, w.pendingBytes()
	if s.Pending > 0 {
		at := queue.Now() // after Lock, because otherwise the messages could be younger than the time
		w.ages.Sample(w.pending(), at)
		s.OldestPending = w.ages.Age(at)
	}
	return s
}

// LogValue returns the statistics as a group of attributes such as written_bytes, for log/slog.
// Those that are 0 are left out, except accepted. OldestPending is oldest_pending, a duration.
func (s WriterStats) LogValue() slog.Value { return slog.GroupValue(s.attrs()...) }

func (s WriterStats) attrs() []slog.Attr {
	attrs := appendCounts([]slog.Attr{slog.Int64("accepted", s.Accepted)},
		slog.Int64("written", s.Written),
		slog.Int64("dropped", s.Dropped),
		slog.Int64("undelivered", s.Undelivered),
		slog.Int64("pending", s.Pending),
		slog.Int64("accepted_bytes", s.AcceptedBytes),
		slog.Int64("written_bytes", s.WrittenBytes),
		slog.Int64("dropped_bytes", s.DroppedBytes),
		slog.Int64("undelivered_bytes", s.UndeliveredBytes),
		slog.Int64("pending_bytes", s.PendingBytes),
		slog.Int64("kept", s.Kept),
		slog.Int64("kept_bytes", s.KeptBytes),
		slog.Int64("acknowledged", s.Acknowledged),
		slog.Int64("writes", s.Writes),
		slog.Int64("peak_pending_bytes", s.PeakPendingBytes))
	if s.OldestPending > 0 {
		attrs = append(attrs, slog.Duration("oldest_pending", s.OldestPending))
	}
	return attrs
}

// appendCounts appends the counts that are not 0 to attrs.
func appendCounts(attrs []slog.Attr, counts ...slog.Attr) []slog.Attr {
	for _, count := range counts {
		if count.Value.Int64() != 0 {
			attrs = append(attrs, count)
		}
	}
	return attrs
}

// A Tally sums the statistics of many Writers, so that one can watch a program as a whole. A
// Writer counts once, with its whole history, from the call of Add. Its last counters stay in
// the sums after it ends, so sums of events never decrease. The Tally does not keep ended
// Writers in memory. Each Broker has its own Tally.
//
// The zero Tally is empty and ready for use by any number of goroutines. A Tally must not be
// copied.
type Tally struct {
	// mu guards the fields below. The locks of Writers may be taken while it is held, but not
	// the other way round.
	mu     sync.Mutex
	living set.Set[*Writer]
	past   TallyStats // of ended Writers
}

// TallyStats holds the sums over all Writers of a Tally, including ended ones. The equation of
// WriterStats holds for the sums too.
type TallyStats struct {
	Writers int // Writers that have not ended
	Ends    Ends

	// PeakPendingBytes and OldestPending are not sums, but the maximum over all Writers.
	WriterStats
}

// LogValue returns the statistics as a group of attributes, for log/slog: those of
// WriterStats.LogValue, the number of Writers, and the number of ended Writers by cause, such as
// ended_slow_consumer.
func (s TallyStats) LogValue() slog.Value { return slog.GroupValue(s.attrs()...) }

func (s TallyStats) attrs() []slog.Attr {
	return appendCounts(append([]slog.Attr{slog.Int("writers", s.Writers)}, s.WriterStats.attrs()...),
		slog.Int64("ended_delivered", s.Ends.Delivered.Writers),
		slog.Int64("ended_closed", s.Ends.Closed.Writers),
		slog.Int64("ended_expired", s.Ends.Expired.Writers),
		slog.Int64("ended_slow_consumer", s.Ends.SlowConsumer.Writers),
		slog.Int64("ended_taken_over", s.Ends.TakenOver.Writers),
		slog.Int64("ended_failed", s.Ends.Failed.Writers))
}

// Ends counts the ended Writers by their Err.
type Ends struct {
	Delivered    EndStats // nil: by Close or Shutdown, with everything delivered
	Closed       EndStats // net.ErrClosed: by CloseNow, or somebody else had closed the connection
	Expired      EndStats // context.DeadlineExceeded or Canceled: the bound of Close or Shutdown passed
	SlowConsumer EndStats // ErrSlowConsumer: a limit was reached
	TakenOver    EndStats // ErrTakenOver; another Writer accepted the undelivered messages, if it lived
	Failed       EndStats // any other error, such as ErrNameLost; most often the peer was gone
}

// EndStats counts ended Writers, and the messages and bytes they had not written.
type EndStats struct {
	Writers, Undelivered, UndeliveredBytes int64
}

// of returns the EndStats for a Writer that ended with err.
func (e *Ends) of(err error) *EndStats {
	switch {
	case err == nil:
		return &e.Delivered
	case errors.Is(err, ErrSlowConsumer):
		return &e.SlowConsumer
	case errors.Is(err, ErrTakenOver):
		return &e.TakenOver
	case errors.Is(err, net.ErrClosed):
		return &e.Closed
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return &e.Expired
	}
	return &e.Failed
}

// Add counts w from now on. If w counts already or has ended, Add does nothing.
func (t *Tally) Add(w *Writer) { t.follow(w) }

// follow adds hooks to w and counts w. If w has ended, follow does neither and returns false.
func (t *Tally) follow(w *Writer, hooks ...*endHook) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	isNew := !t.living.Has(w)
	if isNew {
		hooks = append(hooks, &endHook{ended: func() { t.ended(w) }})
	}
	if !w.addEndHooks(hooks...) {
		return false
	}
	if isNew {
		t.living.Add(w)
	}
	return true
}

// ended moves the counters of w to the past.
func (t *Tally) ended(w *Writer) {
	s, err := w.Stats(), w.Err()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.living.Remove(w)
	s.Kept, s.KeptBytes = 0, 0 // it has ended, so it keeps nothing for its peer
	t.past.add(s)
	if w.isHeir() {
		return
	}
	end := t.past.Ends.of(err)
	end.Writers++
	end.Undelivered += s.Undelivered
	end.UndeliveredBytes += s.UndeliveredBytes
}

// Stats returns the sums. It calls Writer.Stats of one Writer after the other. Senders, new
// Writers and ending Writers do not wait for that.
func (t *Tally) Stats() TallyStats {
	t.mu.Lock()
	s, living := t.past, t.living.Snapshot()
	t.mu.Unlock()
	for _, w := range living {
		s.add(w.Stats())
		if !w.isHeir() {
			s.Writers++
		}
	}
	return s
}

func (s *WriterStats) add(o WriterStats) {
	s.Accepted += o.Accepted
	s.Written += o.Written
	s.Dropped += o.Dropped
	s.Undelivered += o.Undelivered
	s.Pending += o.Pending
	s.AcceptedBytes += o.AcceptedBytes
	s.WrittenBytes += o.WrittenBytes
	s.DroppedBytes += o.DroppedBytes
	s.UndeliveredBytes += o.UndeliveredBytes
	s.PendingBytes += o.PendingBytes
	s.Kept += o.Kept
	s.KeptBytes += o.KeptBytes
	s.Acknowledged += o.Acknowledged
	s.Writes += o.Writes
	s.PeakPendingBytes = max(s.PeakPendingBytes, o.PeakPendingBytes)
	s.OldestPending = max(s.OldestPending, o.OldestPending)
}

// BrokerStats holds the statistics of a Broker and its Writers.
type BrokerStats struct {
	Names, Rooms int // number in use
	Away         int // names whose peer is away; see BrokerOptions.Linger

	// Sums over all Writers that ever had a name. A Writer counts once, however many names it
	// has, and counts in Writers until it ends, even without a name. The Writer that keeps the
	// messages of a name that is away counts in neither Writers nor Ends.
	TallyStats

	FanOuts FanOutStats
}

// LogValue returns the statistics as a group of attributes, for log/slog: those of
// TallyStats.LogValue, names, rooms, away, and fan_out_recipients.
func (s BrokerStats) LogValue() slog.Value {
	attrs := []slog.Attr{slog.Int("names", s.Names), slog.Int("rooms", s.Rooms)}
	attrs = append(attrs, s.TallyStats.attrs()...)
	return slog.GroupValue(appendCounts(attrs, slog.Int("away", s.Away), slog.Int64("fan_out_recipients", s.FanOuts.Recipients))...)
}

// FanOutStats counts the messages to rooms and to all names. Messages without a recipient do
// not count. A snapshot is consistent: the mean number of recipients is Recipients divided by the
// sum of Messages over Sizes.
type FanOutStats struct {
	// Recipients is the number of recipients of all these messages together, whether they
	// accepted or not.
	Recipients int64

	// Sizes counts the messages by their number of recipients. UpTo increases from bucket to
	// bucket: by 1 up to 10, and by at most half up to 1,000,000. Programs should not rely on
	// these bounds, because they may change.
	Sizes []FanOutBucket
}

// A FanOutBucket counts the messages with at most UpTo recipients, but more than the UpTo of
// the bucket before.
type FanOutBucket struct {
	UpTo     int64 // recipients; math.MaxInt64 in the last bucket
	Messages int64
}

// Stats returns the Broker's statistics. However many Writers there are, nobody waits for it;
// see Tally.Stats.
func (b *Broker) Stats() BrokerStats {
	b.mu.Lock()
	s := BrokerStats{Names: b.names.Len(), Rooms: b.rooms.Len(), Away: b.away, FanOuts: b.fanOuts.stats()}
	b.mu.Unlock()
	s.TallyStats = b.tally.Stats()
	return s
}

// fanOutBounds are the bounds of the buckets. They are fine enough for an estimated quantile to
// mean something, and round, because alerts and dashboards name them.
var fanOutBounds = [...]int64{
	1, 2, 3, 4, 5, 6, 7, 8, 9, 10,
	15, 20, 30, 40, 60, 80, 100,
	150, 200, 300, 400, 600, 800, 1000,
	1500, 2000, 3000, 4000, 6000, 8000, 10_000,
	15_000, 20_000, 30_000, 40_000, 60_000, 80_000, 100_000,
	150_000, 200_000, 300_000, 400_000, 600_000, 800_000, 1_000_000,
	math.MaxInt64,
}

// fanOuts counts fan-outs by their size.
type fanOuts struct {
	recipients int64
	messages   [len(fanOutBounds)]int64
}

// count counts messages with the same recipients.
func (f *fanOuts) count(messages, recipients int) {
	if recipients == 0 {
		return
	}
	i, _ := slices.BinarySearch(fanOutBounds[:], int64(recipients))
	f.messages[i] += int64(messages)
	f.recipients += int64(messages) * int64(recipients)
}

func (f *fanOuts) stats() FanOutStats {
	s := FanOutStats{Recipients: f.recipients, Sizes: make([]FanOutBucket, len(fanOutBounds))}
	for i, bound := range fanOutBounds {
		s.Sizes[i] = FanOutBucket{bound, f.messages[i]}
	}
	return s
}
