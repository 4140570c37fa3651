package sendq

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"slices"
)

// messageOverhead is what a message counts for at MaxPending and a Budget beside its
// bytes: about what it costs when it is queued by reference.
const messageOverhead = 64

// limits is what a Writer with limits has beyond one without. Writer.mu guards it.
type limits struct {
	WriterOptions // never changed

	dropped, droppedBytes int64
	blocked               []*blockedSend // senders that wait for room, in turn
	watch                 watch
	maxWrite              int // bounds one conn.Write in bytes
}

// newLimits returns the limits that o sets, or nil if it sets none.
func newLimits(conn net.Conn, o WriterOptions) *limits {
	if o.MaxPending == 0 && o.MaxAge == 0 && o.WriteTimeout == 0 && o.Budget == nil {
		return nil
	}
	l := &limits{WriterOptions: o, maxWrite: maxWrite}
	if _, known := peerProgress(conn); !known && o.WriteTimeout > 0 {
		l.maxWrite = maxUnseenWrite
	}
	return l
}

// pending returns how many messages are queued. mu is held, here and below where it
// does not say otherwise.
func (w *Writer) pending() int64 {
	if w.limits == nil {
		return w.accepted - w.written
	}
	return w.accepted - w.written - w.limits.dropped
}

// pendingCost returns what is pending by the measure of MaxPending.
func (w *Writer) pendingCost() int { return w.queue.bytes + messageOverhead*int(w.pending()) }

// sendLimited is send for a Writer with limits. mu is not held.
func (w *Writer) sendLimited(ctx context.Context, m *message) error {
	l := w.limits
	cost := m.size() + messageOverhead
	if l.MaxPending > 0 && cost > l.MaxPending {
		return fmt.Errorf("%w: %d bytes, counted as %d, but MaxPending is %d", ErrTooLarge, m.size(), cost, l.MaxPending)
	}
	// The Budget first, and without mu: it may end another Writer, or this one.
	if err := l.Budget.reserve(w, cost); err != nil {
		return err
	}
	accepted, err := w.sendWithin(ctx, m, cost)
	if !accepted {
		l.Budget.release(w, cost)
	}
	return err
}

// sendWithin accepts m if there is room, or does what Overflow says.
func (w *Writer) sendWithin(ctx context.Context, m *message, cost int) (accepted bool, err error) {
	l := w.limits
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.state != open {
		return false, w.refusal()
	}
	if w.hasRoom(cost) && len(l.blocked) == 0 {
		w.enqueue(m)
		return true, nil
	}
	switch l.Overflow {
	case Block:
		if ctx == neverWait {
			return false, ErrWouldBlock
		}
		err := w.waitForRoom(ctx, m)
		return err == nil, err
	case DropOldest:
		for !w.hasRoom(cost) && w.dropOldest() {
		}
		if w.hasRoom(cost) {
			w.enqueue(m)
			return true, nil
		}
		fallthrough
	case DropNewest:
		w.accepted++
		w.acceptedBytes += int64(m.size())
		l.dropped++
		l.droppedBytes += int64(m.size())
		return false, ErrDropped
	}
	closeConn := w.fail(fmt.Errorf("%w: no room for %d bytes more, counted as %d: %d are pending, counted as %d, and MaxPending is %d",
		ErrSlowConsumer, m.size(), cost, w.queue.bytes, w.pendingCost(), l.MaxPending))
	go closeConn() // nobody who sends waits for that
	return false, w.refusal()
}

func (w *Writer) hasRoom(cost int) bool {
	return w.limits.MaxPending == 0 || w.pendingCost()+cost <= w.limits.MaxPending
}

// dropOldest drops the oldest message that is not in flight, if there is one.
func (w *Writer) dropOldest() bool {
	l := w.limits
	w.peakPending = max(w.peakPending, int64(w.queue.bytes))
	size, ok := w.queue.dropOldest()
	if !ok {
		return false
	}
	l.dropped++
	l.droppedBytes += int64(size)
	inFlight := int64(w.queue.inFlight)
	w.ages.dropped(inFlight)
	for p := w.waiters; p != nil; p = p.next {
		if p.messages > inFlight {
			p.messages--
		}
	}
	w.tellWaiters()
	l.Budget.release(w, size+messageOverhead)
	return true
}

// A blockedSend is a message whose sender waits for room.
type blockedSend struct {
	message message
	outcome chan error // buffered; gets nil when the message has been accepted
}

// waitForRoom waits until m has been accepted. mu is released meanwhile.
func (w *Writer) waitForRoom(ctx context.Context, m *message) error {
	if m.block == nil {
		// Were p itself queued from here, the compiler would move to the heap
		// whatever any Write is given.
		m = &message{block: newLone(bytes.Clone(m.copied))}
	}
	l := w.limits
	b := &blockedSend{message{block: m.block, i: m.i}, make(chan error, 1)}
	l.blocked = append(l.blocked, b)
	w.mu.Unlock()
	var err error
	select {
	case err = <-b.outcome:
		w.mu.Lock()
		return err
	case <-ctx.Done():
		w.mu.Lock()
	}
	if i := slices.Index(l.blocked, b); i >= 0 {
		l.blocked = slices.Delete(l.blocked, i, i+1)
		w.admitBlocked() // perhaps a smaller message behind it
		return fmt.Errorf("sendq: no room for the message: %w", context.Cause(ctx))
	}
	return <-b.outcome // accepted or refused at the same time
}

// admitBlocked accepts the messages of blocked senders as long as there is room.
func (w *Writer) admitBlocked() {
	l := w.limits
	for w.state == open && len(l.blocked) > 0 && w.hasRoom(l.blocked[0].message.size()+messageOverhead) {
		b := l.blocked[0]
		l.blocked[0] = nil
		l.blocked = l.blocked[1:]
		w.enqueue(&b.message)
		b.outcome <- nil
	}
}

// refuseBlocked refuses the messages of blocked senders.
func (w *Writer) refuseBlocked() {
	if w.limits == nil {
		return
	}
	for _, b := range w.limits.blocked {
		b.outcome <- w.refusal()
	}
	w.limits.blocked = nil
}
