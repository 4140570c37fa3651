package sendq

import (
	"cmp"
	"errors"
	"math"
	"net"
	"time"

	"github.com/sendq-go/sendq/internal/sock"
)

// A linger is what comes of the messages of a Writer that is closing once they are all
// written. Writer.mu guards it.
type linger struct {
	aborted chan struct{} // closed when nothing is to be waited for any more
	cause   error         // of that: the Writer's error unless all is delivered

	// What the kernel knows, if it is known.
	isKnown bool
	end     uint64 // what sock.State.Acknowledged will be when all is delivered
	lost    int    // bytes before end that were not acknowledged at the last look

	acknowledged uint64 // the most that a look has found

	isWaited bool // nothing is known, and the last wait has begun
}

// lingering returns the linger of a Writer that is or was closing, or nil. mu is held.
func (w *Writer) lingering() *linger {
	if w.watchers == nil {
		return nil
	}
	return w.watchers.linger
}

func (l *linger) abandon(cause error) {
	if l.cause == nil {
		l.cause = cause
	}
}

// checkPeer asks the kernel how far the peer has got. What comes after the first look is
// goodbye, in TLS and in TCP, and no loss.
func (w *Writer) checkPeer() (s sock.State, lost int, err error) {
	var broken error
	s, err = sock.StateOf(w.conn)
	if s.Gone {
		broken = sock.LastError(w.conn)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	l := w.watchers.linger
	if err != nil {
		if !errors.Is(err, errors.ErrUnsupported) {
			l.abandon(asPanicError(err))
		}
		return s, l.lost, err
	}
	l.note(s, broken)
	if s.Gone && l.lost > 0 {
		l.abandon(cmp.Or(broken, error(sock.ErrBroken))) // the reader may have got the cause
	}
	return s, l.lost, nil
}

// note keeps what a look has found. A slower one may have looked before.
//
// Of an MPTCP socket that has fallen back to TCP the kernel's answers are odd. At first it counts
// too much as unacknowledged. When both sides have closed the connection, it counts nothing any
// more; after a reset it still knows what was acknowledged.
func (l *linger) note(s sock.State, broken error) {
	if l.isKnown && s.Gone && broken == nil && s.Acknowledged < l.acknowledged {
		l.lost = 0
		return
	}
	l.acknowledged = max(l.acknowledged, s.Acknowledged)
	end := s.Acknowledged + uint64(s.Unacknowledged)
	switch {
	case !l.isKnown:
		l.isKnown, l.end, l.lost = true, end, math.MaxInt
	case !s.Gone && int64(end-l.end) < 0:
		l.end = end
	}
	l.lost = min(l.lost, int(max(0, int64(l.end-s.Acknowledged))))
}

// countGathered makes what a wrapper has kept until it was half-closed part of the messages.
// More than a goodbye must be that.
func (w *Writer) countGathered() {
	const longestGoodbye = 256 // of TLS it is 31 bytes
	s, err := sock.StateOf(w.conn)
	if err != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	l := w.watchers.linger
	if end := s.Acknowledged + uint64(s.Unacknowledged); int64(end-l.end) > longestGoodbye {
		l.end, l.lost = end, s.Unacknowledged
	}
}

// awaitAcknowledgement waits until the peer's kernel has acknowledged all messages, and then at most for
// the given time until it has acknowledged the goodbye too. It gives up when the peer
// is gone, or the linger is aborted. It returns how many bytes may not have arrived.
func (w *Writer) awaitAcknowledgement(goodbye time.Duration) (lost int) {
	// Polled, because no kernel tells when the acknowledgement comes: in less than a
	// round trip as a rule, and otherwise whenever the peer likes.
	const shortest, longest = 50 * time.Microsecond, 50 * time.Millisecond
	for pause := shortest; ; pause = min(2*pause, longest) {
		s, lost, err := w.checkPeer()
		switch {
		case err != nil || s.Gone || s.Unacknowledged == 0 || lost == 0 && goodbye <= 0:
			return lost
		case lost == 0:
			goodbye -= pause
		}
		if !sleep(pause, w.watchers.linger.aborted) {
			return lost
		}
	}
}

const (
	// goodbyeWait is how long Close waits for the goodbye when all messages have arrived.
	// The kernel goes on saying it after that.
	goodbyeWait = time.Second

	// blindWait is how long it waits where nobody knows what has arrived, as net/http does,
	// in the hope that it is enough.
	blindWait = 500 * time.Millisecond
)

// deliverRest sees to it that what conn has taken reaches the peer although conn is about
// to be closed. The flusher calls it when the Writer is closing and the queue is empty.
//
// Close alone does not: while input is unread, or comes later, the kernel resets the
// connection and throws away what it has not sent. Nor does a half-close before it. So
// deliverRest half-closes, waits until the peer's kernel has acknowledged everything, and takes
// the unread input away.
func (w *Writer) deliverRest() {
	_, lost, err := w.checkPeer()
	isKnown := err == nil
	if err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return // closed by somebody else
	}
	_, isWrapper := w.conn.(interface{ NetConn() net.Conn })
	if isWrapper && lost > 0 {
		// TLS gives up its goodbye when the kernel has no room for it in time.
		if w.awaitAcknowledgement(0) > 0 {
			return
		}
	}
	if err := sock.HalfClose(w.conn); err != nil {
		w.endWith(asPanicError(err))
		return
	}
	if isKnown && isWrapper {
		w.countGathered()
	}
	if !isKnown {
		w.waitBlindly()
	} else if w.awaitAcknowledgement(goodbyeWait) == 0 {
		sock.DiscardUnread(w.conn)
	}
}

// waitBlindly gives a connection of which nothing is known time to bring what it has taken to
// the peer.
func (w *Writer) waitBlindly() {
	w.mu.Lock()
	l := w.watchers.linger
	l.isWaited = true
	w.mu.Unlock()
	if !w.keepsNothing {
		sleep(blindWait, l.aborted)
	}
}

// endWith makes err the Writer's, unless it has one.
func (w *Writer) endWith(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
	}
}

// decide decides, once and before the connection is closed, whether a closing Writer ends with
// an error. mu is held.
func (w *Writer) decide(l *linger) {
	switch {
	case w.err != nil:
	case l.isKnown && l.lost > 0:
		w.err = failed(cmp.Or(l.cause, error(sock.ErrBroken)), "bytes not acknowledged by the peer: %d", l.lost)
	case !l.isKnown && !l.isWaited:
		w.err = l.cause
	}
}

// closeError returns the error of a Writer that has ended well but for err, that of the
// connection's Close. If everything has arrived, no more than a goodbye has failed.
func (l *linger) closeError(err error) error {
	_, panicked := errors.AsType[*sock.PanicError](err)
	switch {
	case err == nil || l.isKnown && !panicked:
		return nil
	case sock.IsClosed(err):
		return l.cause // what interrupted Close, if anything
	}
	return failed(asPanicError(err), "closing the connection")
}

// sleep waits for d, and returns false at once when aborted is closed.
func sleep(d time.Duration, aborted <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-aborted:
		return false
	}
}
