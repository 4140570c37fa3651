package sendq

import "github.com/sendq-go/sendq/internal/queue"

// takeLeftovers returns true for its first caller. The caller must then take care of the
// undelivered messages of w.
func (w *Writer) takeLeftovers() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	ws := w.watch()
	first := !ws.leftoversTaken
	ws.leftoversTaken = true
	return first
}

// pause stops the flusher until resume, except for the write under way. It returns false if the
// Writer is not open.
func (w *Writer) pause() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.state != open {
		return false
	}
	w.paused++
	return true
}

func (w *Writer) resume() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.paused--
	if (w.state == closing || w.state == open && !w.queue.Empty()) && w.acquireFlusher() {
		w.goFlush() // not wake, because wake may write, and the caller holds other locks
	}
}

// inherit queues the unwritten messages of another, ended Writer. They come before every
// message that is neither begun nor urgent. If w has ended too, inherit returns false.
// MaxPending does not matter, because these messages were accepted before. mu is not held.
func (w *Writer) inherit(inherited *queue.Queue) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case inherited.Empty():
		return true
	case w.state >= parting:
		return false
	}
	if w.limits != nil && w.limits.Budget.isSmallForAny(inherited) {
		inherited = inherited.Copy()
	}
	front := w.front()
	if w.limits != nil && w.limits.exempt.messages < int64(front) {
		w.limits.setExempt(amountOf(front, w.queue.SizeOf(front)))
	}
	messages := w.queue.Insert(front, inherited)
	w.accepted += int64(messages)
	w.acceptedBytes += inherited.Bytes()
	w.ages.Shift(int64(front), int64(messages))
	w.moveFlushes(front, int64(messages))
	if w.limits != nil {
		w.limits.startDeadlines(w)
		w.checkHigh()
		w.limits.setExempt(w.limits.exempt.plus(
			amount{int64(messages), inherited.Bytes() + messageOverhead*int64(messages)}))
		if slow := w.limits.Budget.reserve(w, chargeOf(inherited)); slow != nil {
			_ = w.disconnect(slow)
		}
	}
	return true
}
