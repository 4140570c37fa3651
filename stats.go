package sendq

import "time"

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
		PeakPendingBytes: max(w.peakPending, w.queue.bytes),
	}
	if w.limits != nil {
		s.Dropped, s.DroppedBytes = w.limits.dropped, w.limits.droppedBytes
	}
	s.WrittenBytes = s.AcceptedBytes - s.DroppedBytes - w.queue.bytes
	if w.state >= ended {
		s.Undelivered, s.UndeliveredBytes = w.pending(), w.queue.bytes
		return s
	}
	s.Pending, s.PendingBytes = w.pending(), w.queue.bytes
	if s.Pending > 0 {
		at := now() // not before the lock, or messages could come before it
		w.ages.note(s.Pending, at)
		s.OldestPending = w.ages.age(at)
	}
	return s
}
