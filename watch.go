package sendq

import (
	"fmt"
	"os"
	"time"
)

// A watch sees to MaxAge and WriteTimeout. It is a timer that runs while the flusher
// does, and looks at the Writer an eighth of the shorter of the two apart: neither a
// message nor a write costs a timer. Writer.mu guards it.
type watch struct {
	timer *time.Timer // nil until it is needed
	every time.Duration

	// Of the conn.Write under way.
	progressAt time.Duration // when the peer was last seen to take something
	progress   uint64        // what it had taken by then, by the measure of peerProgress
}

const watchesPerDeadline = 8

// startWatch starts the timer if there is anything to watch.
func (l *limits) startWatch(w *Writer) {
	if l.MaxAge == 0 && l.WriteTimeout == 0 {
		return
	}
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
	var progress uint64
	var known bool
	if l.WriteTimeout > 0 {
		progress, known = peerProgress(w.conn) // without mu, as every call into conn
	}
	w.mu.Lock()
	if w.state >= aborting || !w.flushing {
		w.mu.Unlock()
		return
	}
	at := now()
	w.ages.note(w.pending(), at)
	if known && progress != l.watch.progress {
		l.watch.progress, l.watch.progressAt = progress, at
	}
	var slow error
	if age := w.ages.age(at); l.MaxAge > 0 && age >= l.MaxAge {
		slow = fmt.Errorf("%w: the oldest message has waited for %v, and MaxAge is %v", ErrSlowConsumer, age, l.MaxAge)
	}
	if idle := at - l.watch.progressAt; l.WriteTimeout > 0 && w.queue.inFlight > 0 && idle >= l.WriteTimeout {
		slow = fmt.Errorf("%w: the peer has taken nothing for %v, and WriteTimeout is %v: %w",
			ErrSlowConsumer, idle, l.WriteTimeout, os.ErrDeadlineExceeded)
	}
	if slow == nil {
		l.watch.timer.Reset(l.watch.every)
		w.mu.Unlock()
		return
	}
	closeConn := w.fail(slow)
	w.mu.Unlock()
	closeConn()
}
