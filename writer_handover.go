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

// inherit queues the messages of another, ended Writer. They come before every message that is
// neither begun nor urgent. answer, if it is not nil, comes first. If w has ended too, its heir gets
// the messages, and without one inherit returns false. MaxPending does not matter, because these
// messages were accepted before. mu is not held.
func (w *Writer) inherit(estate *queue.Queue, answer []byte) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case estate.Empty() && answer == nil:
		return true
	case w.state < parting:
	case w.heir() != nil:
		return w.heir().inheritEarly(estate)
	default:
		return estate.Empty()
	}
	if !estate.Empty() {
		w.insertExempt(w.front(), estate)
	}
	if answer != nil { // before urgent messages too, because it is the first message and has no number
		var first queue.Queue
		first.Push(queue.Bound(answer))
		at := w.queue.Begun()
		w.insertExempt(at, &first)
		w.watch().urgent = max(w.watch().urgent, w.written+int64(at)+1) // urgent messages do not overtake it
		w.keeper().answers = 1
	}
	return true
}

// insertExempt is insert for messages to which MaxPending does not apply. mu is held, here and below.
func (w *Writer) insertExempt(n int, estate *queue.Queue) {
	if w.limits != nil && w.limits.exempt.messages < int64(n) {
		w.limits.setExempt(amountOf(n, w.queue.SizeOf(n)))
	}
	messages := w.insert(n, estate)
	if w.limits != nil {
		w.limits.setExempt(w.limits.exempt.plus(messages))
	}
}

// insert queues the messages of another Writer after the first n. If there is no room for them in the
// Budget, w ends.
func (w *Writer) insert(n int, estate *queue.Queue) amount {
	estate = w.place(n, estate)
	if w.limits != nil {
		if slow := w.limits.Budget.reserve(w, chargeOf(estate)); slow != nil {
			_ = w.disconnect(slow)
		}
	}
	messages := int64(estate.Len())
	return amount{messages, estate.Bytes() + messageOverhead*messages}
}

// place is insert without the Budget. It returns the messages in the form that was queued.
func (w *Writer) place(n int, estate *queue.Queue) *queue.Queue {
	if w.limits != nil && w.limits.Budget.isSmallForAny(estate) {
		estate = estate.Copy()
	}
	messages := w.queue.Insert(n, estate)
	w.accepted += int64(messages)
	w.acceptedBytes += estate.Bytes()
	w.ages.Shift(int64(n), int64(messages))
	w.moveFlushes(n, int64(messages))
	w.moveUrgent(n, int64(messages))
	if w.limits != nil {
		w.limits.startDeadlines(w)
		w.checkHigh()
	}
	return estate
}
