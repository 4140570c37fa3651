package sendq

import (
	"iter"
	"sync"
)

// handbacks holds the calls of OnUndelivered that are still to be made. Broker.mu guards it.
type handbacks struct {
	calls    []func()
	calling  bool
	expected int        // takeovers under way, which may hand back messages
	idle     *sync.Cond // signaled when all calls are made, or a takeover has finished
}

// takeLeftovers reports whether the Broker must hand back the undelivered messages of w. A
// Broker without OnUndelivered leaves them to other Brokers in which w has a name.
func (b *Broker) takeLeftovers(w *Writer) bool {
	return b.opts.OnUndelivered != nil && w.takeLeftovers()
}

// handBackOf hands back the undelivered messages of w. w has ended. mu is held, but not during
// the call of OnUndelivered.
func (b *Broker) handBackOf(name string, w *Writer) {
	if w.Stats().Undelivered > 0 {
		b.handBack(name, w.Undelivered(), w.Err())
	}
}

// handBack queues a call of OnUndelivered with messages. mu is held, but not during the call.
func (b *Broker) handBack(name string, messages iter.Seq[[]byte], cause error) {
	if b.opts.OnUndelivered == nil {
		return
	}
	b.handbacks.calls = append(b.handbacks.calls, func() { b.opts.OnUndelivered(name, messages, cause) })
	if !b.handbacks.calling {
		b.handbacks.calling = true
		go b.runHandbacks()
	}
}

// runHandbacks makes the calls until there are none. mu is not held during a call, because
// OnUndelivered may call methods of the Broker.
func (b *Broker) runHandbacks() {
	finished := false
	defer func() {
		if !finished { // a call has ended this goroutine by runtime.Goexit
			go b.runHandbacks()
		}
	}()
	h := &b.handbacks
	for {
		b.mu.Lock()
		if len(h.calls) == 0 {
			h.calls = nil // its memory may be large
			break
		}
		call := h.calls[0]
		h.calls[0] = nil
		h.calls = h.calls[1:]
		b.mu.Unlock()
		call()
	}
	h.calling, finished = false, true
	h.idle.Broadcast()
	b.mu.Unlock()
}

// handbackSettled accounts for the end of a takeover counted in handbacks.expected. mu is not
// held.
func (b *Broker) handbackSettled() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.handbacks.expected--
	b.handbacks.idle.Broadcast()
}

// waitHandbacks waits until all calls have been made. mu is not held.
func (b *Broker) waitHandbacks() {
	b.mu.Lock()
	defer b.mu.Unlock()
	h := &b.handbacks
	for h.calling || h.expected > 0 {
		h.idle.Wait()
	}
}
