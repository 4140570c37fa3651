package sendq

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/sendq-go/sendq/internal/queue"
	"github.com/sendq-go/sendq/internal/sock"
)

// Close delivers the queued messages, closes the connection and waits for both. It is Shutdown
// with a bound of CloseTimeout.
func (w *Writer) Close() error {
	ctx, cancel := context.WithTimeoutCause(context.Background(), w.closeTimeout, w.closeTimedOut())
	defer cancel()
	return w.Shutdown(ctx)
}

func (w *Writer) closeTimedOut() error {
	return fmt.Errorf("CloseTimeout of %v exceeded: %w", w.closeTimeout, context.DeadlineExceeded)
}

// CloseWith accepts a copy of last as the last message, and does what Close does, but returns at
// once. No message is accepted in between or later. The limits do not refuse last, and the
// overflow policy and Expire do not drop it. A takeover discards it. Nil means no last message.
//
// Within CloseTimeout the Writer ends; see Done and OnEnd. A call of Close or Shutdown waits for
// the end and returns the outcome. If the Writer is closing or has ended, CloseWith does nothing
// and returns an error that wraps net.ErrClosed and, if Err is not nil, Err.
func (w *Writer) CloseWith(last []byte) error {
	m := payload{run: queue.Bound(bytes.Clone(last))}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.state != open {
		return w.refusal()
	}
	if last != nil && !w.isHeir() { // nobody would read it
		w.queueAllStale()
		if w.limits != nil {
			_ = w.reserve(&m) // without room in the Budget, w no longer counts
		}
		w.enqueue(&m)
	}
	w.endInTime()
	w.startClosing()
	return nil
}

// startClosing makes the flusher write the queue and end the Writer. The Writer is open. mu is
// held, here and below.
func (w *Writer) startClosing() {
	if w.isHeir() { // it can deliver nothing
		if w.setAborting(failed(w.limits.keeper.cause, "the peer is away")) {
			go w.interrupt()
		}
		return
	}
	w.state = closing
	w.startLinger()
	w.refuseBlocked()
	w.wake()
}

func (w *Writer) startLinger() {
	if ws := w.watch(); ws.linger == nil {
		ws.linger = &linger{aborted: make(chan struct{})}
	}
}

// endInTime ends the Writer after CloseTimeout, unless it ends before.
func (w *Writer) endInTime() {
	timer := time.AfterFunc(w.closeTimeout, func() { _ = w.abort(w.closeTimedOut()) })
	w.addEndHook(&endHook{ended: func() { timer.Stop() }})
}

