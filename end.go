package sendq

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"net"
	"time"
)

// Close delivers what is queued, closes the connection and waits until that is done,
// at most for CloseTimeout. It is Shutdown with that bound.
func (w *Writer) Close() error {
	ctx, cancel := context.WithTimeoutCause(context.Background(), w.closeTimeout,
		fmt.Errorf("CloseTimeout of %v is over: %w", w.closeTimeout, context.DeadlineExceeded))
	defer cancel()
	return w.Shutdown(ctx)
}

// Shutdown accepts no more messages, delivers what is queued, closes the connection
// and waits until that is done or ctx is, in which case it ends the Writer as
// CloseNow does.
//
// Delivered means that the peer's machine has acknowledged it. A peer that reads to
// the end gets every byte and then EOF, even if it has sent bytes that nobody read.
// That takes a TCP, MPTCP, Unix or TLS connection, or a wrapper with a method
// NetConn() net.Conn that leads to one, and Linux, but not 386 or s390x. While Shutdown
// waits, the caller's reader may go on reading; a Read then fails or returns EOF, also if the
// peer has reset the connection. A wrapper that keeps bytes back must write them in CloseWrite.
//
// Elsewhere nobody knows what has arrived. Shutdown half-closes the connection, if it has a
// method CloseWrite, and waits half a second, or what is left of the bound, before it closes
// it. On a slow link that loses the end of a long farewell if the peer has sent bytes that
// nobody read. This is so behind a wrapper that hides the socket: a plain
// struct{ net.Conn }, such as those of netutil.LimitListener, cmux and many that trace or
// count. The two methods NetConn, and CloseWrite where the connection beneath has none, mend
// it. A net.Pipe holds nothing back, so there Shutdown does not wait.
//
// The error is nil if the Writer ended by Close or Shutdown alone, with everything
// delivered but what an overflow policy dropped. Then it does not matter what becomes of the
// goodbye behind it, for which Shutdown waits a second at most, nor that the bound passes
// or somebody calls CloseNow meanwhile. Otherwise the error wraps the cause and says how much
// was not delivered, if anything. The cause is that of ctx, why the Writer ended, maybe
// long before the call, or the kernel's, such as syscall.ECONNRESET or syscall.ETIMEDOUT;
// it is syscall.EPIPE if a Read has got that before.
//
// Every call of Close and Shutdown waits for the end and returns the same outcome;
// of several bounds the first to pass ends the Writer. Shutdown panics if ctx is nil.
func (w *Writer) Shutdown(ctx context.Context) error {
	requireContext(ctx)
	w.mu.Lock()
	if w.state == open {
		w.state = closing
		w.attend().farewell = &farewell{aborted: make(chan struct{})}
		w.refuseBlocked()
		w.wake()
	}
	w.mu.Unlock()

	select {
	case <-w.Done():
	case <-ctx.Done():
		w.abort(context.Cause(ctx))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.undeliveredError()
}

// undeliveredError returns nil if everything that was accepted was delivered or
// dropped, and else an error that says how much was not. mu is held, and the Writer
// has ended.
func (w *Writer) undeliveredError() error {
	if n := w.pending(); n > 0 {
		return fmt.Errorf("sendq: messages not delivered: %d (%d bytes): %w", n, w.queue.bytes, w.err)
	}
	return w.err
}

// CloseNow discards what is queued and closes the connection, which interrupts a
// write that is stuck, and waits until the Writer has ended. The peer may get part of
// the message that was being written. Undelivered yields what was discarded.
//
// It returns the connection's error, if closing fails. Once the Writer has ended, by
// CloseNow or otherwise, it does nothing and returns nil.
//
// It takes as long as Close of the connection does. That is no time, unless the caller has
// set SetLinger to a number of seconds: then the kernel waits for the peer that long. A
// blocking socket, which is what File.Fd makes of one, is shut down first, because Close
// would wait for a Read or Write that is stuck. Behind a wrapper without NetConn it is not found.
func (w *Writer) CloseNow() error { return w.abort(ErrClosed) }

// abort ends the Writer with cause, unless something ended it before, and waits for
// the end.
func (w *Writer) abort(cause error) (err error) {
	w.mu.Lock()
	carryOut := w.fail(cause)
	w.mu.Unlock()
	err = carryOut()
	<-w.Done()
	if isClosed(err) {
		return nil
	}
	return err
}

// fail makes the Writer end with cause, unless something ended it before. mu is held;
// when it is released, the function that fail returns must be called, and may take as
// long as closing the connection.
func (w *Writer) fail(cause error) (carryOut func() error) {
	if w.state >= aborting {
		return func() error { return nil }
	}
	// If all is written already, it is up to the peer whether this is an error.
	isWritten := w.state == closing && w.queue.empty()
	w.state = aborting
	if isWritten {
		w.audience.farewell.giveUp(cause)
	} else {
		w.err = cause
	}
	if w.audience != nil && w.audience.farewell != nil {
		close(w.audience.farewell.aborted)
	}
	w.refuseBlocked()
	if w.limits != nil {
		w.limits.Budget.leave(w)
	}
	if w.flushing {
		// Interrupts the flusher, which then ends the Writer.
		return func() error {
			if isWritten {
				_, _, _ = w.lookAtPeer() // the last chance
			}
			return closeNow(w.conn)
		}
	}
	w.flushing = true // so nobody else is, or becomes, the flusher
	return w.end
}

// Done returns a channel that is closed when the Writer has ended: the connection is
// closed, and Err, Stats and Undelivered change no more. Err tells why it ended.
func (w *Writer) Done() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	a := w.attend()
	switch {
	case a.done != nil:
	case w.state == over:
		a.done = closedChan
	default:
		a.done = make(chan struct{})
	}
	return a.done
}

