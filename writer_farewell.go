package sendq

// part makes the flusher finish the begun message and say farewell, and then end the Writer
// because of slow. mu is held.
func (w *Writer) part(slow error) {
	if w.state >= parting {
		return
	}
	w.state, w.err = parting, slow
	w.startLinger()
	w.endInTime()
	w.refuseBlocked()
	w.limits.Budget.leave(w)
	if !w.flushing { // whether or not a takeover pauses w, which will get nothing from it
		w.flushing = true
		w.goFlush()
	}
}

// sayFarewell writes the farewell, if there is one, and makes sure that it reaches the peer. mu is
// not held.
func (w *Writer) sayFarewell() {
	if p := w.farewell(); len(p) > 0 {
		if _, err := w.write(p); err == nil {
			w.deliverRest()
		}
	}
}

// farewell returns what Farewell returns, or nil if the Writer must end first. Farewell has its own
// goroutine, so a runtime.Goexit ends only that. mu is not held.
func (w *Writer) farewell() []byte {
	w.mu.Lock()
	slow, aborted := w.err, w.watchers.linger.aborted
	w.mu.Unlock()
	result := make(chan []byte, 1)
	go func() {
		defer close(result)
		result <- w.limits.Farewell(slow)
	}()
	select {
	case p := <-result:
		return p
	case <-aborted:
		return nil
	}
}
