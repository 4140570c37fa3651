package sendq

import (
	"math"
	"slices"

	"github.com/sendq-go/sendq/internal/queue"
)

// takeLeftovers tells its first caller that it is the one to see to what w does not deliver.
func (w *Writer) takeLeftovers() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	a := w.watch()
	first := !a.leftoversTaken
	a.leftoversTaken = true
	return first
}

// pause keeps the flusher from running until letGo, but for the write under way. It fails
// unless the Writer is open, or if it takes over more names than anybody has.
func (w *Writer) pause() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.state != open || w.paused == math.MaxInt16 {
		return false
	}
	w.paused++
	return true
}

func (w *Writer) resume() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.paused--
	if (w.state == closing || w.state == open && !w.queue.Empty()) && w.claimFlusher() {
		w.goFlush() // and not wake, which may write: other locks are held
	}
}

// inherit queues what another Writer, which has ended, did not write, before everything of
// which nothing has been written. It returns false if w has ended too. MaxPending does not
// matter, for these messages have been accepted.
func (w *Writer) inherit(inherited *queue.Queue) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case inherited.Empty():
		return true
	case w.state >= aborting:
		return false
	}
	if w.limits != nil && w.limits.Budget.isSmallForAny(inherited) {
		inherited = queue.Of(slices.Collect(inherited.All()))
	}
	begun, size := w.queue.Begun()
	messages := w.queue.Insert(begun, inherited)
	w.accepted += int64(messages)
	w.acceptedBytes += inherited.Bytes()
	w.ages.Shift(int64(begun), int64(messages))
	w.moveFlushes(begun, int64(messages))
	if w.limits != nil {
		w.limits.startDeadlines(w)
		w.limits.given += costOf(begun, size) + inherited.Bytes() + messageOverhead*int64(messages)
		if slow := w.limits.Budget.reserve(w, chargeOf(inherited)); slow != nil {
			_ = w.disconnect(slow)
		}
	}
	return true
}
