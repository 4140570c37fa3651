package sendq

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/sendq-go/sendq/internal/queue"
	"github.com/sendq-go/sendq/internal/sock"
)

// A deadlines holds MaxAge and WriteTimeout. It is a timer that looks at the Writer an eighth of
// the shorter of the two apart: neither a message nor a write costs a timer. It starts with the
// first message, and stops when nothing is pending, nothing that was written is
// unacknowledged, and no message was written since the last look. Writer.mu guards it.
//
// At each look the peer has either been silent since the last one or not. The times between
// the looks at which it has are added up, until they come to WriteTimeout or the peer takes
// something. So the first silence counts from the look after it began, and is noticed by a
// look: the Writer ends a quarter late at most, and never early.
type deadlines struct {
	timer *time.Timer // nil until it is needed
	every time.Duration
	runs  bool

	begun   int64         // writes that have begun so far
	silence time.Duration // of the peer, as of the last look

	// What the last look has found.
	checkedAt time.Duration
	peer      sock.State
	lastBegun int64
	written   int64
}

const checksPerDeadline = 8

// timersLate is how late a timer may be although the process runs.
const timersLate = 20 * time.Millisecond

// startDeadlines starts the timer if there is anything to watch and it does not run.
func (l *limits) startDeadlines(w *Writer) {
	if l.deadlines.runs || l.MaxAge == 0 && l.WriteTimeout == 0 {
		return
	}
	l.deadlines.runs = true
	l.deadlines.peer, l.deadlines.silence, l.deadlines.checkedAt = sock.State{}, 0, queue.Now()
	if l.deadlines.timer != nil {
		l.deadlines.timer.Reset(l.deadlines.every)
		return
	}
	shorter := l.MaxAge
	if shorter == 0 || l.WriteTimeout > 0 && l.WriteTimeout < shorter {
		shorter = l.WriteTimeout
	}
	l.deadlines.every = max(shorter/checksPerDeadline, 1)
	l.deadlines.timer = time.AfterFunc(l.deadlines.every, w.checkDeadlines)
}

func (l *limits) stopDeadlines() {
	if l.deadlines.timer != nil {
		l.deadlines.timer.Stop()
	}
}

// checkDeadlines ends the Writer if a time limit has passed.
func (w *Writer) checkDeadlines() {
	l := w.limits
	var peer sock.State // stays zero where it is not known
	var err error
	if l.WriteTimeout > 0 {
		peer, err = sock.StateOf(w.conn) // without mu, as every call into conn
	}
	w.mu.Lock()
	if w.state >= aborting {
		w.mu.Unlock()
		return
	}
	at := queue.Now()
	passed := at - l.deadlines.checkedAt
	if passed > 2*l.deadlines.every+timersLate {
		// The process did not run, and what it did not do is nobody's fault.
		w.ages.Skip(passed-l.deadlines.every, at)
		passed = l.deadlines.every
	}
	w.ages.Sample(w.pending(), at)
	if l.isSilent(peer, w.queue.IsInFlight()) {
		l.deadlines.silence += passed
	} else {
		l.deadlines.silence = 0
	}
	isIdle := w.pending() == 0 && peer.Unacknowledged == 0 && w.written == l.deadlines.written
	l.deadlines.checkedAt, l.deadlines.peer, l.deadlines.lastBegun, l.deadlines.written = at, peer, l.deadlines.begun, w.written

	_, panicked := errors.AsType[*sock.PanicError](err)
	age := w.ages.Age(at)
	switch {
	case panicked:
		err = asPanicError(err)
	case l.MaxAge > 0 && age >= l.MaxAge:
		err = fmt.Errorf("%w: MaxAge of %v exceeded: the oldest message waited %v", ErrSlowConsumer, l.MaxAge, age)
	case l.WriteTimeout > 0 && l.deadlines.silence >= l.WriteTimeout:
		err = fmt.Errorf("%w: WriteTimeout of %v exceeded: the peer took nothing for %v: %w",
			ErrSlowConsumer, l.WriteTimeout, l.deadlines.silence, os.ErrDeadlineExceeded)
	default:
		if l.deadlines.runs = !isIdle; l.deadlines.runs {
			l.deadlines.timer.Reset(l.deadlines.every)
		}
		w.mu.Unlock()
		return
	}
	w.setAborting(err) // is the first: see above
	w.mu.Unlock()
	_ = w.interrupt()
}

// isSilent reports whether the peer has taken nothing since the last look although there was
// something to take: bytes that it has not acknowledged, or, if there are none or that is not
// known, a write that has not returned.
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
