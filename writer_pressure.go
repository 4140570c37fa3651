package sendq

import "slices"

// A pressure watches the marks of a Writer with HighMark. Writer.mu guards it.
type pressure struct {
	high, low int64
	slow      bool      // the queue has exceeded high, and has not fallen to low since
	told      bool      // the last state reported to OnPressure
	telling   bool      // a call to report a change is on its way
	members   []*member // the names of the Writer
	stale     stale
}

// newPressure returns the pressure set by o, or nil if there are no marks.
func newPressure(o *WriterOptions) *pressure {
	if o.HighMark == 0 {
		return nil
	}
	return &pressure{high: int64(o.HighMark), low: int64(o.LowMark)}
}

// pressure returns the Writer's pressure, or nil if it has no marks. mu is held, here and below
// unless a comment says otherwise.
func (w *Writer) pressure() *pressure {
	if w.limits == nil {
		return nil
	}
	return w.limits.pressure
}

// reachesHigh reports whether a message of size bytes would make the Writer slow.
func (w *Writer) reachesHigh(size int) bool {
	p := w.limits.pressure
	return p != nil && !p.slow && w.queuedAmount().cost+costOf(1, size) > p.high
}

// checkHigh is called when the queue has grown.
func (w *Writer) checkHigh() {
	if p := w.limits.pressure; p != nil && !p.slow {
		w.compareHigh(p)
	}
}

// compareHigh makes the Writer slow if the queue exceeds the high mark of p.
func (w *Writer) compareHigh(p *pressure) {
	if w.queuedAmount().cost > p.high {
		p.slow = true
		w.tellPressure()
	}
}

// checkLow is called when the queue has shrunk. The Writer stays slow until no stale message is
// left.
func (w *Writer) checkLow() {
	p := w.limits.pressure
	if p == nil || !p.slow {
		return
	}
	for w.queuedAmount().cost <= p.low {
		if p.stale.isEmpty() {
			p.slow = false
			w.tellPressure()
			return
		}
		w.queueStale(p.high)
	}
}

// tellPressure makes the Writer report a change. Only the last state matters to a call that comes
// late, so there is at most one call on its way.
func (w *Writer) tellPressure() {
	p := w.limits.pressure
	if !p.telling {
		p.telling = true
		w.call(w.toldPressure)
	}
}

// toldPressure reports the present state to the Brokers and the program. mu is not held.
func (w *Writer) toldPressure() {
	w.mu.Lock()
	p := w.limits.pressure
	p.telling = false
	slow, members := p.slow, slices.Clone(p.members)
	isNews := slow != p.told
	p.told = slow
	w.mu.Unlock()
	for _, n := range members {
		n.broker.pressed(n, w)
	}
	if f := w.limits.OnPressure; f != nil && isNews {
		f(w, slow)
	}
}

// isSlow reports whether the Writer is slow, according to its marks. mu is not held, here and
// below.
func (w *Writer) isSlow() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.pressure()
	return p != nil && p.slow
}

// hasName makes the Writer report its changes to the Broker of n, and leave an heir if n lingers. It
// returns false if the Writer is ending without a name.
func (w *Writer) hasName(n *member) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.state >= parting {
		return false
	}
	if p := w.pressure(); p != nil {
		p.members = append(p.members, n)
	}
	w.addLingering(n, 1)
	return true
}

// lostName undoes hasName.
func (w *Writer) lostName(n *member) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if p := w.pressure(); p != nil {
		p.members = slices.DeleteFunc(p.members, func(m *member) bool { return m == n })
	}
	w.addLingering(n, -1)
}
