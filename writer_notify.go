package sendq

import "context"

// OnFlushed calls f(nil) when every message accepted before the call of OnFlushed has been written
// or dropped. If the Writer ends first, it calls f with the error that Flush returns then. It is for
// programs that watch many Writers, because no goroutine has to wait in Flush.
//
// Unlike Flush, OnFlushed does not make the Writer divide a write, so later messages may have been
// written too by the time of the call. The function stop cancels the call, and reports whether it
// was in time to prevent it.
//
// A Writer makes the calls of OnFlushed, WriteNotify and OnPressure one after the other, without a
// lock, and in a goroutine that exists only while there are any. A call that takes long delays
// the next ones, but no message.
func (w *Writer) OnFlushed(f func(error)) (stop func() bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queueAllStale()
	ws := w.makeWaiters()
	e := ws.notices.PushBack(&waiter{at: w.lastAccepted(), call: f})
	w.notifyWaiters()
	return func() bool { return w.forget(&ws.notices, e) }
}

// WriteNotify is Write, and calls f with the outcome of this message: nil when it is written,
// ErrDropped when the overflow policy or Expire drops it, or the error that Flush returns when the
// Writer ends first. If WriteNotify returns an error, it does not call f.
//
// Written means that the connection has taken the message; the peer may not have it. The calls are
// made as those of OnFlushed. The Writer makes no write of its own for a message because of f.
//
// An error is about this Writer alone: after a takeover (ErrTakenOver), the new Writer may still
// write the message.
func (w *Writer) WriteNotify(p []byte, f func(error)) (int, error) {
	m := copyOf(p)
	if err := w.send(context.Background(), &m, f); err != nil {
		return 0, err
	}
	return len(p), nil
}

// notifyLast makes f get the outcome of the last message of the queue, unless f is nil. mu is held.
func (w *Writer) notifyLast(f func(error)) {
	if f != nil {
		w.makeWaiters().notices.PushBack(&waiter{at: w.lastAccepted(), only: true, call: f})
	}
}

// call queues a call of the program's function f. mu is held.
func (w *Writer) call(f func()) {
	ws := w.watch()
	if ws.calls == nil {
		ws.calls = &calls{lock: &w.mu, idle: func() {
			ws.calls = nil
			w.forgetWatchers()
		}}
	}
	ws.calls.add(f)
}
