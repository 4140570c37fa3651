package sendq

import (
	"cmp"
	"errors"
	"math"
	"net"
	"time"

	"github.com/sendq-go/sendq/internal/sock"
)

// A linger observes the bytes of a closing Writer from the last write until the connection
// closes. Writer.mu guards the fields.
type linger struct {
	aborted chan struct{} // closed when the wait must end early
	cause   error         // why the wait ended early; the Writer's error unless all is delivered

	// Set by checkPeer. The fields mean nothing unless isKnown.
	isKnown bool
	goal    uint64 // sock.State.Acknowledged when all is delivered
	lost    int    // bytes before goal not acknowledged at the last check

	acknowledged uint64 // the largest count that a check has found

	hasWaited bool // nothing is known, and the last wait has begun
}

// lingering returns the linger of a closing or ended Writer, or nil if it never closed. mu is
// held.
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

// checkPeer asks the kernel how far the peer has got. The first check must come before the
// half-close: later bytes are a goodbye of TLS or TCP, and losing them is no loss. mu is not
// held, because a call into conn may be slow.
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
	l.record(s, broken)
	if s.Gone && l.lost > 0 {
		l.abandon(cmp.Or(broken, error(sock.ErrBroken))) // a Read may have received the cause
	}
	return s, l.lost, nil
}

// record keeps the result of a check. Several checks may run at once, so results may come out
// of order. mu is held.
//
// The kernel's answers are odd for an MPTCP socket after a fallback to TCP. At first it counts
// too many bytes as unacknowledged. When both sides have closed the connection, it counts
// nothing. After a reset it still knows the number of acknowledged bytes.
func (l *linger) record(s sock.State, broken error) {
	if l.isKnown && s.Gone && broken == nil && s.Acknowledged < l.acknowledged {
		l.lost = 0
		return
	}
	l.acknowledged = max(l.acknowledged, s.Acknowledged)
	sent := s.Acknowledged + uint64(s.Unacknowledged)
	switch {
	case !l.isKnown:
		l.isKnown, l.goal, l.lost = true, sent, math.MaxInt
	case !s.Gone && int64(sent-l.goal) < 0:
		l.goal = sent
	}
	l.lost = min(l.lost, int(max(0, int64(l.goal-s.Acknowledged))))
}

// countKeptBack adds bytes to the messages if a wrapper kept them back until the half-close.
// More bytes than the longest goodbye must be messages.
func (w *Writer) countKeptBack() {
	const longestGoodbye = 256 // TLS takes 31 bytes
	s, err := sock.StateOf(w.conn)
	if err != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	l := w.watchers.linger
	if sent := s.Acknowledged + uint64(s.Unacknowledged); int64(sent-l.goal) > longestGoodbye {
		l.goal, l.lost = sent, s.Unacknowledged
	}
}

// awaitAcknowledgement waits until the peer's kernel has acknowledged all messages, and then at
// most for the given time until it has acknowledged the goodbye too. It gives up when the peer
// is gone or the wait is aborted. It returns how many bytes may be lost. mu is not held.
func (w *Writer) awaitAcknowledgement(goodbye time.Duration) (lost int) {
	// Polled, because no kernel announces the acknowledgement. It usually comes in less than a
	// round trip, and otherwise whenever the peer likes.
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
	// goodbyeWait is how long Close waits for the goodbye when all messages have arrived. After
	// that the kernel continues alone.
	goodbyeWait = time.Second

	// unknownWait is how long Close waits if nobody knows what has arrived. Package net/http
	// waits as long.
	unknownWait = 500 * time.Millisecond
)

// deliverRest makes sure that the bytes in conn reach the peer, because closing conn may
// discard them. The flusher calls it when the Writer is closing and the queue is empty. mu is
// not held.
//
// Close alone is not enough: if there is unread input, or input comes later, the kernel resets
// the connection and discards unsent bytes. A half-close before it does not help. So
// deliverRest half-closes, waits until the peer's kernel has acknowledged everything, and
// discards the unread input.
func (w *Writer) deliverRest() {
	_, lost, err := w.checkPeer()
	isKnown := err == nil
	if err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return // closed by somebody else
	}
	_, isWrapper := w.conn.(interface{ NetConn() net.Conn })
	if isWrapper && lost > 0 {
		// TLS gives up its goodbye if the kernel has no room for it in time.
		if w.awaitAcknowledgement(0) > 0 {
			return
		}
	}
	if err := sock.HalfClose(w.conn); err != nil {
		w.endWith(asPanicError(err))
		return
	}
	if isKnown && isWrapper {
		w.countKeptBack()
	}
	if !isKnown {
		w.waitUnknown()
	} else if w.awaitAcknowledgement(goodbyeWait) == 0 {
		sock.DiscardUnread(w.conn)
	}
}

// waitUnknown gives the bytes in conn time to reach the peer. It is for connections without a
// State.
func (w *Writer) waitUnknown() {
	w.mu.Lock()
	l := w.watchers.linger
	l.hasWaited = true
	w.mu.Unlock()
	if !w.losesNothing {
		sleep(unknownWait, l.aborted)
	}
}

// endWith makes err the Writer's error, unless it has one.
func (w *Writer) endWith(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
	}
}

// decide decides whether a closing Writer ends with an error. It is called once, before the
// connection is closed. mu is held.
func (w *Writer) decide(l *linger) {
	switch {
	case w.err != nil:
	case l.isKnown && l.lost > 0:
		w.err = failed(cmp.Or(l.cause, error(sock.ErrBroken)), "bytes not acknowledged by the peer: %d", l.lost)
	case !l.isKnown && !l.hasWaited:
		w.err = l.cause
	}
}

// closeError returns the error of a Writer whose messages are delivered, as far as anybody
// knows, after Close of its connection returned err. If everything has arrived, only the
// goodbye has failed. mu is held.
func (l *linger) closeError(err error) error {
	_, panicked := errors.AsType[*sock.PanicError](err)
	switch {
	case err == nil || l.isKnown && !panicked:
		return nil
	case sock.IsClosed(err):
		return l.cause // the interruption of Close, if there was one
	}
	return failed(asPanicError(err), "closing the connection")
}

// sleep waits for d and returns true. If aborted is closed first, it returns false at once.
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
