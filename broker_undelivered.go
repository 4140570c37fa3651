package sendq

import (
	"iter"
	"sync"

	"github.com/sendq-go/sendq/internal/queue"
	"github.com/sendq-go/sendq/internal/set"
)

// handbacks holds the calls of OnUndelivered that are still to be made. Broker.mu guards it.
type handbacks struct {
	calls
	expected int        // takeovers under way, which may hand back messages
	settled  *sync.Cond // signaled when all calls are made, or a takeover has finished

	// parting holds the Writers that have lost their name and not ended yet. They may take a
	// while to say farewell.
	parting set.Set[*Writer]
}

// takeLeftovers reports whether the Broker must hand back the undelivered messages of w. A
// Broker without OnUndelivered leaves them to other Brokers in which w has a name.
func (b *Broker) takeLeftovers(w *Writer) bool {
	return b.opts.OnUndelivered != nil && w.takeLeftovers()
}

// handBackOf hands back the messages of w that the peer has perhaps not received. w has ended, and the
// caller has called takeLeftovers. mu is held, but not during the call of OnUndelivered.
func (b *Broker) handBackOf(name string, w *Writer) {
	if messages := w.settle(w.Err()).leftovers(); !messages.Empty() {
		b.handBack(name, messages.All(), w.Err())
	}
}

// handBackEstate hands back the messages of a Writer that was taken over. mu is held, but not during
// the call of OnUndelivered.
func (b *Broker) handBackEstate(name string, estate *queue.Queue) {
	if messages := estate.Portable(); !messages.Empty() {
		b.handBack(name, messages.All(), ErrTakenOver)
	}
}

// handBack queues a call of OnUndelivered with messages. OnUndelivered may call methods of the
// Broker. mu is held, but not during the call.
func (b *Broker) handBack(name string, messages iter.Seq[[]byte], cause error) {
	if b.opts.OnUndelivered == nil {
		return
	}
	b.handbacks.add(func() { b.opts.OnUndelivered(name, messages, cause) })
}

// handbackSettled accounts for the end of a takeover counted in handbacks.expected. mu is not
// held.
func (b *Broker) handbackSettled() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.handbacks.expected--
	b.handbacks.settled.Broadcast()
}

// waitHandbacks waits until all calls have been made. mu is not held.
func (b *Broker) waitHandbacks() {
	b.mu.Lock()
	defer b.mu.Unlock()
	h := &b.handbacks
	for h.busy || h.expected > 0 {
		h.settled.Wait()
	}
}