// Shutdown accepts no more messages, delivers the queued ones, closes the connection and waits
// for the end. If ctx is done first, Shutdown ends the Writer as CloseNow does. It panics if
// ctx is nil. Every call of Close and Shutdown waits for the end and returns the same outcome.
// The bound of a call is its ctx or CloseTimeout, and the first bound to pass ends the Writer.
//
// A message is delivered when the peer's machine has acknowledged it. A peer that reads to the
// end gets every byte and then EOF, even if it has sent bytes and nobody read them. This holds
// on Linux, except on 386 and s390x, for TCP, MPTCP, Unix and TLS connections, and for a
// wrapper if its method NetConn() net.Conn leads to one. The caller may go on reading while
// Shutdown waits. In the end a Read fails or returns EOF; it may return EOF even if the peer
// has reset the connection. If a wrapper keeps bytes back, it must write them in CloseWrite. If
// the peer has gone by then, it is not known what became of these bytes, and the error may be
// nil.
//
// Elsewhere nobody knows what has arrived. That includes wrappers with a hidden socket: a plain
// struct{ net.Conn }, as in netutil.LimitListener, cmux, and many packages for tracing or
// counting. Shutdown half-closes the connection if it has a method CloseWrite, waits for half a
// second or until the bound passes, and closes it. On a slow link, the end of a long farewell
// is then lost if the peer has sent bytes and nobody read them. To prevent that, give the
// wrapper a method NetConn, and a method CloseWrite unless the connection underneath has one. A
// net.Pipe, a datagram connection, and the connections of StreamConn and MessageConn lose nothing
// when they are closed, so there Shutdown does not wait.
//
// The error is nil if Close or Shutdown alone ended the Writer, and everything was delivered
// except dropped messages. The goodbye after the messages, such as a FIN, does not matter then.
// Shutdown waits for it for at most a second, and the error stays nil if the goodbye is lost, if
// the bound passes, or if somebody calls CloseNow. Where nobody knows what has arrived, the bound
// and CloseNow do not matter either once everything is written and the wait has begun.
//
// Otherwise the error wraps the cause and says how many messages are undelivered or how many
// bytes the peer has not acknowledged, if any. The cause is one of these:
//
//   - the cause of ctx
//   - the error that ended the Writer, perhaps long before the call
//   - the kernel's error, such as syscall.ECONNRESET or syscall.ETIMEDOUT, or syscall.EPIPE if
//     a Read has already received it; on Windows, such as syscall.WSAECONNRESET
//   - the error of closing the connection, where nobody knows what has arrived
func (w *Writer) Shutdown(ctx context.Context) error {
	requireContext(ctx)
	w.mu.Lock()
	if w.state == open {
		w.startClosing()
	}
	w.mu.Unlock()

	select {
	case <-w.Done():
	case <-ctx.Done():
		w.abort(contextCause(ctx))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.undeliveredError()
}

// undeliveredError returns nil if everything accepted was delivered or dropped. Otherwise it
// returns an error that says how much was not. mu is held, and the Writer has ended.
func (w *Writer) undeliveredError() error {
	if n := w.pending(); n > 0 {
		return failed(w.err, "undelivered messages: %d (%d bytes)", n, w.queue.Bytes())
	}
	return w.err
}

// CloseNow discards the queued messages, closes the connection and waits until the Writer has
// ended. Closing the connection interrupts a stuck write, so the peer may receive part of a
// message. Undelivered yields the discarded messages.
//
// If closing fails, CloseNow returns the error of the connection. Once the Writer has ended, by
// CloseNow or otherwise, CloseNow does nothing and returns nil.
//
// CloseNow takes as long as Close of the connection. Usually that is no time. But if the caller
// has set SetLinger to a number of seconds, the kernel waits for the peer that long. A blocking
// socket, such as File.Fd makes of any socket, is shut down first, because Close would wait for
// a stuck Read or Write. A blocking socket inside a wrapper without NetConn is not found.
func (w *Writer) CloseNow() error { return w.abort(ErrClosed) }

// abort ends the Writer with cause, unless it is already ending, and waits until it has ended.
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

// setAborting makes cause the reason for the Writer's end. If something else ended the Writer
// before, setAborting returns false. If it returns true, the caller must release mu and call
// interrupt. Only the flusher need not: it sees the state when its write returns. mu is held.
func (w *Writer) setAborting(cause error) bool {
	if w.state >= aborting {
		return false
	}
	w.leaveHeir(cause)
	l := w.lingering()
	switch {
	case w.err != nil: // this is not the first cause
	case w.state == closing && w.queue.Empty():
		l.abandon(cause) // everything is written: the peer decides whether this is an error
	default:
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

// interrupt makes the flusher end the Writer, or ends it if there is no flusher. It takes as
// long as closing the connection. mu is not held.
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

// Done returns a channel. It is closed when the Writer has ended: the connection is closed, and
// Err, Stats and Undelivered no longer change.
func (w *Writer) Done() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	ws := w.watch()
	switch {
	case ws.done != nil:
	case w.state == announced:
		ws.done = closedChan
	default:
		ws.done = make(chan struct{})
	}
	return ws.done
}

// Closing reports whether the Writer accepts no more messages, because it is ending or has ended.
//
// A reader of the connection gets an error or io.EOF in either case: if the peer has closed the
// connection, and if the Writer has. If Closing returns false then, it was not the Writer.
func (w *Writer) Closing() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.state >= closing
}

// Err returns the first cause of the Writer's end. It returns nil while the Writer lives, and
// after a Close that delivered everything. The cause is one of these:
//
//   - the error of a write, or a PanicError
//   - ErrSlowConsumer, with the limit
//   - ErrClosed, after CloseNow
//   - ErrTakenOver or ErrNameLost, if a Broker ended the Writer
//   - the cause of the context that bounded Close or Shutdown
//   - the reason why the peer has not acknowledged everything
//   - the error of closing the connection, where nobody knows what has arrived
//
// The error may wrap the cause; use errors.Is.
func (w *Writer) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// OnEnd calls f in its own goroutine when the Writer has ended, or at once if it already has.
// It is for programs that watch many Writers, because no goroutine has to wait for Done. The
// function stop cancels the call, and reports whether it was in time to prevent it.
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

// Undelivered yields the messages that were accepted but not completely written, in order. The
// peer may have received part of the first one. Undelivered yields nothing before the Writer
// has ended. The caller must not change the messages, because other Writers may share them.
// They stay in memory as long as the Writer does.
func (w *Writer) Undelivered() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		w.mu.Lock()
		var messages iter.Seq[[]byte] = func(func([]byte) bool) {}
		if w.state >= ended {
			messages = w.queue.All() // nobody changes it any longer
		}
		w.mu.Unlock()
		messages(yield)
	}
}

// end closes the connection and announces that the Writer has ended. It is called once, by the
// flusher or in its place. mu is not held, so the hooks may take any lock.
func (w *Writer) end() error {
	err := w.closeConn()
	w.mu.Lock()
	w.queueAllStale()
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
	w.notifyWaiters()
	var hooks *endHook
	if w.watchers != nil {
		hooks, w.watchers.onEnd = w.watchers.onEnd, nil
	}
	w.mu.Unlock()
	for h := hooks; h != nil; h = h.next {
		h.ended()
	}

	// Done comes last, so it implies that the hooks have finished.
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
	if w.isHeir() {
		return nil // it has none
	}
	w.mu.Lock()
	l := w.lingering()
	if l != nil && w.state == aborting && w.err == nil {
		w.mu.Unlock()
		_, _, _ = w.checkPeer() // fails if interrupt has closed conn, but interrupt has looked itself
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

// An endHook is a call to make when a Writer has ended. Hooks form a list inside the objects
// that wait, so a hook costs neither a goroutine nor a channel.
type endHook struct {
	next  *endHook
	prev  **endHook // what points to the hook; nil if it is in no list
	ended func()
}

// addEndHooks makes the Writer call the hooks, without any lock, when it has ended. If the
// Writer has already ended, addEndHooks returns false, and the hooks are never called.
func (w *Writer) addEndHooks(hooks ...*endHook) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.state >= ended {
		return false
	}
	for _, h := range hooks {
		w.addEndHook(h)
	}
	return true
}

// addEndHook is addEndHooks for a Writer that has not ended. mu is held.
func (w *Writer) addEndHook(h *endHook) {
	ws := w.watch()
	h.next, h.prev = ws.onEnd, &ws.onEnd
	if h.next != nil {
		h.next.prev = &h.next
	}
	ws.onEnd = h
}

// removeEndHook removes h, and reports whether it was in time to prevent the call.
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
