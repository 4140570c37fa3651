package sendq

import (
	"bytes"
	"container/list"
	"context"
	"fmt"
	"math"
	"net"

	"github.com/sendq-go/sendq/internal/queue"
	"github.com/sendq-go/sendq/internal/sock"
)

// messageOverhead is what a message counts for at MaxPending and a Budget beside its
// bytes: about what it costs when it is queued by reference.
const messageOverhead = 64

// limits is what a Writer with limits has beyond one without. Writer.mu guards it.
type limits struct {
	WriterOptions // never changed

	dropped, droppedBytes int64
	blocked               list.List // of *blockedSend: senders that wait for room, in turn; empty unless the Writer is open
	deadlines             deadlines
	backlog               backlog // in the eyes of the Budget
	tracker               queue.Tracker

	// given is the cost of the messages at the front that the library itself has queued at once,
	// in a takeover or by JoinReplay, and of those before them. They count at MaxPending, but do
	// not disconnect.
	given int64

	maxCost int64 // MaxPending, or no bound if that is 0

	// These bound one conn.Write.
	maxWrite    int // in bytes
	maxMessages int64
}

// newLimits returns the limits that o sets, or nil if it sets none.
func newLimits(conn net.Conn, o WriterOptions) *limits {
	if o.MaxPending == 0 && o.MaxAge == 0 && o.WriteTimeout == 0 && o.Budget == nil {
		return nil
	}
	l := &limits{WriterOptions: o, maxCost: math.MaxInt64, maxWrite: maxWrite, maxMessages: math.MaxInt64}
	if o.MaxPending > 0 {
		l.maxCost = int64(o.MaxPending)
	}
	if o.WriteTimeout > 0 {
		l.maxWrite = sock.ProgressWrite(conn, maxWrite, maxUnseenWrite)
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

// costOf returns what messages of size bytes count at MaxPending. It does not fit into an int of
// 32 bits as surely as they do.
func costOf(messages, size int) int64 { return int64(size) + messageOverhead*int64(messages) }

// pendingCost returns what is pending by the measure of MaxPending.
func (w *Writer) pendingCost() int64 { return w.queue.Bytes() + w.pending()*messageOverhead }

// offerLimited is offer for a Writer with limits.
func (w *Writer) offerLimited(m *payload) error {
	l := w.limits
	cost := costOf(1, m.size())
	switch {
	case w.state != open:
		return w.refusal()
	case cost > l.maxCost:
		return fmt.Errorf("%w: it counts as %d bytes, and MaxPending is %d", ErrTooLarge, cost, l.MaxPending)
	case l.Budget != nil && cost > int64(l.Budget.limit):
		return fmt.Errorf("%w: it counts as %d bytes, and the Budget is %d", ErrTooLarge, cost, l.Budget.limit)
	case w.isWithinLimits(cost):
		return w.admit(m)
	}
	switch l.Overflow {
	case Block:
		return ErrWouldBlock
	case DropOldest:
		// A message that is begun must be finished, so it may leave no room.
		if begun, size := w.queue.Begun(); costOf(begun, size)+cost <= l.maxCost {
			for !w.hasRoom(cost) {
				w.dropOldest()
			}
			return w.admit(m)
		}
		fallthrough
	case DropNewest:
		w.accepted++
		w.acceptedBytes += int64(m.size())
		l.dropped++
		l.droppedBytes += int64(m.size())
		return ErrDropped
	}
	return w.disconnect(fmt.Errorf("%w: MaxPending of %d bytes exceeded: %d pending, %d more",
		ErrSlowConsumer, l.MaxPending, w.pendingCost(), cost))
}

// isWithinLimits reports whether messages may be accepted that MaxPending counts as cost. They
// must not overtake those of blocked senders.
func (w *Writer) isWithinLimits(cost int64) bool {
	return w.hasRoom(cost) && w.limits.blocked.Len() == 0
}

// extendsFreely reports whether a message of size bytes may be queued behind another without
// more ado.
func (w *Writer) extendsFreely(size int) bool {
	return w.limits.Budget == nil && w.isWithinLimits(costOf(1, size))
}

func (w *Writer) hasRoom(cost int64) bool {
	l := w.limits
	if l.Overflow == Disconnect {
		cost -= l.given
	}
	return w.pendingCost()+cost <= l.maxCost
}

// admit accepts m if the Budget has room. Otherwise it ends the Writer.
func (w *Writer) admit(m *payload) error {
	if w.limits.Budget != nil {
		if slow := w.reserve(m); slow != nil {
			return w.disconnect(slow)
		}
	}
	w.enqueue(m)
	return nil
}

// reserve reserves room for m in the Budget.
func (w *Writer) reserve(m *payload) error {
	switch b := m.run.Block; {
	case b == nil || !b.IsShared():
		return w.limits.Budget.reserve(w, charge{alone: costOf(m.len(), m.size())})
	case w.queue.EndsBefore(m.run): // the segment that refers to b gets longer
		return w.limits.Budget.reserve(w, charge{})
	default:
		return w.limits.Budget.reserve(w, charge{alone: sharedCost, blocks: []*queue.Block{b}})
	}
}

// disconnect ends the Writer, and returns what to tell the sender whose message did it.
func (w *Writer) disconnect(slow error) error {
	if w.setAborting(slow) {
		go w.interrupt() // no sender waits for that
	}
	return w.refusal()
}

// dropOldest drops the oldest message that is not begun, of which there is one.
func (w *Writer) dropOldest() {
	l := w.limits
	w.peakPending = max(w.peakPending, w.queue.Bytes())
	begun, _ := w.queue.Begun()
	r := w.queue.DropOldest()
	l.dropped++
	l.droppedBytes += int64(r.Size)
	w.ages.Shift(int64(begun), -1)
	w.moveFlushes(begun, -1)
	w.tellWaiters()
	w.limits.release(w, r)
}

// release says that messages have left the queue.
func (l *limits) release(w *Writer, r queue.Removed) {
	l.given = max(0, l.given-costOf(r.Messages, r.Size))
	l.Budget.release(w, r)
}

// give queues messages that the library itself has for a newcomer, whatever MaxPending says, and
// returns how many. If there is not enough room in the Budget they are the last ones, and nobody
// ends. Those whose flusher must be started go to idle.
func (w *Writer) give(messages [][]byte, idle *wakeList) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.state != open {
		return 0
	}
	if w.limits != nil {
		charges := make([]charge, len(messages))
		for i, p := range messages {
			charges[i].alone = costOf(1, len(p))
		}
		messages = messages[w.limits.Budget.reserveLast(w, charges):]
	}
	for _, p := range messages {
		m := copyOf(p)
		w.enqueue(&m)
	}
	if w.limits != nil {
		w.limits.given = w.pendingCost() // what is in front of them leaves first
	}
	w.wakeBy(idle)
	return len(messages)
}

// A blockedSend is a message whose sender waits for room.
type blockedSend struct {
	message payload
	outcome chan error // buffered; gets nil when the message has been accepted
	served  bool       // outcome has got it
}

func (b *blockedSend) serve(outcome error) {
	b.served = true
	b.outcome <- outcome
}

// waitForRoom waits until m, for which there was no room, has been accepted. mu is not held,
// and never while ctx is asked: its methods may be anybody's.
func (w *Writer) waitForRoom(ctx context.Context, m *payload) error {
	if m.run.Block == nil {
		// Were p itself queued from here, the compiler would move to the heap
		// whatever any Write is given.
		m = &payload{run: queue.Lone(bytes.Clone(m.copied))}
	}
	done := ctx.Done()
	b := &blockedSend{message: payload{run: m.run}, outcome: make(chan error, 1)}
	w.mu.Lock()
	if err := w.offer(&b.message); err != ErrWouldBlock {
		w.wake()
		w.mu.Unlock()
		return err
	}
	element := w.limits.blocked.PushBack(b)
	w.mu.Unlock()
	select {
	case err := <-b.outcome:
		return err
	case <-done:
	}
	if !w.giveUp(element) {
		return <-b.outcome // accepted or refused at the same time
	}
	return failed(context.Cause(ctx), "no room for the message")
}

// giveUp ends the wait of a blocked sender, and returns false if it is over already.
func (w *Writer) giveUp(e *list.Element) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if e.Value.(*blockedSend).served {
		return false
	}
	w.limits.blocked.Remove(e)
	w.admitBlocked() // perhaps a smaller message behind it
	return true
}

// admitBlocked accepts the messages of blocked senders as long as there is room.
func (w *Writer) admitBlocked() {
	for {
		first := w.limits.blocked.Front()
		if first == nil || !w.hasRoom(costOf(1, first.Value.(*blockedSend).message.size())) {
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
