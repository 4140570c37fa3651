package sendq

import (
	"bytes"
	"container/list"
	"context"
	"fmt"

	"github.com/sendq-go/sendq/internal/queue"
)

// urgentBytes is how much may be pending of urgent messages. Each counts as at MaxPending.
const urgentBytes = 4 << 10

// alwaysRoom is the room of WriteAlways beyond MaxMessages and MaxPending. Each message counts as
// 64 bytes at least.
var alwaysRoom = amount{64, 64 * messageOverhead}

// WriteAlways is like Write, but the message is never dropped, whatever the overflow policy. Use
// it for acknowledgements among data. The message keeps its place in the order of all messages.
//
// It counts as any other, but has 4 KiB more room than MaxPending allows, and 64 messages more
// than MaxMessages. With DropOldest, other messages are dropped for it. If there is no room even
// so, WriteAlways waits with Block, before the senders of other messages. With any other policy
// the Writer ends with ErrSlowConsumer, because the peer leaves even these messages unread. The
// message may be dropped after a takeover by a Writer on another node.
func (w *Writer) WriteAlways(p []byte) (int, error) {
	if err := w.send(context.Background(), &payload{run: queue.Kept(bytes.Clone(p))}, nil); err != nil {
		return 0, err
	}
	return len(p), nil
}

// WriteUrgent is like Write, but the message goes before all waiting messages. It follows only
// those being written, or partly written, and earlier urgent ones. So a pong does not wait for a
// megabyte of data. WriteUrgent does not wait either, with any policy.
//
// MaxPending, MaxMessages and Overflow do not apply to the message, and it is never dropped. Only a
// takeover discards it, because it is for this connection. It counts as pending for messages after
// it, and for the Budget. So that the others are written too, at most 4 KiB of urgent messages may
// be pending, counted as for MaxPending. Beyond that the error wraps ErrWouldBlock, or ErrTooLarge
// if the message can never fit, and the message is not accepted.
func (w *Writer) WriteUrgent(p []byte) (int, error) {
	m := payload{run: queue.Urgent(bytes.Clone(p))}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.offerUrgent(&m); err != nil {
		return 0, err
	}
	w.wake()
	return len(p), nil
}

// offerUrgent is offer for WriteUrgent. mu is held, here and below.
func (w *Writer) offerUrgent(m *payload) error {
	cost := costOf(1, m.size())
	front := w.front()
	pending := costOf(w.queue.Urgent(front))
	switch {
	case w.state != open:
		return w.refusal()
	case cost > urgentBytes:
		return fmt.Errorf("%w: it counts as %d bytes, and an urgent one may have %d", ErrTooLarge, cost, urgentBytes)
	case pending+cost > urgentBytes:
		return fmt.Errorf("%w: %d bytes of urgent messages are pending", ErrWouldBlock, pending)
	}
	if w.limits != nil {
		if slow := w.reserve(m); slow != nil {
			return w.disconnect(slow)
		}
		if w.limits.exempt.messages > int64(front) {
			w.limits.setExempt(w.limits.exempt.plus(amountOf(1, m.size())))
		}
	}
	w.queue.PushAt(front, m.run)
	w.accept(1, m.size())
	w.ages.Shift(int64(front), 1)
	w.moveFlushes(front, 1)
	w.watch().urgent = w.written + int64(front) + 1
	return nil
}

// front returns the number of messages that no other may precede: the begun ones, and all up to
// the last urgent one.
func (w *Writer) front() int {
	n := w.queue.Begun()
	if w.watchers != nil {
		n = max(n, int(w.watchers.urgent-w.written))
	}
	return n
}

// moveUrgent accounts for n messages inserted after the first i, or removed there if n is negative.
func (w *Writer) moveUrgent(i int, n int64) {
	if ws := w.watchers; ws != nil && ws.urgent > w.written+int64(i) {
		ws.urgent += n
	}
}

// isKept reports whether m must not be dropped.
func (m *payload) isKept() bool { return m.run.Block != nil && m.run.Block.IsKept() }

// need returns the room that m, one message, needs at MaxPending and MaxMessages.
func (m *payload) need() amount { return m.needOf(amountOf(1, m.size())) }

// needOf is need for a message of a known amount.
func (m *payload) needOf(all amount) amount {
	if m.isKept() {
		return all.minus(alwaysRoom)
	}
	return all
}

// mustWait reports whether m would overtake the message of a sender that waits for room. A
// message of WriteAlways may overtake all but its kind.
func (l *limits) mustWait(m *payload) bool {
	first := l.blocked.Front()
	return first != nil && (!m.isKept() || first.Value.(*blockedSend).message.isKept())
}

// block adds b to the blocked senders: those of WriteAlways come first.
func (l *limits) block(b *blockedSend) *list.Element {
	e := l.blocked.Front()
	for b.message.isKept() && e != nil && e.Value.(*blockedSend).message.isKept() {
		e = e.Next()
	}
	if !b.message.isKept() || e == nil {
		return l.blocked.PushBack(b)
	}
	return l.blocked.InsertBefore(b, e)
}
