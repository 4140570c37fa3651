package sendq

import (
	"iter"
	"sync"
)

// handbacks is what Broker.handBack has yet to hand back. Broker.mu guards it.
type handbacks struct {
	calls    []func()
	calling  bool
	expected int        // takeovers under way, which may hand something back
	idle     *sync.Cond // when there is nothing any more
}

// takeLeftovers reports whether the Broker is the one to hand back what w leaves. A Broker that hands
// nothing back leaves that to others in which w has a name.
func (b *Broker) takeLeftovers(w *Writer) bool {
	return b.opts.OnUndelivered != nil && w.takeLeftovers()
}

// handBackOf hands the messages that w, which has ended, did not write to OnUndelivered. mu
// is held, and not during the call.
func (b *Broker) handBackOf(name string, w *Writer) {
	if w.Stats().Undelivered > 0 {
		b.handBack(name, w.Undelivered(), w.Err())
	}
}

// handBack hands messages to OnUndelivered.
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

// runHandbacks makes the calls, until there are no more.
func (b *Broker) runHandbacks() {
	over := false
	defer func() {
		if !over { // a call has ended this goroutine, by runtime.Goexit
			go b.runHandbacks()
		}
	}()
	r := &b.handbacks
	for {
		b.mu.Lock()
		if len(r.calls) == 0 {
			r.calls = nil // its memory may be large
			break
		}
		call := r.calls[0]
		r.calls[0] = nil
		r.calls = r.calls[1:]
		b.mu.Unlock()
		call()
	}
	r.calling, over = false, true
	r.idle.Broadcast()
	b.mu.Unlock()
}

// handbackSettled ends what was counted in returned.expected. mu is not held.
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
	r := &b.handbacks
	for r.calling || r.expected > 0 {
		r.idle.Wait()
	}
}
