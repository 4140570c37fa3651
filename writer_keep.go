package sendq

import (
	"errors"
	"fmt"
	"iter"

	"github.com/sendq-go/sendq/internal/queue"
)

// A keeper holds the written messages that the peer has not acknowledged. They are segments like
// those of the queue, so Writers share the bytes of a room here too. Writer.mu guards it.
type keeper struct {
	before       int64 // what the peer had received before
	answers      int64 // 1 if the first message is the answer to that, which has no number
	resumed      resumption
	written      queue.Queue
	messages     int64 // in written
	acknowledged int64 // by the peer; perhaps more than are written, if a write has not returned
	most         int64 // that the peer can have received from the Writers before
	apart        bool  // after position, the peer may count a message that no other connection gets, as a farewell
	tracker      queue.Tracker
	inheritance
}

// keeper returns the keeper, or nil. mu is held.
func (w *Writer) keeper() *keeper {
	if w.limits == nil {
		return nil
	}
	return w.limits.keeper
}

func newKeeper(o *WriterOptions) *keeper {
	if o.Keep == 0 {
		return nil
	}
	return new(keeper)
}

// keptBlock is the part of Keep that one block may take. A block stays in memory as long as any of
// its messages does.
const keptBlock = 8

// track makes the queue of a Writer with the limits l pass on what is written.
func (k *keeper) track(l *limits) {
	l.tracker.Written, l.tracker.MaxBlock = &k.written, l.Keep/keptBlock
	if l.Budget != nil {
		k.tracker = queue.Tracker{Hold: l.backlog.keep, LetGo: l.backlog.letGoKept}
		k.written.Track(&k.tracker)
	}
}

// keepWritten accounts for written messages, and returns those let go. mu is held, here and below
// unless a comment says otherwise.
func (w *Writer) keepWritten(r queue.Removed) (gone queue.Removed) {
	k := w.limits.keeper
	if k == nil {
		return r
	}
	k.messages += int64(r.Messages)
	return w.letGo()
}

// letGo lets go of the messages that the peer has acknowledged, and of the oldest ones beyond Keep.
func (w *Writer) letGo() (gone queue.Removed) {
	k, most := w.limits.keeper, int64(w.limits.Keep)
	if k.isHeir {
		most -= w.queuedAmount().plus(w.staleAmount()).cost
	}
	for k.messages > 0 && (w.position()-k.messages < k.acknowledged || k.cost() > most) {
		gone.Add(k.written.AdvanceMessage(true))
		k.messages--
	}
	return gone
}

func (k *keeper) cost() int64 { return k.written.Bytes() + messageOverhead*k.messages }

// position returns the number of written messages, over all connections of the peer.
func (w *Writer) position() int64 {
	k := w.keeper()
	if k == nil {
		return w.written
	}
	return k.before - k.answers + w.written
}

// reached is position, but does not lack an answer that is still to be written.
func (w *Writer) reached() int64 {
	if k := w.keeper(); k != nil {
		return max(k.before, w.position())
	}
	return w.written
}

// Acknowledge lets go of the messages kept because of WriterOptions.Keep, up to message n. The peer
// has received the first n messages written to this connection. After Broker.Resume, n goes on from
// the count of the peer before. Dropped messages do not count, and neither does a Farewell. An empty
// message counts, although a stream does not show it to the peer.
//
// If n is less than in an earlier call, or more than the peer can have received, the error wraps
// ErrWrongCount. If the Writer has ended, it wraps net.ErrClosed. Acknowledge also fails if Keep
// is 0. After an error nothing has changed.
func (w *Writer) Acknowledge(n int64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	k := w.keeper()
	switch {
	case k == nil:
		return errors.New("sendq: Acknowledge needs a Writer with Keep")
	case w.state >= ended:
		return w.refusal()
	case n < k.acknowledged:
		return fmt.Errorf("%w: %d, after %d", ErrWrongCount, n, k.acknowledged)
	}
	if err := w.checkReceived(n); err != nil {
		return err
	}
	k.acknowledged = n
	w.limits.Budget.release(w, w.letGo())
	if !w.flushing {
		w.releaseMemory()
	}
	return nil
}

