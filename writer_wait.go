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
	w.queueAllStale()
	if w.pending() == 0 {
		w.mu.Unlock()
		return nil
	}
	ws := w.makeWaiters()
	return w.await(ctx, done, &ws.flushes, &waiter{at: w.lastAccepted()})
}

// WaitPending waits until at most maxBytes bytes are pending, counted as in
// WriterStats.PendingBytes. A negative maxBytes means 0. Use it if the source of the messages can
// pause: when too much is pending, pause the source, call WaitPending, and resume the source. It
// returns the same errors as Flush.
func (w *Writer) WaitPending(ctx context.Context, maxBytes int) error {
	done := doneOf(ctx)
	maxBytes = max(maxBytes, 0)
	w.mu.Lock()
	if w.pendingBytes() <= int64(maxBytes) {
		w.mu.Unlock()
		return nil
	}
	ws := w.makeWaiters()
	return w.await(ctx, done, &ws.pending, &waiter{bytes: int64(maxBytes)})
}

// doneOf returns ctx.Done(). No lock may be held, because a Context may be anybody's.
func doneOf(ctx context.Context) <-chan struct{} {
	requireContext(ctx)
	return ctx.Done()
}

// A waiter is a call of Flush, WaitPending, OnFlushed or WriteNotify. Writer.mu guards the fields.
//
// All but WaitPending wait for a message by its place among the messages that leave the queue; see
// waiters.left.
type waiter struct {
	at    int64 // the place of the message
	only  bool  // WriteNotify: only this message matters, not those before it
	bytes int64 // WaitPending: the most bytes that may be queued

	// One of these gets the outcome.
	outcome chan error  // Flush and WaitPending; buffered
	call    func(error) // OnFlushed and WriteNotify

	over bool // the outcome is on its way, or nobody waits for it any longer
}

// waiters holds the waiting calls. A nil *waiters has none. Writer.mu guards it.
type waiters struct {
	flushes list.List // of *waiter, in ascending order of at
	notices list.List // of *waiter, for OnFlushed and WriteNotify, in ascending order of at
	pending list.List // of *waiter, for WaitPending
	dropped int64     // messages dropped from the queue since the first of these calls
}

// left returns how many messages have left the queue, written or dropped, apart from those dropped
// before there were waiters. Writer.mu is held, here and below unless a comment says otherwise.
func (ws *waiters) left(w *Writer) int64 { return w.written + ws.dropped }

// makeWaiters returns the waiters, and makes them if there are none.
func (w *Writer) makeWaiters() *waiters {
	ws := w.watch()
	if ws.waiters == nil {
		ws.waiters = new(waiters)
	}
	return ws.waiters
}

// waiters returns the waiting calls, or nil if there are none.
func (w *Writer) waiters() *waiters {
	if w.watchers == nil {
		return nil
	}
	return w.watchers.waiters
}

// lastAccepted returns the place of the last message of the queue. There must be waiters.
func (w *Writer) lastAccepted() int64 { return w.watchers.waiters.left(w) + w.pending() }

// await adds call to calls and waits for its outcome, or until ctx is done. mu is held at the call,
// and not when await returns.
func (w *Writer) await(ctx context.Context, done <-chan struct{}, calls *list.List, call *waiter) error {
	call.outcome = make(chan error, 1)
	element := calls.PushBack(call)
	w.notifyWaiters() // the Writer may have ended
	w.mu.Unlock()
	select {
	case err := <-call.outcome:
		return err
	case <-done:
	}
	if !w.forget(calls, element) {
		return <-call.outcome // the wait ended at the same time
	}
	w.mu.Lock()
	messages, bytes := w.pending()+w.staleAmount().messages, w.pendingBytes()
	w.mu.Unlock()
	return failed(contextCause(ctx), "still pending: %d messages (%d bytes)", messages, bytes)
}

// forget ends the wait of e without an outcome. It returns false if the wait is over. mu is not held.
func (w *Writer) forget(calls *list.List, e *list.Element) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	call := e.Value.(*waiter)
	if call.over {
		return false
	}
	call.over = true
	calls.Remove(e)
	w.notifyWaiters() // removes the lists if they are empty
	return true
}

// flushTarget returns how many messages of the queue one write may take if it may wait. If a Flush
// waits, its last message must not share a write with later ones, because Flush would wait for
// them too.
func (w *Writer) flushTarget() int64 {
	if ws := w.waiters(); ws != nil {
		if first := ws.flushes.Front(); first != nil {
			return first.Value.(*waiter).at - ws.left(w)
		}
	}
	return math.MaxInt64
}

// notifyWaiters ends the calls whose wait is over, or all if the Writer has ended.
func (w *Writer) notifyWaiters() {
	ws := w.waiters()
	if ws == nil {
		return
	}
	hasEnded := w.state >= ended
	var failure error
	if hasEnded {
		failure = w.undeliveredError()
	}
	for _, calls := range []*list.List{&ws.flushes, &ws.notices} {
		for e := calls.Front(); e != nil; e = calls.Front() {
			if e.Value.(*waiter).at <= ws.left(w) {
				w.endWait(calls, e, nil)
			} else if hasEnded {
				w.endWait(calls, e, failure)
			} else {
				break // later ones wait for more
			}
		}
	}
	var next *list.Element
	for e := ws.pending.Front(); e != nil; e = next {
		next = e.Next()
		if w.pendingBytes() <= e.Value.(*waiter).bytes {
			w.endWait(&ws.pending, e, nil)
		} else if hasEnded {
			w.endWait(&ws.pending, e, failure)
		}
	}
	if ws.flushes.Len()+ws.notices.Len()+ws.pending.Len() == 0 {
		w.watchers.waiters = nil
		w.forgetWatchers()
	}
}

// endWait ends the wait of e, a call in calls.
func (w *Writer) endWait(calls *list.List, e *list.Element, outcome error) {
	call := calls.Remove(e).(*waiter)
	call.over = true
	if call.call != nil {
		w.call(func() { call.call(outcome) })
	} else {
		call.outcome <- outcome
	}
}

// moveFlushes accounts for n messages inserted after the first i of the queue, or removed there
// if n is negative.
func (w *Writer) moveFlushes(i int, n int64) {
	switch ws := w.waiters(); {
	case ws == nil:
	case n > 0:
		first := ws.left(w) + int64(i)
		moveBehind(&ws.flushes, first, n)
		moveBehind(&ws.notices, first, n)
	default:
		w.dropped(ws, &ws.flushes, int64(i), -n)
		w.dropped(ws, &ws.notices, int64(i), -n)
		ws.dropped -= n
	}
}

// moveBehind moves the places of the calls that wait for more than the first message by n.
func moveBehind(calls *list.List, first, n int64) {
	for e := calls.Back(); e != nil && e.Value.(*waiter).at > first; e = e.Prev() {
		e.Value.(*waiter).at += n
	}
}

// dropped accounts for n messages dropped from behind the first i of the queue. They have left the
// queue before those i, so only the places up to the last of them change.
func (w *Writer) dropped(ws *waiters, calls *list.List, i, n int64) {
	kept := ws.left(w) + i
	var next *list.Element
	for e := calls.Front(); e != nil && e.Value.(*waiter).at <= kept+n; e = next {
		next = e.Next()
		if call := e.Value.(*waiter); call.only && call.at > kept {
			w.endWait(calls, e, ErrDropped)
		} else {
			call.at = min(call.at, kept) + n
		}
	}
}