// Err returns the first cause of the Writer's end: the error of a write, or a PanicError;
// an ErrSlowConsumer that says which limit was reached; ErrClosed after CloseNow; the cause
// of the context that bounded Shutdown; or why the peer has not acknowledged everything. It
// is nil while the Writer lives, and after a Close that delivered everything.
func (w *Writer) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// OnEnd calls f in a goroutine of its own when the Writer has ended, at once if it has
// already. It is for those who supervise many Writers: no goroutine has to wait for
// Done meanwhile. The returned function takes the request back, and tells whether it
// came in time to keep f from being called.
func (w *Writer) OnEnd(f func()) (stop func() bool) {
	afterDone := func() {
		<-w.Done()
		f()
	}
	h := &endHook{ended: func() { go afterDone() }}
	if !w.addEndHooks(h) {
		go afterDone()
	}
	return func() bool { return w.removeEndHook(h) }
}

// Undelivered yields the messages that were accepted and not wholly written, in
// order; of the first the peer may have got a part. It yields nothing before the
// Writer has ended. The messages must not be changed: other Writers may share them.
// They stay in memory as long as the Writer does.
func (w *Writer) Undelivered() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		w.mu.Lock()
		var messages iter.Seq[[]byte] = func(func([]byte) bool) {}
		if w.state >= ended {
			messages = w.queue.all() // nobody changes it any more
		}
		w.mu.Unlock()
		messages(yield)
	}
}

// A farewell is what comes of the messages of a Writer that is closing once they are all
// written. Writer.mu guards it.
type farewell struct {
	aborted chan struct{} // closed when nothing is to be waited for any more
	cause   error         // of that: the Writer's error unless all is delivered

	// What the kernel knows, if it is known.
	isKnown bool
	end     uint64 // what sendState.acknowledged will be when all is delivered
	lost    int    // bytes before end that were not acknowledged at the last look

	acknowledged uint64 // the most that a look has found

	isWaited bool // nothing is known, and the last wait has begun
}

func (f *farewell) giveUp(cause error) {
	if f.cause == nil {
		f.cause = cause
	}
}

