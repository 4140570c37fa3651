package sendq

import (
	"container/list"
	"context"
	"math"
)

// Flush waits until every message accepted before the call has been written or dropped. A written
// message has been taken by the connection; the peer may not have it yet. Flush does not wait for
// messages accepted later.
//
// If the Writer ends first, Flush returns an error that says how much is undelivered. If ctx is
// done first, the messages stay queued, and the error wraps the cause of ctx. Flush panics if
// ctx is nil.
func (w *Writer) Flush(ctx context.Context) error {
	done := doneOf(ctx)
	w.mu.Lock()
	if w.pending() == 0 {
		w.mu.Unlock()
		return nil
	}
	ws := w.watch().makeWaiters()
	return w.await(ctx, done, &ws.flushes, &waiter{written: w.written + w.pending()})
}

// WaitPending waits until at most maxBytes bytes are pending, counted as in
// WriterStats.PendingBytes. A negative maxBytes means 0. Use it if the source of the messages can
// pause: when too much is pending, pause the source, call WaitPending, and resume the source. It
// returns the same errors as Flush.
func (w *Writer) WaitPending(ctx context.Context, maxBytes int) error {
	done := doneOf(ctx)
	maxBytes = max(maxBytes, 0)
	w.mu.Lock()
	if w.queue.Bytes() <= int64(maxBytes) {
		w.mu.Unlock()
		return nil
	}
	ws := w.watch().makeWaiters()
	return w.await(ctx, done, &ws.pending, &waiter{bytes: int64(maxBytes)})
}

// doneOf returns ctx.Done(). No lock may be held, because a Context may be anybody's.
func doneOf(ctx context.Context) <-chan struct{} {
	requireContext(ctx)
	return ctx.Done()
}

// A waiter is a call of Flush or WaitPending. Writer.mu guards the fields.
type waiter struct {
	written int64         // Flush: the value of Writer.written to wait for, not counting dropped messages
	bytes   int64         // WaitPending: the most bytes that may be queued
	done    chan struct{} // closed when the wait is over or the Writer has ended
	met     bool          // the wait is over because of its condition
}

// waiters holds the waiting calls. A nil *waiters has none. Writer.mu guards it.
type waiters struct {
	flushes list.List // of *waiter, in ascending order of written
	pending list.List // of *waiter, for WaitPending
}

// makeWaiters returns the waiters, and makes them if there are none. mu is held.
func (ws *watchers) makeWaiters() *waiters {
	if ws.waiters == nil {
		ws.waiters = new(waiters)
	}
	return ws.waiters
}

// waiters returns the waiting calls, or nil if there are none. mu is held.
func (w *Writer) waiters() *waiters {
	if w.watchers == nil {
		return nil
	}
	return w.watchers.waiters
}

// await adds call to calls and waits until its condition is met, ctx is done, or the Writer has
// ended. mu is held at the call, and not when await returns.
func (w *Writer) await(ctx context.Context, done <-chan struct{}, calls *list.List, call *waiter) error {
	if w.state >= ended {
		defer w.mu.Unlock()
		w.notifyWaiters() // removes the lists if they are empty
		return w.undeliveredError()
	}
	call.done = make(chan struct{})
	element := calls.PushBack(call)
	w.mu.Unlock()
	select {
	case <-call.done:
		w.mu.Lock()
		defer w.mu.Unlock()
		if call.met {
			return nil
		}
		return w.undeliveredError()
	case <-done:
	}
	w.mu.Lock()
	calls.Remove(element) // does nothing if the wait ended at the same time
	w.notifyWaiters()     // removes the list if it is empty
	met, messages, bytes := call.met, w.pending(), w.queue.Bytes()
	w.mu.Unlock()
	if met {
		return nil
	}
	return failed(contextCause(ctx), "still pending: %d messages (%d bytes)", messages, bytes)
}

// flushTarget returns how many messages of the queue may be written together. If a Flush waits,
// its last message must not share a write with later ones, because Flush would wait for them
// too. mu is held.
func (w *Writer) flushTarget() int64 {
	if ws := w.waiters(); ws != nil {
		if first := ws.flushes.Front(); first != nil {
			return first.Value.(*waiter).written - w.written
		}
	}
	return math.MaxInt64
}

// notifyWaiters ends the calls whose wait is over, or all if the Writer has ended. mu is held.
func (w *Writer) notifyWaiters() {
	ws := w.waiters()
	if ws == nil {
		return
	}
	for e := ws.flushes.Front(); e != nil; e = ws.flushes.Front() {
		call := e.Value.(*waiter)
		if call.met = call.written <= w.written; !call.met && w.state < ended {
			break // later ones wait for more
		}
		ws.flushes.Remove(e)
		close(call.done)
	}
	var next *list.Element
	for e := ws.pending.Front(); e != nil; e = next {
		next = e.Next()
		call := e.Value.(*waiter)
		if call.met = w.queue.Bytes() <= call.bytes; call.met || w.state >= ended {
			ws.pending.Remove(e)
			close(call.done)
		}
	}
	if ws.flushes.Len()+ws.pending.Len() == 0 {
		w.watchers.waiters = nil
		if *w.watchers == (watchers{}) {
			w.watchers = nil
		}
	}
}

// moveFlushes accounts for n messages inserted after the first i of the queue, or removed there
// if n is negative. If a call waits for more than i messages, its written moves. mu is held.
func (w *Writer) moveFlushes(i int, n int64) {
	ws := w.waiters()
	if ws == nil {
		return
	}
	for e := ws.flushes.Back(); e != nil; e = e.Prev() {
		call := e.Value.(*waiter)
		if call.written <= w.written+int64(i) {
			break
		}
		call.written = max(w.written+int64(i), call.written+n)
	}
}
