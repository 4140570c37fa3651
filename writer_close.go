package sendq

import (
	"context"
	"fmt"
	"iter"

	"github.com/sendq-go/sendq/internal/sock"
)

// Close delivers what is queued, closes the connection and waits until that is done,
// at most for CloseTimeout. It is Shutdown with that bound.
func (w *Writer) Close() error {
	ctx, cancel := context.WithTimeoutCause(context.Background(), w.closeTimeout,
		fmt.Errorf("CloseTimeout of %v exceeded: %w", w.closeTimeout, context.DeadlineExceeded))
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
		w.watch().linger = &linger{aborted: make(chan struct{})}
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
		return failed(w.err, "messages not delivered: %d (%d bytes)", n, w.queue.Bytes())
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

// abort ends the Writer with cause, unless something ended it before, and waits until it has
// ended.
func (w *Writer) abort(cause error) (err error) {
	w.mu.Lock()
	isFirst := w.setAborting(cause)
	w.mu.Unlock()
	if isFirst {
		err = w.interrupt()
	}
	<-w.Done()
	if sock.IsClosed(err) {
		return nil
	}
	return asPanicError(err)
}

// setAborting makes cause why the Writer ends, unless something ended it before. Then it returns
// false. Otherwise interrupt must follow, without mu, unless the flusher calls setAborting: it
// finds the state when its write returns. mu is held.
func (w *Writer) setAborting(cause error) bool {
	if w.state >= aborting {
		return false
	}
	l := w.lingering()
	if w.state == closing && w.queue.Empty() {
		l.abandon(cause) // all is written: the peer decides whether this is an error
	} else {
		w.err = cause
	}
	w.state = aborting
	if l != nil {
		close(l.aborted)
	}
	w.refuseBlocked()
	if w.limits != nil {
		w.limits.Budget.leave(w)
	}
	return true
}

// interrupt makes the flusher end the Writer, or ends it if there is no flusher. It takes as long
// as closing the connection.
func (w *Writer) interrupt() error {
	w.mu.Lock()
	isFlushing := w.flushing
	w.flushing = true // from now on nobody else becomes the flusher
	isWritten := w.err == nil
	w.mu.Unlock()
	if !isFlushing {
		return w.end()
	}
	if isWritten {
		_, _, _ = w.checkPeer() // the last chance
	}
	return sock.CloseNow(w.conn)
}

// Done returns a channel that is closed when the Writer has ended: the connection is
// closed, and Err, Stats and Undelivered change no more. Err tells why it ended.
func (w *Writer) Done() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	a := w.watch()
	switch {
	case a.done != nil:
	case w.state == announced:
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
			messages = w.queue.All() // nobody changes it any more
		}
		w.mu.Unlock()
		messages(yield)
	}
}

// end closes the connection and announces that the Writer has ended. It is called once, by the
// flusher or in its place.
func (w *Writer) end() error {
	err := w.closeConn()
	w.mu.Lock()
	w.state = ended
	if w.queue.Empty() {
		w.queue.Release()
	} else {
		w.queue.Share()
	}
	if w.limits != nil {
		w.limits.stopDeadlines()
		w.limits.Budget.leave(w)
	}
	w.tellWaiters()
	var hooks *endHook
	if w.watchers != nil {
		hooks, w.watchers.onEnd = w.watchers.onEnd, nil
	}
	w.mu.Unlock()
	for h := hooks; h != nil; h = h.next {
		h.ended()
	}

	// Last, so that whoever sees Done finds the hooks' work done.
	w.mu.Lock()
	defer w.mu.Unlock()
	w.state = announced
	if w.watchers != nil && w.watchers.done != nil {
		close(w.watchers.done)
	}
	return err
}

// closeConn decides whether the Writer ends with an error, and closes the connection.
func (w *Writer) closeConn() error {
	w.mu.Lock()
	l := w.lingering()
	if l != nil && w.state == aborting && w.err == nil {
		w.mu.Unlock()
		_, _, _ = w.checkPeer() // fails if interrupt has closed conn, and has looked before
		w.mu.Lock()
	}
	if l != nil {
		w.decide(l)
	}
	isGraceful := w.state == closing && w.err == nil
	w.mu.Unlock()
	if !isGraceful {
		return sock.CloseNow(w.conn)
	}
	err := sock.CloseGently(w.conn)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err = l.closeError(err)
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
		a := w.watch()
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