// lookAtPeer asks the kernel how far the peer has got. What comes after the first look is
// goodbye, in TLS and in TCP, and no loss.
func (w *Writer) lookAtPeer() (s sendState, lost int, err error) {
	var broken error
	s, err = getSendState(w.conn)
	if s.gone {
		broken = onSocket(w.conn, lastErrorOf)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	f := w.audience.farewell
	if err != nil {
		if !errors.Is(err, errors.ErrUnsupported) {
			f.giveUp(err)
		}
		return s, f.lost, err
	}
	f.note(s, broken)
	if s.gone && f.lost > 0 {
		f.giveUp(cmp.Or(broken, error(errBroken))) // the reader may have got the cause
	}
	return s, f.lost, nil
}

// note keeps what a look has found. A slower one may have looked before.
//
// Of an MPTCP socket that has fallen back to TCP the kernel's answers are odd. At first it counts
// too much as unacknowledged. When both sides have closed the connection, it counts nothing any
// more; after a reset it still knows what was acknowledged.
func (f *farewell) note(s sendState, broken error) {
	if f.isKnown && s.gone && broken == nil && s.acknowledged < f.acknowledged {
		f.lost = 0
		return
	}
	f.acknowledged = max(f.acknowledged, s.acknowledged)
	end := s.acknowledged + uint64(s.unacknowledged)
	switch {
	case !f.isKnown:
		f.isKnown, f.end, f.lost = true, end, math.MaxInt
	case !s.gone && int64(end-f.end) < 0:
		f.end = end
	}
	f.lost = min(f.lost, int(max(0, int64(f.end-s.acknowledged))))
}

// noteGathered makes part of the messages what a wrapper has kept until it was half-closed. More
// than a goodbye must be that.
func (f *farewell) noteGathered(s sendState) {
	const longestGoodbye = 256 // of TLS it is 31 bytes
	if end := s.acknowledged + uint64(s.unacknowledged); !s.gone && int64(end-f.end) > longestGoodbye {
		f.end, f.lost = end, s.unacknowledged
	}
}

// awaitPeer waits until the peer's kernel has acknowledged all messages, and for the
// goodbye, if it has not acknowledged that yet, no longer than so. It gives up when the peer
// is gone, or the farewell is aborted. It returns how many bytes may not have arrived.
func (w *Writer) awaitPeer(goodbye time.Duration) (lost int) {
	// Polled, because no kernel tells when the acknowledgement comes: in less than a
	// round trip as a rule, and otherwise whenever the peer likes.
	const shortest, longest = 50 * time.Microsecond, 50 * time.Millisecond
	for pause := shortest; ; pause = min(2*pause, longest) {
		s, lost, err := w.lookAtPeer()
		switch {
		case err != nil || s.gone || s.unacknowledged == 0 || lost == 0 && goodbye <= 0:
			return lost
		case lost == 0:
			goodbye -= pause
		}
		if !sleep(pause, w.audience.farewell.aborted) {
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

// finish sees to it that what conn has taken reaches the peer although conn is about
// to be closed. The flusher calls it when the Writer is closing and the queue is empty.
//
// Close alone does not: while input is unread, or comes later, the kernel resets the
// connection and throws away what it has not sent. Nor does a half-close before it. So
// finish half-closes, waits until the peer's kernel has acknowledged everything, and takes
// the unread input away.
func (w *Writer) finish() {
	_, lost, err := w.lookAtPeer()
	isKnown := err == nil
	if err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return // closed by somebody else
	}
	_, isWrapper := w.conn.(interface{ NetConn() net.Conn })
	if isWrapper && lost > 0 {
		// TLS gives up its goodbye when the kernel has no room for it in time.
		if w.awaitPeer(0) > 0 {
			return
		}
	}
	if err := halfClose(w.conn); err != nil {
		w.endWith(err)
		return
	}
	if s, err := getSendState(w.conn); err == nil && isKnown && isWrapper {
		w.mu.Lock()
		w.audience.farewell.noteGathered(s)
		w.mu.Unlock()
	}
	if !isKnown {
		w.waitBlindly()
	} else if w.awaitPeer(goodbyeWait) == 0 {
		discardUnread(w.conn)
	}
}

// waitBlindly gives a connection of which nothing is known time to bring what it has taken to
// the peer.
func (w *Writer) waitBlindly() {
	var network string
	if err := guard(w.conn, "LocalAddr", func() { network = networkOf(w.conn) }); err != nil {
		w.endWith(err)
		return
	}
	w.mu.Lock()
	f := w.audience.farewell
	f.isWaited = true
	w.mu.Unlock()
	if network == "pipe" || isDatagram(network) {
		return // Close takes nothing back of what a pipe or a datagram socket has taken
	}
	sleep(blindWait, f.aborted)
}

// endWith makes err the Writer's, unless it has one.
func (w *Writer) endWith(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
	}
}

// judge decides, once and before the connection is closed, whether a closing Writer ends with
// an error. mu is held.
func (w *Writer) judge(f *farewell) {
	switch {
	case w.err != nil:
	case f.isKnown && f.lost > 0:
		w.err = fmt.Errorf("sendq: bytes not acknowledged by the peer: %d: %w", f.lost, cmp.Or(f.cause, error(errBroken)))
	case !f.isKnown && !f.isWaited:
		w.err = f.cause
	}
}

// end closes the connection and tells everyone who waits that the Writer has ended.
// It is called once, by the flusher or in its stead.
func (w *Writer) end() error {
	w.mu.Lock()
	f := new(farewell)
	if w.audience != nil && w.audience.farewell != nil {
		f = w.audience.farewell
		if w.state == aborting && w.err == nil {
			w.mu.Unlock()
			_, _, _ = w.lookAtPeer() // fails if fail has closed conn, and has looked before
			w.mu.Lock()
		}
		w.judge(f)
	}
	graceful := w.state == closing && w.err == nil
	w.mu.Unlock()
	var err error
	if graceful {
		err = closeGently(w.conn)
	} else {
		err = closeNow(w.conn)
	}

	w.mu.Lock()
	if graceful {
		w.err = f.closeError(err)
	}
	w.state = ended
	if w.queue.empty() {
		w.queue.release()
	} else {
		w.queue.share()
	}
	if w.limits != nil {
		w.limits.stopWatch()
		w.limits.Budget.leave(w)
	}
	w.tellWaiters()
	var hooks *endHook
	if w.audience != nil {
		hooks, w.audience.onEnd = w.audience.onEnd, nil
	}
	w.mu.Unlock()
	for h := hooks; h != nil; h = h.next {
		h.ended()
	}

	// Last, so that whoever sees Done finds the hooks' work done.
	w.mu.Lock()
	defer w.mu.Unlock()
	w.state = over
	if w.audience != nil && w.audience.done != nil {
		close(w.audience.done)
	}
	return err
}

// closeError returns the error of a Writer that has ended well but for err, that of the
// connection's Close. If everything has arrived, no more than a goodbye has failed.
func (f *farewell) closeError(err error) error {
	var panicked *PanicError
	switch {
	case err == nil || f.isKnown && !errors.As(err, &panicked):
		return nil
	case isClosed(err):
		return f.cause // what interrupted Close, if anything
	}
	return fmt.Errorf("sendq: closing the connection: %w", err)
}

var closedChan = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// An endHook is something to do when a Writer has ended. Hooks are a list inside the
// objects that want to know, so that supervising a Writer costs neither a goroutine
// nor a channel.
type endHook struct {
	next  *endHook
	prev  **endHook // what points to it; nil if it is in no list
	ended func()
}

// addEndHooks makes the Writer call the hooks, without any lock, when it has ended. It
// returns false, and never calls them, if the Writer has ended already.
func (w *Writer) addEndHooks(hooks ...*endHook) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.state >= ended {
		return false
	}
	for _, h := range hooks {
		a := w.attend()
		h.next, h.prev = a.onEnd, &a.onEnd
		if h.next != nil {
			h.next.prev = &h.next
		}
		a.onEnd = h
	}
	return true
}

// removeEndHook takes h back, and tells whether it was in time.
func (w *Writer) removeEndHook(h *endHook) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.state >= ended || h.prev == nil {
		return false
	}
	*h.prev = h.next
	if h.next != nil {
		h.next.prev = h.prev
	}
	h.next, h.prev = nil, nil
	return true
}
