package sendq

import (
	"context"
	"errors"
	"net"
	"sync"
)

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
	living set[*Writer]
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
	isNew := !t.living.has(w)
	if isNew {
		hooks = append(hooks, &endHook{ended: func() { t.ended(w) }})
	}
	if !w.addEndHooks(hooks...) {
		return false
	}
	if isNew {
		t.living.add(w)
	}
	return true
}

// ended keeps what w has come to.
func (t *Tally) ended(w *Writer) {
	s, err := w.Stats(), w.Err()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.living.remove(w)
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
	s, living := t.past, t.living.snapshot()
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
