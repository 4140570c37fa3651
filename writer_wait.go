package sendq

import (
	"container/list"
	"context"
	"math"
)

// Flush waits until every message that was accepted before the call has been written,
// which means that the connection took it, or dropped by the overflow policy; the
// peer may not have it yet. It does not wait for messages accepted later.
//
// It returns an error that says how much was not delivered if the Writer ends
// first, and the cause of ctx if that is done first; the messages stay queued then. It
// panics if ctx is nil.
func (w *Writer) Flush(ctx context.Context) error {
	done := doneOf(ctx)
	w.mu.Lock()
	if w.pending() == 0 {
		w.mu.Unlock()
		return nil
	}
	ws := w.watch().makeWaiters()
	return w.await(ctx, done, &ws.flushes, &waiter{end: w.written + w.pending()})
}

// WaitPending waits until at most limit bytes are pending, as WriterStats.PendingBytes
// counts them. It is for those who feed a Writer from a source that they can pause: when
// too much is pending they pause, wait until less is, and go on. Its errors are those
// of Flush.
func (w *Writer) WaitPending(ctx context.Context, limit int) error {
	done := doneOf(ctx)
	limit = max(limit, 0)
	w.mu.Lock()
	if w.queue.Bytes() <= int64(limit) {
		w.mu.Unlock()
		return nil
	}
	ws := w.watch().makeWaiters()
	return w.await(ctx, done, &ws.pending, &waiter{bytes: int64(limit)})
}

// doneOf returns ctx.Done(), for which no lock may be held: a Context may be anybody's.
func doneOf(ctx context.Context) <-chan struct{} {
	requireContext(ctx)
	return ctx.Done()
}

// A waiter is a call of Flush or WaitPending.
type waiter struct {
	end   int64         // Flush: the value of Writer.written to wait for, dropped messages left out
	bytes int64         // WaitPending: the most bytes that may be queued
	done  chan struct{} // closed when the wait is over, or the Writer has ended
	met   bool          // the condition was met, so it was not the Writer's end
}

// waiters are the calls that wait. A nil *waiters has none.
type waiters struct {
	flushes list.List // of *waiter, in the order of their ends
	pending list.List // of *waiter, for WaitPending
}

// makeWaiters returns the waiters, which there are from now on.
func (ws *watchers) makeWaiters() *waiters {
	if ws.waiters == nil {
		ws.waiters = new(waiters)
	}
	return ws.waiters
}

// waiters returns the calls that wait, or nil. mu is held.
func (w *Writer) waiters() *waiters {
	if w.watchers == nil {
		return nil
	}
	return w.watchers.waiters
}

// await waits in a list until me is met, ctx is done, or the Writer has ended. mu is held, and
// released when await returns.
func (w *Writer) await(ctx context.Context, done <-chan struct{}, in *list.List, me *waiter) error {
	if w.state >= ended {
		defer w.mu.Unlock()
		w.tellWaiters() // forgets the empty lists
		return w.undeliveredError()
	}
	me.done = make(chan struct{})
	element := in.PushBack(me)
	w.mu.Unlock()
	select {
	case <-me.done:
		w.mu.Lock()
		defer w.mu.Unlock()
		if me.met {
			return nil
		}
		return w.undeliveredError()
	case <-done:
	}
	w.mu.Lock()
	in.Remove(element) // does nothing if the wait was over at the same time
	w.tellWaiters()    // forgets the list if it is empty
	met, messages, bytes := me.met, w.pending(), w.queue.Bytes()
	w.mu.Unlock()
	if met {
		return nil
	}
	return failed(context.Cause(ctx), "still pending: %d messages (%d bytes)", messages, bytes)
}

// flushTarget returns how many messages of the queue may be written together: those that
// a Flush waits for must not share a write with later ones, for which it would wait too.
func (w *Writer) flushTarget() int64 {
	if ws := w.waiters(); ws != nil {
		if first := ws.flushes.Front(); first != nil {
			return first.Value.(*waiter).end - w.written
		}
	}
	return math.MaxInt64
}

// tellWaiters ends the calls whose wait is over, all if the Writer has ended.
func (w *Writer) tellWaiters() {
	ws := w.waiters()
	if ws == nil {
		return
	}
	for e := ws.flushes.Front(); e != nil; e = ws.flushes.Front() {
		me := e.Value.(*waiter)
		if me.met = me.end <= w.written; !me.met && w.state < ended {
			break // as are those behind it
		}
		ws.flushes.Remove(e)
		close(me.done)
	}
	var next *list.Element
	for e := ws.pending.Front(); e != nil; e = next {
		next = e.Next()
		me := e.Value.(*waiter)
		if me.met = w.queue.Bytes() <= me.bytes; me.met || w.state >= ended {
			ws.pending.Remove(e)
			close(me.done)
		}
	}
	if ws.flushes.Len()+ws.pending.Len() == 0 {
		w.watchers.waiters = nil
		if *w.watchers == (watchers{}) {
			w.watchers = nil
		}
	}
}

// moveFlushes says that n messages have come behind the first i of the queue, or have gone
// if n is negative: the ends of the calls that wait for more than i move.
func (w *Writer) moveFlushes(i int, n int64) {
	ws := w.waiters()
	if ws == nil {
		return
	}
	for e := ws.flushes.Back(); e != nil; e = e.Prev() {
		me := e.Value.(*waiter)
		if me.end <= w.written+int64(i) {
			break
		}
		me.end += n
	}
}
