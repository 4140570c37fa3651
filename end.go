package sendq

import (
	"context"
	"fmt"
	"iter"
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
// That takes a TCP, Unix or TLS connection, or one that has a method
// NetConn() net.Conn to lead to it, and Linux, but not 386 or s390x; elsewhere Shutdown
// half-closes the connection and waits half a second before it closes it. While
// Shutdown waits, the caller's reader may go on reading; a Read then fails or returns
// EOF.
//
// The error is nil if the Writer ended by Close or Shutdown alone, with everything
// delivered but what an overflow policy dropped. Otherwise it wraps the cause, that of
// ctx or why the Writer ended, maybe long before the call, and tells how much was not
// delivered, if anything.
//
// Every call of Close and Shutdown waits for the end and returns the same outcome;
// of several bounds the first to pass ends the Writer. Shutdown panics if ctx is nil.
func (w *Writer) Shutdown(ctx context.Context) error {
	requireContext(ctx)
	w.mu.Lock()
	if w.state == open {
		w.state = closing
		w.attend().aborted = make(chan struct{})
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
	w.state = aborting
	w.err = cause
	if w.audience != nil && w.audience.aborted != nil {
		close(w.audience.aborted)
	}
	w.refuseBlocked()
	if w.flushing {
		// Interrupts the flusher, which then ends the Writer.
		return func() error { return closeNow(w.conn) }
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
// of the context that bounded Shutdown; a reset before the peer had acknowledged
// everything. It is nil while the Writer lives, and after a Close that delivered everything.
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

// finish brings to the peer what the connection has taken. The flusher calls it
// when the Writer is closing and the queue is empty.
func (w *Writer) finish() {
	lost, err := finish(w.conn, w.audience.aborted) // made by Shutdown
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err // else aborted meanwhile
	}
	if lost > 0 {
		w.err = fmt.Errorf("sendq: bytes not acknowledged by the peer: %d: %w", lost, w.err)
	}
}

// end closes the connection and tells everyone who waits that the Writer has ended.
// It is called once, by the flusher or in its stead.
func (w *Writer) end() error {
	w.mu.Lock()
	graceful := w.state == closing
	w.mu.Unlock()
	var err error
	if graceful {
		_, unknown := getSendState(innermost(w.conn))
		if err = w.conn.Close(); unknown == nil {
			err = nil // everything has arrived: no more than a goodbye has failed
		}
	} else {
		err = closeNow(w.conn)
	}

	w.mu.Lock()
	if graceful && w.err == nil && err != nil && !isClosed(err) {
		w.err = fmt.Errorf("sendq: closing the connection: %w", err)
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
