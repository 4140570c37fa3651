package sendq

import (
	"bytes"
	"container/list"
	"context"
	"fmt"
	"math"
	"net"
)

// messageOverhead is what a message counts for at MaxPending and a Budget beside its
// bytes: about what it costs when it is queued by reference.
const messageOverhead = 64

// limits is what a Writer with limits has beyond one without. Writer.mu guards it.
type limits struct {
	WriterOptions // never changed

	dropped, droppedBytes int64
	blocked               list.List // of *blockedSend: senders that wait for room, in turn
	watch                 watch
	backlog               backlog

	// These bound one conn.Write.
	maxWrite    int // in bytes
	maxMessages int64
}

// newLimits returns the limits that o sets, or nil if it sets none.
func newLimits(conn net.Conn, o WriterOptions) *limits {
	if o.MaxPending == 0 && o.MaxAge == 0 && o.WriteTimeout == 0 && o.Budget == nil {
		return nil
	}
	l := &limits{WriterOptions: o, maxWrite: maxWrite, maxMessages: math.MaxInt64}
	if o.WriteTimeout > 0 {
		if _, known := peerProgress(conn); !known {
			l.maxWrite = maxUnseenWrite
		}
	}
	if o.Overflow == DropOldest && o.MaxPending > 0 {
		// Else all that is pending could be in flight, and the newest be dropped.
		l.maxWrite = min(l.maxWrite, max(o.MaxPending/8, 1))
		l.maxMessages = int64(max(o.MaxPending/8/messageOverhead, 1))
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

// offerLimited is offer for a Writer with limits.
func (w *Writer) offerLimited(m *message) error {
	l := w.limits
	cost := m.size() + messageOverhead
	switch {
	case w.state != open:
		return w.refusal()
	case l.MaxPending > 0 && cost > l.MaxPending:
		return fmt.Errorf("%w: %d bytes, counted as %d, but MaxPending is %d", ErrTooLarge, m.size(), cost, l.MaxPending)
	case l.Budget != nil && cost > l.Budget.limit:
		return fmt.Errorf("%w: %d bytes, counted as %d, but the Budget is %d", ErrTooLarge, m.size(), cost, l.Budget.limit)
	case w.hasRoom(cost) && l.blocked.Len() == 0:
		return w.admit(m)
	}
	switch l.Overflow {
	case Block:
		return ErrWouldBlock
	case DropOldest:
		if inFlight := w.queue.bytesInFlight() + messageOverhead*w.queue.inFlight; inFlight+cost <= l.MaxPending {
			for !w.hasRoom(cost) {
				w.dropOldest()
			}
			return w.admit(m)
		}
		fallthrough // for it would not help
	case DropNewest:
		w.accepted++
		w.acceptedBytes += int64(m.size())
		l.dropped++
		l.droppedBytes += int64(m.size())
		return ErrDropped
	}
	return w.disconnect(fmt.Errorf("%w: no room for %d bytes more, counted as %d: %d are pending, counted as %d, and MaxPending is %d",
		ErrSlowConsumer, m.size(), cost, w.queue.bytes, w.pendingCost(), l.MaxPending))
}

// isWithinLimits tells whether a message of n bytes may be accepted without more ado.
func (w *Writer) isWithinLimits(n int) bool {
	return w.limits.Budget == nil && w.limits.blocked.Len() == 0 && w.hasRoom(n+messageOverhead)
}

func (w *Writer) hasRoom(cost int) bool {
	return w.limits.MaxPending == 0 || w.pendingCost()+cost <= w.limits.MaxPending
}

// admit accepts m if the Budget allows, and else ends the Writer.
func (w *Writer) admit(m *message) error {
	if slow := w.limits.Budget.reserve(w, m.size()+messageOverhead); slow != nil {
		return w.disconnect(slow)
	}
	w.enqueue(m)
	return nil
}

// disconnect ends the Writer, and returns what to tell the sender whose message did it.
func (w *Writer) disconnect(slow error) error {
	closeConn := w.fail(slow)
	go closeConn() // nobody who sends waits for that
	return w.refusal()
}

// dropOldest drops the oldest message that is not in flight, of which there is one.
func (w *Writer) dropOldest() {
	l := w.limits
	w.peakPending = max(w.peakPending, int64(w.queue.bytes))
	size := w.queue.dropOldest()
	l.dropped++
	l.droppedBytes += int64(size)
	w.ages.dropped(int64(w.queue.inFlight))
	w.moveFlushes(w.queue.inFlight, -1)
	w.tellWaiters()
	l.Budget.release(w, size+messageOverhead)
}

// A blockedSend is a message whose sender waits for room.
type blockedSend struct {
	message message
	outcome chan error // buffered; gets nil when the message has been accepted
	served  bool       // outcome has got it
}

func (b *blockedSend) serve(outcome error) {
	b.served = true
	b.outcome <- outcome
}

// waitForRoom waits until m has been accepted. mu is released meanwhile.
func (w *Writer) waitForRoom(ctx context.Context, m *message) error {
	if m.block == nil {
		// Were p itself queued from here, the compiler would move to the heap
		// whatever any Write is given.
		m = &message{block: newLone(bytes.Clone(m.copied))}
	}
	l := w.limits
	b := &blockedSend{message: message{block: m.block, index: m.index}, outcome: make(chan error, 1)}
	element := l.blocked.PushBack(b)
	w.mu.Unlock()
	var err error
	select {
	case err = <-b.outcome:
		w.mu.Lock()
		return err
	case <-ctx.Done():
		w.mu.Lock()
	}
	if b.served {
		return <-b.outcome // accepted or refused at the same time
	}
	l.blocked.Remove(element)
	w.admitBlocked() // perhaps a smaller message behind it
	return fmt.Errorf("sendq: no room for the message: %w", context.Cause(ctx))
}

// admitBlocked accepts the messages of blocked senders as long as there is room.
func (w *Writer) admitBlocked() {
	for w.state == open {
		first := w.limits.blocked.Front()
		if first == nil || !w.hasRoom(first.Value.(*blockedSend).message.size()+messageOverhead) {
			return
		}
		b := w.limits.blocked.Remove(first).(*blockedSend)
		b.serve(w.admit(&b.message))
	}
}

// refuseBlocked refuses the messages of blocked senders.
func (w *Writer) refuseBlocked() {
	if w.limits == nil {
		return
	}
	for e := w.limits.blocked.Front(); e != nil; e = e.Next() {
		e.Value.(*blockedSend).serve(w.refusal())
	}
	w.limits.blocked.Init()
}
