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
	predecessor *Writer // nil once it has adopted
	early       int     // messages at the front that came by inherit before that
}

func (w *Writer) isHeir() bool {
	k := w.keeper()
	return k != nil && k.isHeir
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
	k := w.keeper()
	if w.state != open || k == nil || k.lingering == 0 || k.isHeir {
		return
	}
	if cause == ErrClosed || cause == ErrTakenOver || cause == ErrNameLost {
		return
	}
	l := w.limits
	heir := NewWriter(awayConn, &WriterOptions{
		MaxPending: l.Keep, Keep: l.Keep, Budget: l.Budget, HighMark: l.HighMark, LowMark: l.LowMark,
	})
	heir.paused = 1
	of := heir.keeper()
	of.isHeir, of.predecessor, of.cause = true, w, cause
	k.heir = heir
}

// awayConn is the connection of all heirs. They are paused for ever, so they write nothing to it, and
// they do not close it.
var awayConn = MessageConn(
	func([]byte) error { return errors.ErrUnsupported },
	func() error { return errors.ErrUnsupported },
)

// heir returns the heir, or nil. mu is held.
func (w *Writer) heir() *Writer {
	if k := w.keeper(); k != nil {
		return k.heir
	}
	return nil
}

// currentHeir is heir while mu is not held.
func (w *Writer) currentHeir() *Writer {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.heir()
}

// hasAdopted reports whether the heir has the messages of its predecessor. mu is not held.
func (w *Writer) hasAdopted() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.keeper().predecessor == nil
}

// settle returns the Writer with the messages of w, which has ended: w itself, or its heir, which ends
// because of cause. The caller takes care of the messages of w. mu is not held.
func (w *Writer) settle(cause error) *Writer {
	heir := w.currentHeir()
	if heir == nil {
		return w
	}
	heir.takeLeftovers()  // these come before adopt, because after it other names of w may follow the
	_ = heir.abort(cause) // heir, and its end would call their Brokers
	heir.adopt()
	return heir
}

// adopt makes the messages of the predecessor, which has ended, those of the heir. If the Budget has
// no room for them, the heir ends, and nobody else. mu is not held.
func (w *Writer) adopt() {
	w.mu.Lock()
	k, old := w.keeper(), w.keeper().predecessor
	w.mu.Unlock()
	if old == nil {
		return
	}
	old.mu.Lock()
	defer old.mu.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	if k.predecessor == nil {
		return
	}
	k.predecessor = nil
	from := old.keeper()
	k.acknowledged, k.messages, k.resumed = from.acknowledged, from.messages, from.resumed
	k.before = old.reached()
	if !from.apart { // it is no message, even if it was acknowledged
		k.before = max(k.before, from.acknowledged)
	}
	k.most, k.apart = old.mostReceived(), old.isApart(k.before)
	addAfter(&k.written, &from.written, 0)
	charges := []charge{keptChargeOf(&k.written)}
	if pending := old.portableAfter(k.before); !pending.Empty() {
		charges = append(charges, chargeOf(w.place(k.early, pending)))
	}
	if w.limits.Budget.reserveLast(w, charges) > 0 {
		_ = w.disconnect(fmt.Errorf("%w: Budget of %d bytes has no room for a peer that is away", ErrSlowConsumer, w.limits.Budget.limit))
	}
}

// adoptWithin is adopt within the bound of Keep. mu is not held.
func (w *Writer) adoptWithin() {
	w.adopt()
	w.mu.Lock()
	defer w.mu.Unlock()
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
		w.keeper().early += estate.Len()
	}
	if w.keeper().predecessor == nil {
		w.boundHeir()
	}
	return true
}

// endUnneeded ends the heir of w, if there is one and no name needs it. mu is not held.
func (w *Writer) endUnneeded(heir *Writer) {
	if heir != nil && heir.isNameless() && w.isNameless() {
		go heir.abort(ErrClosed) // the caller may hold the lock of a Broker that hears of the end
	}
}

// isNameless reports whether no name of w lingers. mu is not held.
func (w *Writer) isNameless() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.keeper().lingering == 0
}

// addLingering counts the names of w that linger. mu is held.
func (w *Writer) addLingering(n *member, change int) {
	if k := w.keeper(); k != nil && n.broker.opts.Linger > 0 {
		k.lingering += change
	}
}
