package sendq

import (
	"context"
	"errors"
	"math"
	"math/bits"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sendq-go/sendq/internal/queue"
	"github.com/sendq-go/sendq/internal/set"
)

// WriterStats counts what became of a Writer's messages, in messages and in their bytes,
// without the 64 for each that MaxPending and a Budget count beside. In
// every snapshot Accepted = Written + Dropped + Undelivered + Pending, for both.
type WriterStats struct {
	Accepted    int64 // Write, WriteString or Send took it, or dropped it
	Written     int64 // the connection took every byte of it
	Dropped     int64 // given up by the overflow policy
	Undelivered int64 // the Writer ended before it was written
	Pending     int64 // queued or being written

	AcceptedBytes, WrittenBytes, DroppedBytes, UndeliveredBytes, PendingBytes int64

	// Writes is how often the queue, or part of it, was handed to the connection.
	Writes int64

	// PeakPendingBytes is the most that PendingBytes ever was.
	PeakPendingBytes int64

	// OldestPending is how long the oldest pending message has waited, at least. It
	// is sampled when a Write of the connection begins and when Stats is called: it
	// may be too low by the time between two of these, or by a third of the age of
	// the backlog, and is never too high.
	OldestPending time.Duration
}

// Stats returns a consistent snapshot of the Writer's counters. It takes the Writer's
// lock for some tens of nanoseconds.
func (w *Writer) Stats() WriterStats {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := WriterStats{
		Accepted: w.accepted, AcceptedBytes: w.acceptedBytes,
		Written:          w.written,
		Writes:           w.writes,
		PeakPendingBytes: max(w.peakPending, w.queue.Bytes()),
	}
	if w.limits != nil {
		s.Dropped, s.DroppedBytes = w.limits.dropped, w.limits.droppedBytes
	}
	s.WrittenBytes = s.AcceptedBytes - s.DroppedBytes - w.queue.Bytes()
	if w.state >= ended {
		s.Undelivered, s.UndeliveredBytes = w.pending(), w.queue.Bytes()
		return s
	}
	s.Pending, s.PendingBytes = w.pending(), w.queue.Bytes()
	if s.Pending > 0 {
		at := queue.Now() // not before the lock, or messages could come before it
		w.ages.Sample(s.Pending, at)
		s.OldestPending = w.ages.Age(at)
	}
	return s
}

// A Tally sums up many Writers, for those who watch a program as a whole. A Writer counts,
// once, from when it is added, with all that it did before, and for ever: its last
// figures stay in the sums when it has ended, while it is not kept itself. So what counts
// events never goes down. A Broker has a Tally of its own.
//
// The zero Tally is empty and ready for use, by any number of goroutines. It must not be
// copied.
type Tally struct {
	// mu guards what follows. The locks of Writers may be taken while it is held, but
	// not the other way round.
	mu     sync.Mutex
	living set.Set[*Writer]
	past   TallyStats // of those that have ended
}

// TallyStats are the sums over the Writers of a Tally, those that have ended included. Like
// those of each Writer they add up.
type TallyStats struct {
	Writers int // those that live
	Ends    Ends

	// PeakPendingBytes and OldestPending are no sums, but the most of any one Writer.
	WriterStats
}

// Ends are the Writers that have ended, by their Err.
type Ends struct {
	Delivered    EndStats // none: by Close or Shutdown, with everything delivered
	Closed       EndStats // net.ErrClosed: by CloseNow, or somebody had closed the connection
	Expired      EndStats // context.DeadlineExceeded or Canceled: the bound of Close or Shutdown was over
	SlowConsumer EndStats // ErrSlowConsumer: a limit was reached
	TakenOver    EndStats // ErrTakenOver; what was undelivered, another Writer has accepted, if it lived
	Failed       EndStats // anything else: most often the peer has gone
}

// EndStats count Writers, and what they had not written when they ended.
type EndStats struct {
	Writers, Undelivered, UndeliveredBytes int64
}

// of returns where a Writer with that Err counts.
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

// Add counts w from now on. It does nothing if w counts already or has ended.
func (t *Tally) Add(w *Writer) { t.follow(w) }

// follow adds hooks to w and counts w. If w has ended it does neither and returns false.
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

// ended keeps what w has come to.
func (t *Tally) ended(w *Writer) {
	s, err := w.Stats(), w.Err()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.living.Remove(w)
	t.past.add(s)
	end := t.past.Ends.of(err)
	end.Writers++
	end.Undelivered += s.Undelivered
	end.UndeliveredBytes += s.UndeliveredBytes
}

// Stats returns the sums. It asks one Writer after the other, as Writer.Stats does, and holds
// nothing up meanwhile: neither those who send, nor Writers that come and go.
func (t *Tally) Stats() TallyStats {
	t.mu.Lock()
	s, living := t.past, t.living.Snapshot()
	t.mu.Unlock()
	s.Writers = len(living)
	for _, w := range living {
		s.add(w.Stats())
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
	s.Writes += o.Writes
	s.PeakPendingBytes = max(s.PeakPendingBytes, o.PeakPendingBytes)
	s.OldestPending = max(s.OldestPending, o.OldestPending)
}

// BrokerStats are the figures of a Broker and its Writers.
type BrokerStats struct {
	Names, Rooms int // in use

	// Those of the Writers that have ever been given a name: each counts once, however
	// many names it has, and until it ends, even without a name.
	TallyStats

	FanOuts FanOutStats
}

// FanOutStats counts the messages to rooms and to all names that had a recipient.
type FanOutStats struct {
	// Recipients is the sum of the recipients of all messages, whether they accepted or not.
	Recipients int64

	// Sizes counts the messages by their number of recipients, in ascending buckets.
	Sizes []FanOutBucket
}

// A FanOutBucket counts the messages that had at most UpTo recipients, and too many for the
// bucket before.
type FanOutBucket struct {
	UpTo     int64 // math.MaxInt64 in the last bucket
	Messages int64
}

// Stats returns the Broker's figures. It holds nothing up, however many Writers there are:
// see Tally.Stats.
func (b *Broker) Stats() BrokerStats {
	b.mu.Lock()
	s := BrokerStats{Names: b.names.Len(), Rooms: b.rooms.Len(), FanOuts: b.fanOuts.stats()}
	b.mu.Unlock()
	s.TallyStats = b.tally.Stats()
	return s
}

// A fanOuts counts fan-outs. Bucket i has those with at most 4^i recipients, the last all others.
type fanOuts struct {
	recipients atomic.Int64
	sizes      [12]atomic.Int64
}

// count counts messages to the members of a group, except one of them unless that is nil.
func (f *fanOuts) count(messages, members int, except *member) {
	if except != nil {
		members--
	}
	if members == 0 {
		return
	}
	i := min((bits.Len(uint(members-1))+1)/2, len(f.sizes)-1) // the logarithm, rounded up
	f.sizes[i].Add(int64(messages))
	f.recipients.Add(int64(messages) * int64(members))
}

func (f *fanOuts) stats() FanOutStats {
	s := FanOutStats{Recipients: f.recipients.Load(), Sizes: make([]FanOutBucket, len(f.sizes))}
	for i := range f.sizes {
		s.Sizes[i] = FanOutBucket{1 << (2 * i), f.sizes[i].Load()}
	}
	s.Sizes[len(s.Sizes)-1].UpTo = math.MaxInt64
	return s
}
