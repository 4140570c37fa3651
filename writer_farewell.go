package sendq

import "errors"

// dismiss makes the Writer end because of cause, after a farewell if there is one. It does not wait
// for the end. mu is not held.
func (w *Writer) dismiss(cause error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.setDismissed(cause)
}

// setDismissed is dismiss while mu is held.
func (w *Writer) setDismissed(cause error) {
	hasFarewell := w.limits != nil && w.limits.Farewell != nil
	isWritten := w.state == closing && w.queue.Empty() // it is too late for a farewell
	if hasFarewell && !isWritten && (errors.Is(cause, ErrSlowConsumer) || cause == ErrNameLost) {
		w.part(cause)
	} else if w.setAborting(cause) {
		go w.interrupt() // the caller does not wait for that
	}
}

// part makes the flusher finish the begun message and say farewell, and then end the Writer
// because of cause. mu is held.
func (w *Writer) part(cause error) {
	if w.state >= parting {
		return
	}
	w.leaveHeir(cause)
	w.state, w.err = parting, cause
	w.startLinger()
	w.endInTime()
	w.refuseBlocked()
	w.limits.Budget.leave(w)
	if !w.flushing { // even if a takeover pauses w: w will inherit nothing
		w.flushing = true
		w.goFlush()
	}
}

// sayFarewell writes the farewell, if there is one, and waits for the peer. mu is not held.
func (w *Writer) sayFarewell() {
	if p := w.farewell(); len(p) > 0 {
		w.beginFarewell()
		if _, err := w.write(p); err == nil {
			w.deliverRest()
		}
	}
}

// farewell returns the result of Farewell, or nil if the Writer must end first. Farewell runs in
// its own goroutine, because it may wait or call runtime.Goexit. mu is not held.
func (w *Writer) farewell() []byte {
	w.mu.Lock()
	cause, aborted := w.err, w.watchers.linger.aborted
	w.mu.Unlock()
	result := make(chan []byte, 1)
	go func() {
		defer close(result)
		result <- w.limits.Farewell(cause)
	}()
	select {
	case p := <-result:
		return p
	case <-aborted:
		return nil
	}
}
