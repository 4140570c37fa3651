package sendq

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/sendq-go/sendq/internal/queue"
	"github.com/sendq-go/sendq/internal/sock"
)

// deadlines enforces MaxAge and WriteTimeout by a timer that checks the Writer eight times in
// the shorter of the two. So neither a message nor a write costs a timer. The timer starts with
// the first message. It stops when nothing is pending, every written byte is acknowledged, and
// no message was written since the last check. Writer.mu guards the fields.
//
// At each check the peer was either silent since the last one or not. The silent intervals are
// added up until the sum reaches WriteTimeout or the peer takes something. A silence counts
// from the first check after it began, and only a check ends the Writer. So the Writer ends at
// most a quarter late, and never early.
type deadlines struct {
	running  bool
	timer    *time.Timer // nil until it is needed
	interval time.Duration

	begun   int64         // number of writes begun so far
	silence time.Duration // of the peer, as of the last check

	// Results of the last check.
	checkedAt time.Duration
	peer      sock.State
	lastBegun int64
	written   int64
}

const checksPerDeadline = 8

// timersLate is how late a timer may be while the process runs.
const timersLate = 20 * time.Millisecond

// startDeadlines starts the timer if there is a time limit and it does not run. mu is held.
func (l *limits) startDeadlines(w *Writer) {
	if !l.deadlines.running && (l.MaxAge > 0 || l.WriteTimeout > 0) {
		l.startTimer(w)
	}
}

// startTimer starts the timer of the deadlines. mu is held.
func (l *limits) startTimer(w *Writer) {
	l.deadlines.running = true
	l.deadlines.peer, l.deadlines.silence, l.deadlines.checkedAt = sock.State{}, 0, queue.Now()
	if l.deadlines.timer != nil {
		l.deadlines.timer.Reset(l.deadlines.interval)
		return
	}
	shorter := l.MaxAge
	if shorter == 0 || l.WriteTimeout > 0 && l.WriteTimeout < shorter {
		shorter = l.WriteTimeout
	}
	l.deadlines.interval = max(shorter/checksPerDeadline, 1)
	l.deadlines.timer = time.AfterFunc(l.deadlines.interval, w.checkDeadlines)
}

func (l *limits) stopDeadlines() {
	if l.deadlines.timer != nil {
		l.deadlines.timer.Stop()
	}
}

// checkDeadlines ends the Writer if a time limit has passed. mu is not held.
func (w *Writer) checkDeadlines() {
	var peer sock.State // stays zero if it is not known
	var err error
	if w.limits.WriteTimeout > 0 {
		peer, err = sock.StateOf(w.conn) // without mu, as every call into conn
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.state >= parting {
		return
	}
	isIdle := w.recordCheck(peer)
	if w.limits.Expire {
		w.dropExpired()
	}
	if _, panicked := errors.AsType[*sock.PanicError](err); panicked {
		err = asPanicError(err)
	} else {
		err = w.deadlineExceeded()
	}
	if err == nil {
		d := &w.limits.deadlines
		if d.running = !isIdle; d.running {
			d.timer.Reset(d.interval)
		}
		return
	}
	_ = w.disconnect(err)
}

// recordCheck records the results of a check. It reports whether nothing is under way, so that
// the timer can stop. mu is held.
func (w *Writer) recordCheck(peer sock.State) (isIdle bool) {
	d, at := &w.limits.deadlines, queue.Now()
	passed := at - d.checkedAt
	if passed > 2*d.interval+timersLate {
		// The process was stopped, and the peer is not to blame for that.
		w.ages.Skip(passed-d.interval, at)
		passed = d.interval
	}
	w.ages.Sample(w.pending(), at)
	if w.limits.isSilent(peer, w.queue.IsInFlight()) {
		d.silence += passed
	} else {
		d.silence = 0
	}
	isIdle = w.pending() == 0 && peer.Unacknowledged == 0 && w.written == d.written
	d.checkedAt, d.peer, d.lastBegun, d.written = at, peer, d.begun, w.written
	return isIdle
}

// dropExpired drops the messages that had waited for MaxAge at the last check, unless they are
// begun or kept. mu is held.
func (w *Writer) dropExpired() {
	maxAge, at := w.limits.MaxAge, w.limits.deadlines.checkedAt
	old, n := int(w.ages.Older(maxAge, at)), 0
	for before, r := range w.queue.Droppable() {
		if before >= old {
			break
		}
		n += min(r.Len(), old-before)
	}
	w.dropOldest(n)
	w.ages.Clamp(maxAge, at)
	w.admitBlocked()
	if !w.flushing { // a takeover pauses w
		w.releaseMemory()
	}
}

// deadlineExceeded returns an error if a time limit had passed at the last check. mu is held.
func (w *Writer) deadlineExceeded() error {
	l := w.limits
	if age := w.ages.Age(l.deadlines.checkedAt); l.MaxAge > 0 && age >= l.MaxAge && !l.Expire {
		return fmt.Errorf("%w: MaxAge of %v exceeded: the oldest message waited %v", ErrSlowConsumer, l.MaxAge, age)
	}
	if l.WriteTimeout > 0 && l.deadlines.silence >= l.WriteTimeout {
		return fmt.Errorf("%w: WriteTimeout of %v exceeded: the peer took nothing for %v: %w",
			ErrSlowConsumer, l.WriteTimeout, l.deadlines.silence, os.ErrDeadlineExceeded)
	}
	return nil
}

// isSilent reports whether the peer has taken nothing since the last check although there was
// something to take: unacknowledged bytes, or, if there are none or their number is not known,
// a write that has not returned. mu is held.
func (l *limits) isSilent(peer sock.State, isWriting bool) bool {
	last := l.deadlines.peer
	switch {
	case peer.Acknowledged != last.Acknowledged || peer.Unread != last.Unread:
		return false
	case peer.Unacknowledged > 0:
		return last.Unacknowledged > 0
	}
	return isWriting && l.deadlines.begun == l.deadlines.lastBegun
}