// checkReceived returns an error unless the peer can have received n messages.
func (w *Writer) checkReceived(n int64) error {
	if n < 0 || n > w.mostReceived() {
		return fmt.Errorf("%w: %d, and %d were written", ErrWrongCount, n, w.position())
	}
	return nil
}

// mostReceived returns how many messages the peer can have received.
func (w *Writer) mostReceived() int64 {
	most := w.position() + int64(w.queue.Begun())
	k := w.keeper()
	switch {
	case k == nil:
		return most
	case k.isHeir:
		return k.most
	case k.apart || w.state >= aborting && w.messageFramed && w.err != nil && !w.queue.Empty():
		most = w.position() + 1 // a farewell, or the write of the message has failed but may have reached the peer
	}
	return max(most, k.most, k.acknowledged) // it is more before the answer of Resume is written
}

// beginFarewell notes that the peer may count the farewell. mu is not held.
func (w *Writer) beginFarewell() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if k := w.keeper(); k != nil {
		k.apart = true
	}
}

// isApart reports whether the peer may have counted a message after the first n that is not for another
// connection. The Writer has ended.
func (w *Writer) isApart(n int64) bool {
	if k := w.keeper(); k.apart || k.isHeir {
		return k.apart
	}
	var pending queue.Queue
	addAfter(&pending, &w.queue, n-w.position())
	return w.mostReceived() > n && pending.IsBound()
}

// UndeliveredAfter is like Undelivered, but yields everything after the first received messages,
// written or not, in the order of writing. received counts as for Acknowledge. Of the written
// messages it yields the kept ones; see WriterOptions.Keep.
func (w *Writer) UndeliveredAfter(received int64) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		w.mu.Lock()
		var rest queue.Queue
		if w.state >= ended {
			w.addKept(&rest, received)
			addAfter(&rest, &w.queue, received-w.position())
		}
		w.mu.Unlock()
		rest.All()(yield)
	}
}

// estate returns the messages after the first received ones for the Writer of another connection. It
// also returns how many of them are written, and how many before them are gone. The Writer has ended.
// mu is not held.
func (w *Writer) estate(received int64) (rest *queue.Queue, written int, gone int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	rest = new(queue.Queue)
	if k := w.keeper(); k != nil && k.apart {
		received = min(received, w.reached())
	}
	var kept queue.Queue
	gone = w.resumption().missed(w.addKept(&kept, received), received)
	for r := range kept.Runs() {
		rest.Push(r.Unbound()) // it has a number, so it must arrive
	}
	written = rest.Len()
	addAfter(rest, w.portableAfter(received), 0)
	return rest, written, gone
}

// leftovers returns the messages for OnUndelivered. The Writer has ended. mu is not held.
func (w *Writer) leftovers() *queue.Queue {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queueAllStale()
	rest := new(queue.Queue)
	if w.err != nil {
		w.addKept(rest, 0)
	}
	addAfter(rest, &w.queue, w.reached()-w.position()) // without an answer of Resume
	return rest
}

// portableAfter returns the pending messages after the first received ones, without those for this
// connection. mu is held.
func (w *Writer) portableAfter(received int64) *queue.Queue {
	var pending queue.Queue
	if w.isHeir() {
		addAfter(&pending, w.queue.Portable(), received-w.position())
		return &pending
	}
	addAfter(&pending, &w.queue, received-w.position())
	return pending.Portable()
}

// addKept adds the kept messages after the first received ones to rest, and returns how many before
// them are gone. mu is held.
func (w *Writer) addKept(rest *queue.Queue, received int64) (gone int64) {
	var kept int64
	if k := w.keeper(); k != nil {
		kept = k.messages
		addAfter(rest, &k.written, received-(w.position()-kept))
	}
	return max(0, w.reached()-kept-received)
}

// addAfter adds the messages of q after the first n to rest. They must be shared.
func addAfter(rest, q *queue.Queue, n int64) {
	for r := range q.Runs() {
		skipped := min(max(0, n), int64(r.Len()))
		n -= skipped
		if r.First += int32(skipped); r.Len() > 0 {
			rest.Push(r)
		}
	}
}
