package sendq

import (
	"errors"
	"fmt"

	"github.com/sendq-go/sendq/internal/queue"
)

// An inheritance concerns the heir of a Writer. If a Writer fails and a name of it lingers, it leaves
// an heir: a Writer without a connection, for messages to the name. The heir is there from the
// moment of the failure, because otherwise a message could find neither. It adopts the messages of
// the failed Writer at the end of that. Writer.mu guards the fields.
type inheritance struct {
	lingering int     // names that linger
	heir      *Writer // nil until the Writer fails

	// Of an heir.
	isHeir      bool    // never changed
	cause       error   // of the predecessor's end; never changed
	predecessor *Writer // until adopt
	adopted     bool
	early       int // messages at the front that came by inherit before it adopted
}

func (w *Writer) isHeir() bool {
	return w.limits != nil && w.limits.keeper != nil && w.limits.keeper.isHeir
}

// Fail ends the Writer as CloseNow does, but Err is cause. Call it with the error of a Read, or with
// io.EOF if the peer has gone without a goodbye. A name of the Writer then lingers as after a failed
// write; see BrokerOptions.Linger. Fail panics if cause is nil.
func (w *Writer) Fail(cause error) error {
	if cause == nil {
		panic("sendq: Fail: cause is nil")
	}
	return w.abort(cause)
}

// leaveHeir makes an heir if the Writer is open, a name of it lingers and cause is a failure. mu is
// held.
func (w *Writer) leaveHeir(cause error) {
	if w.state != open || w.limits == nil || w.limits.keeper == nil || w.limits.keeper.lingering == 0 || w.isHeir() {
		return
	}
	if cause == ErrClosed || cause == ErrTakenOver || cause == ErrNameLost {
		return
	}
	heir := NewWriter(MessageConn(writeAway, closeAway), &WriterOptions{MaxPending: w.limits.Keep, Keep: w.limits.Keep, Budget: w.limits.Budget})
	heir.paused = 1
	k := heir.limits.keeper
	k.isHeir, k.predecessor, k.cause = true, w, cause
	w.limits.keeper.heir = heir
}

// The connection of an heir. Nothing is ever written to it, because the heir is always paused.
func writeAway([]byte) error { return errors.ErrUnsupported }
func closeAway() error       { return nil }

// currentHeir returns the heir, or nil. mu is not held.
func (w *Writer) currentHeir() *Writer {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.limits == nil || w.limits.keeper == nil {
		return nil
	}
	return w.limits.keeper.heir
}

// newHeir returns the heir if it has not adopted the messages of w, or nil. mu is held.
func (w *Writer) newHeir() *Writer {
	if w.limits == nil || w.limits.keeper == nil || w.limits.keeper.heir == nil {
		return nil
	}
	heir := w.limits.keeper.heir
	heir.mu.Lock()
	defer heir.mu.Unlock()
	if heir.limits.keeper.adopted {
		return nil
	}
	return heir
}

// addPending adds pending messages of w to rest. If an heir has ended without adopting them, they go
// where it would have put them among its own. mu is held.
func (w *Writer) addPending(rest, pending *queue.Queue) {
	var all queue.Queue
	early := 0
	if w.limits != nil && w.limits.keeper != nil && w.limits.keeper.heir != nil {
		heir := w.limits.keeper.heir
		heir.mu.Lock()
		defer heir.mu.Unlock()
		if k := heir.limits.keeper; heir.state >= ended && !k.adopted {
			addAfter(&all, &heir.queue, 0)
			early = k.early
		}
	}
	all.Insert(early, pending)
	addAfter(rest, &all, 0)
}

// hasAdopted reports whether the heir has the messages of its predecessor. mu is not held.
func (w *Writer) hasAdopted() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.limits.keeper.adopted
}

// retire ends w and a new heir of it because of cause. mu is not held.
func (w *Writer) retire(cause error) {
	_ = w.abort(cause)
	w.endNewHeir(cause)
}

// endNewHeir ends an heir that has not adopted the messages of w. mu is not held.
func (w *Writer) endNewHeir(cause error) {
	w.mu.Lock()
	heir := w.newHeir()
	w.mu.Unlock()
	if heir != nil {
		_ = heir.abort(cause)
	}
}

// adopt makes the messages of the predecessor, which has ended, those of the heir. If the Budget has
// no room for them, the heir ends, and nobody else. mu is not held.
func (w *Writer) adopt() {
	w.mu.Lock()
	k, old := w.limits.keeper, w.limits.keeper.predecessor
	w.mu.Unlock()
	if old == nil {
		return
	}
	old.mu.Lock()
	defer old.mu.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	if k.adopted {
		return
	}
	k.adopted, k.predecessor = true, nil
	from := old.limits.keeper
	k.most, k.hasFarewell, k.acknowledged = old.mostReceived(), from.hasFarewell, from.acknowledged
	k.before, k.messages, k.resumed = old.reached(), from.messages, from.resumed
	if !k.hasFarewell { // it is no message, even if it was acknowledged
		k.before = max(k.before, from.acknowledged)
	}
	addAfter(&k.written, &from.written, 0)
	charges := []charge{keptChargeOf(&k.written)}
	if pending := old.portableAfter(k.before); !pending.Empty() {
		charges = append(charges, chargeOf(w.place(k.early, pending)))
	}
	if w.limits.Budget.reserveLast(w, charges) > 0 {
		_ = w.disconnect(fmt.Errorf("%w: Budget of %d bytes has no room for a peer that is away", ErrSlowConsumer, w.limits.Budget.limit))
	}
	w.boundHeir()
}

// boundHeir ends the heir if its pending messages exceed Keep, and lets go of written ones that do. mu
// is held.
func (w *Writer) boundHeir() {
	w.limits.Budget.release(w, w.letGo())
	if !w.queuedAmount().fits(w.limits.bound) {
		_ = w.disconnect(w.exceeded(new(payload)))
	}
}

// inheritEarly is inherit for an heir that gets the messages in place of its predecessor. mu is not
// held.
func (w *Writer) inheritEarly(estate *queue.Queue) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.state != open {
		return false
	}
	if !estate.Empty() {
		w.insert(0, estate)
		w.limits.keeper.early += estate.Len()
	}
	if w.limits.keeper.adopted {
		w.boundHeir()
	}
	return true
}

// isNameless reports whether no name of w lingers. mu is not held.
func (w *Writer) isNameless() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.limits.keeper.lingering == 0
}

// addLingering counts the names of w that linger. mu is held.
func (w *Writer) addLingering(n *member, change int) {
	if n.broker.opts.Linger > 0 && w.limits != nil && w.limits.keeper != nil {
		w.limits.keeper.lingering += change
	}
}
