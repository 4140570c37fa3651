package sendq

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/sendq-go/sendq/internal/queue"
	"github.com/sendq-go/sendq/internal/sock"
)

// A watch holds MaxAge and WriteTimeout. It is a timer that looks at the Writer an eighth of
// the shorter of the two apart: neither a message nor a write costs a timer. It starts with the
// first message, and stops when nothing is pending, nothing that was written is
// unacknowledged, and no message was written since the last look. Writer.mu guards it.
//
// At each look the peer has either been silent since the last one or not. The times between
// the looks at which it has are added up, until they come to WriteTimeout or the peer takes
// something. So the first silence counts from the look after it began, and is noticed by a
// look: the Writer ends a quarter late at most, and never early.
type watch struct {
	timer *time.Timer // nil until it is needed
	every time.Duration
	runs  bool

	begun   int64         // writes that have begun so far
	silence time.Duration // of the peer, as of the last look

	// What the last look has found.
	lookedAt  time.Duration
	peer      sock.State
	lastBegun int64
	written   int64
}

const watchesPerDeadline = 8

// timersLate is how late a timer may be although the process runs.
const timersLate = 20 * time.Millisecond

// startWatch starts the timer if there is anything to watch and it does not run.
func (l *limits) startWatch(w *Writer) {
	if l.watch.runs || l.MaxAge == 0 && l.WriteTimeout == 0 {
		return
	}
	l.watch.runs = true
	l.watch.peer, l.watch.silence, l.watch.lookedAt = sock.State{}, 0, queue.Now()
	if l.watch.timer != nil {
		l.watch.timer.Reset(l.watch.every)
		return
	}
	shorter := l.MaxAge
	if shorter == 0 || l.WriteTimeout > 0 && l.WriteTimeout < shorter {
		shorter = l.WriteTimeout
	}
	l.watch.every = max(shorter/watchesPerDeadline, 1)
	l.watch.timer = time.AfterFunc(l.watch.every, w.look)
}

func (l *limits) stopWatch() {
	if l.watch.timer != nil {
		l.watch.timer.Stop()
	}
}

// look ends the Writer if a time limit has passed.
func (w *Writer) look() {
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
	passed := at - l.watch.lookedAt
	if passed > 2*l.watch.every+timersLate {
		// The process did not run, and what it did not do is nobody's fault.
		w.ages.Skip(passed-l.watch.every, at)
		passed = l.watch.every
	}
	w.ages.Sample(w.pending(), at)
	if l.isSilent(peer, w.queue.IsInFlight()) {
		l.watch.silence += passed
	} else {
		l.watch.silence = 0
	}
	isIdle := w.pending() == 0 && peer.Unacknowledged == 0 && w.written == l.watch.written
	l.watch.lookedAt, l.watch.peer, l.watch.lastBegun, l.watch.written = at, peer, l.watch.begun, w.written

	_, panicked := errors.AsType[*sock.PanicError](err)
	age := w.ages.Age(at)
	switch {
	case panicked:
		err = asPanicError(err)
	case l.MaxAge > 0 && age >= l.MaxAge:
		err = fmt.Errorf("%w: the oldest message has waited for %v, and MaxAge is %v", ErrSlowConsumer, age, l.MaxAge)
	case l.WriteTimeout > 0 && l.watch.silence >= l.WriteTimeout:
		err = fmt.Errorf("%w: the peer has taken nothing for %v, and WriteTimeout is %v: %w",
			ErrSlowConsumer, l.watch.silence, l.WriteTimeout, os.ErrDeadlineExceeded)
	default:
		if l.watch.runs = !isIdle; l.watch.runs {
			l.watch.timer.Reset(l.watch.every)
		}
		w.mu.Unlock()
		return
	}
	closeConn := w.fail(err)
	w.mu.Unlock()
	_ = closeConn()
}

// isSilent reports whether the peer has taken nothing since the last look although there was
// something to take: bytes that it has not acknowledged, or, if there are none or that is not
// known, a write that has not returned.
func (l *limits) isSilent(peer sock.State, isWriting bool) bool {
	last := l.watch.peer
	switch {
	case peer.Acknowledged != last.Acknowledged || peer.Unread != last.Unread:
		return false
	case peer.Unacknowledged > 0:
		return last.Unacknowledged > 0
	}
	return isWriting && l.watch.begun == l.watch.lastBegun
}
