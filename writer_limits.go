package sendq

import (
	"bytes"
	"container/list"
	"context"
	"fmt"
	"math"
	"net"
	"slices"

	"github.com/sendq-go/sendq/internal/queue"
	"github.com/sendq-go/sendq/internal/sock"
)

// messageOverhead is the number of bytes that MaxPending and a Budget count for a message
// beyond its size. It is about the cost of queueing a message by reference.
const messageOverhead = 64

// limits holds what only a Writer with limits needs. Writer.mu guards it. What a send reads comes
// close together, because a fan-out to many Writers waits mostly for memory.
type limits struct {
	WriterOptions // never changed

	dropped, droppedBytes int64
	bound                 amount // MaxMessages and MaxPending, or unbounded where they are 0
	most                  amount // that may be in the queue: bound, with Disconnect also exempt, without stale

	// exempt is the messages at the front that the library itself has queued, in a takeover or
	// by JoinReplay, and all before them. With Disconnect they do not count at MaxPending and
	// MaxMessages. While there are some, these limits hold for a replay; see give.
	exempt amount

	pressure  *pressure // nil without HighMark
	keeper    *keeper   // nil without Keep
	blocked   list.List // of *blockedSend, in order; empty unless the Writer is open
	deadlines deadlines
	backlog   backlog // what the Budget counts; its lock guards it
	tracker   queue.Tracker

	// These limit one conn.Write.
	maxWrite         int // in bytes
	maxWriteMessages int64
}

// An amount is messages as MaxMessages and MaxPending count them.
type amount struct{ messages, cost int64 }

// unbounded leaves room for a sum.
var unbounded = amount{math.MaxInt64 / 2, math.MaxInt64 / 2}

// amountOf returns the amount of messages of size bytes together.
func amountOf(messages, size int) amount { return amount{int64(messages), costOf(messages, size)} }

func (a amount) plus(b amount) amount { return amount{a.messages + b.messages, a.cost + b.cost} }

func (a amount) minus(b amount) amount { return amount{a.messages - b.messages, a.cost - b.cost} }

func (a amount) fits(bound amount) bool { return a.messages <= bound.messages && a.cost <= bound.cost }

// newLimits returns the limits set by o, or nil if there are none and no Farewell.
func newLimits(conn net.Conn, o WriterOptions) *limits {
	if o.MaxPending == 0 && o.MaxMessages == 0 && o.MaxAge == 0 && o.WriteTimeout == 0 && o.Budget == nil && o.Farewell == nil && o.HighMark == 0 && o.Keep == 0 {
		return nil
	}
	l := &limits{WriterOptions: o, pressure: newPressure(&o), keeper: newKeeper(&o), bound: unbounded, maxWrite: maxWrite, maxWriteMessages: math.MaxInt64}
	if o.MaxPending > 0 {
		l.bound.cost = min(int64(o.MaxPending), unbounded.cost)
	}
	if o.MaxMessages > 0 {
		l.bound.messages = min(int64(o.MaxMessages), unbounded.messages)
	}
	l.setExempt(amount{})
	if o.WriteTimeout > 0 {
		l.maxWrite = sock.ProgressWrite(conn, maxWrite, maxUnseenWrite)
	}
	if o.Overflow == DropOldest {
		// Otherwise all pending messages could be in flight, and the newest would be dropped.
		l.maxWrite = int(min(int64(l.maxWrite), max(l.bound.cost/8, 1)))
		l.maxWriteMessages = max(min(l.bound.cost/8/messageOverhead, l.bound.messages/8), 1)
	}
	return l
}

// grown is called when the queue has grown by accepted messages. mu is held.
func (w *Writer) grown() {
	w.limits.startDeadlines(w)
	w.checkHigh()
	if w.isHeir() {
		w.limits.Budget.release(w, w.letGo()) // the oldest that is kept makes room
	}
}

// track tells the Budget and the keeper what happens to the messages of w.
func (l *limits) track(w *Writer) {
	l.backlog.writer = w
	if l.Budget != nil {
		l.tracker = queue.Tracker{Hold: l.backlog.hold, LetGo: l.backlog.letGo}
	}
	if l.keeper != nil {
		l.keeper.track(l)
	}
	w.queue.Track(&l.tracker)
}

// pending returns the number of messages of the queue. mu is held, here and below unless a comment
// says otherwise.
func (w *Writer) pending() int64 {
	if w.limits == nil {
		return w.accepted - w.written
	}
	return w.accepted - w.written - w.limits.dropped
}

// costOf returns what MaxPending counts for messages of size bytes together. The sum may
// overflow an int of 32 bits.
func costOf(messages, size int) int64 { return int64(size) + messageOverhead*int64(messages) }

// queuedAmount returns the amount of the messages of the queue.
func (w *Writer) queuedAmount() amount {
	n := w.pending()
	return amount{n, w.queue.Bytes() + messageOverhead*n}
}

// offerLimited is offer for a Writer with limits.
func (w *Writer) offerLimited(m *payload) error {
	l := w.limits
	if m.key != nil {
		if isStale, err := w.offerStale(m); isStale {
			return err
		}
	}
	all := amountOf(1, m.size()) // once, because a run computes its size from its block
	need := m.needOf(all)
	switch {
	case w.state != open:
		return w.refusal()
	case need.cost > l.bound.cost && !w.isHeir():
		return fmt.Errorf("%w: it counts as %d bytes, and MaxPending is %d", ErrTooLarge, all.cost, l.MaxPending)
	case l.Budget != nil && all.cost > int64(l.Budget.limit):
		return fmt.Errorf("%w: it counts as %d bytes, and the Budget is %d", ErrTooLarge, all.cost, l.Budget.limit)
	case w.hasRoom(need) && !l.mustWait(m):
		return w.admit(m)
	}
	w.queueAllStale() // so that the policy sees all messages, and none goes before an older one of its key
	switch l.Overflow {
	case Block:
		return ErrWouldBlock
	case DropOldest, DropNewest:
		if l.Overflow == DropOldest && w.makeRoom(need) {
			return w.admit(m)
		}
		if !m.isKept() {
			w.accepted++
			w.acceptedBytes += int64(m.size())
			l.dropped++
			l.droppedBytes += int64(m.size())
			return ErrDropped
		}
	}
	return w.disconnect(w.exceeded(m))
}

// exceeded returns the error for m if MaxPending or MaxMessages has no room for it.
func (w *Writer) exceeded(m *payload) error {
	l, pending := w.limits, w.queuedAmount()
	if w.isHeir() {
		return fmt.Errorf("%w: Keep of %d bytes exceeded while the peer is away", ErrSlowConsumer, l.Keep)
	}
	if pending.plus(m.need()).messages > l.most.messages {
		return fmt.Errorf("%w: MaxMessages of %d exceeded: %d pending", ErrSlowConsumer, l.MaxMessages, pending.messages)
	}
	return fmt.Errorf("%w: MaxPending of %d bytes exceeded: %d pending, %d more",
		ErrSlowConsumer, l.MaxPending, pending.cost, costOf(1, m.size()))
}

// extendsFreely reports whether a message of size bytes may be appended to the last one without
// further checks.
func (w *Writer) extendsFreely(size int) bool {
	return w.limits.Budget == nil && w.hasRoom(amountOf(1, size)) && !w.limits.isBlocked() && !w.reachesHigh(size)
}

// hasRoom reports whether MaxPending and MaxMessages have room for messages.
func (w *Writer) hasRoom(need amount) bool {
	return w.queuedAmount().plus(need).fits(w.limits.most)
}

// isBlocked reports whether senders wait for room. Other messages must not overtake theirs.
func (l *limits) isBlocked() bool { return l.blocked.Len() > 0 }

func (l *limits) setExempt(exempt amount) {
	l.exempt = exempt
	l.setMost()
}

// setMost sets most after a change of exempt or stale.
func (l *limits) setMost() {
	l.most = l.bound
	if l.Overflow == Disconnect {
		l.most = l.most.plus(l.exempt)
	}
	if l.pressure != nil {
		l.most = l.most.minus(l.pressure.stale.amount)
	}
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

// reserve makes room for m in the Budget.
func (w *Writer) reserve(m *payload) error {
	switch b := m.run.Block; {
	case b == nil || !b.IsShared():
		return w.limits.Budget.reserve(w, charge{unshared: costOf(m.len(), m.size())})
	case w.queue.EndsBefore(m.run): // the last segment, which refers to b, gets longer
		return w.limits.Budget.reserve(w, charge{})
	default:
		return w.limits.Budget.reserve(w, charge{unshared: sharedCost, blocks: []*queue.Block{b}})
	}
}

// disconnect ends the Writer because of slow, and returns the error for the message it refuses.
func (w *Writer) disconnect(slow error) error {
	w.setDismissed(slow)
	return w.refusal()
}

// makeRoom drops the oldest messages until there is room for need. If dropping all that may be
// dropped is not enough, it drops none and returns false.
func (w *Writer) makeRoom(need amount) bool {
	total, n := w.queuedAmount().plus(need), 0
	for _, r := range w.queue.Droppable() {
		for i := 0; i < r.Len() && !total.fits(w.limits.bound); i++ {
			total = total.minus(amountOf(1, len(r.Message(i))))
			n++
		}
		if total.fits(w.limits.bound) {
			w.dropOldest(n)
			return true
		}
	}
	return false
}

// dropOldest drops the n oldest messages that are neither begun nor kept. There must be n.
func (w *Writer) dropOldest(n int) {
	l := w.limits
	w.peakPending = max(w.peakPending, w.pendingBytes())
	for n > 0 {
		r, before := w.queue.DropOldest(n)
		n -= r.Messages
		l.dropped += int64(r.Messages)
		l.droppedBytes += int64(r.Size)
		w.ages.Shift(int64(before), -int64(r.Messages))
		w.moveFlushes(before, -int64(r.Messages))
		w.moveUrgent(before, -int64(r.Messages))
		l.release(w, r, r)
	}
	if begun, front := w.queue.Begun(), w.front(); begun < front { // there are urgent messages
		w.ages.Forget(int64(begun), int64(front))
	}
	w.notifyWaiters()
}

// release accounts for messages that have left the queue, and for those let go.
func (l *limits) release(w *Writer, r, gone queue.Removed) {
	if exempt := l.exempt; exempt.messages > int64(r.Messages) {
		l.setExempt(exempt.minus(amountOf(r.Messages, r.Size)))
	} else if exempt.messages > 0 {
		l.setExempt(amount{})
	}
	l.Budget.release(w, gone)
	w.checkLow()
}

// give queues messages from the library itself for a new member, and returns how many.
// MaxPending and MaxMessages do not matter, unless exempt messages are still pending. Otherwise
// a peer could join a room again and again, read nothing, and never reach its limit. If there is
// too little room, give queues only the last messages, and no Writer ends. If the flusher must be
// started, w goes to idle. mu is not held.
func (w *Writer) give(messages [][]byte, idle *wakeList) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.state != open {
		if heir := w.heir(); heir != nil {
			return heir.give(messages, idle)
		}
		return 0
	}
	isExempt := w.limits != nil && w.limits.exempt == amount{} && !w.isHeir()
	if w.limits != nil {
		if !isExempt {
			messages = w.lastWithRoom(messages)
		}
		charges := make([]charge, len(messages))
		for i, p := range messages {
			charges[i].unshared = costOf(1, len(p))
		}
		messages = messages[w.limits.Budget.reserveLast(w, charges):]
	}
	for _, p := range messages {
		m := copyOf(p)
		w.enqueue(&m)
	}
	if isExempt && len(messages) > 0 {
		w.limits.setExempt(w.queuedAmount()) // the messages before them leave first
	}
	w.wakeBy(idle)
	return len(messages)
}

// lastWithRoom returns the last of the messages, as many as there is room for.
func (w *Writer) lastWithRoom(messages [][]byte) [][]byte {
	var need amount
	for i, p := range slices.Backward(messages) {
		if need = need.plus(amountOf(1, len(p))); !w.hasRoom(need) {
			return messages[i+1:]
		}
	}
	return messages
}

// A blockedSend is a message whose sender waits for room. Writer.mu guards served.
type blockedSend struct {
	message payload
	notify  func(error) // as in Writer.send
	outcome chan error  // buffered; receives nil when the message is accepted
	served  bool        // outcome has been sent
}

func (b *blockedSend) serve(outcome error) {
	b.served = true
	b.outcome <- outcome
}

// waitForRoom waits until m, for which there was no room, is accepted. mu is not held. No
// method of ctx may be called under mu, because a Context may be anybody's.
func (w *Writer) waitForRoom(ctx context.Context, m *payload, notify func(error)) error {
	if m.run.Block == nil {
		// A clone, because otherwise the compiler would move the argument of every Write to the
		// heap.
		m = &payload{run: queue.Lone(bytes.Clone(m.copied))}
	}
	done := ctx.Done()
	b := &blockedSend{message: payload{run: m.run}, notify: notify, outcome: make(chan error, 1)}
	w.mu.Lock()
	if err := w.offer(&b.message); err != ErrWouldBlock {
		if err == nil {
			w.notifyLast(notify)
		}
		w.wake()
		w.mu.Unlock()
		return err
	}
	element := w.limits.block(b)
	w.mu.Unlock()
	select {
	case err := <-b.outcome:
		return err
	case <-done:
	}
	if !w.giveUp(element) {
		return <-b.outcome // accepted or refused at the same time
	}
	return failed(contextCause(ctx), "no room for the message")
}

// giveUp ends the wait of a blocked sender. It returns false if the wait is already over. mu is
// not held.
func (w *Writer) giveUp(e *list.Element) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if e.Value.(*blockedSend).served {
		return false
	}
	w.limits.blocked.Remove(e)
	w.admitBlocked() // there may be room for a smaller message after it
	return true
}

// admitBlocked accepts the messages of blocked senders as long as there is room.
func (w *Writer) admitBlocked() {
	for {
		first := w.limits.blocked.Front()
		if first == nil || !w.hasRoom(first.Value.(*blockedSend).message.need()) {
			return
		}
		b := w.limits.blocked.Remove(first).(*blockedSend)
		err := w.admit(&b.message)
		if err == nil {
			w.notifyLast(b.notify)
		}
		b.serve(err)
	}
}

// refuseBlocked refuses the messages of all blocked senders, because the Writer no longer
// accepts any.
func (w *Writer) refuseBlocked() {
	if w.limits == nil {
		return
	}
	for e := w.limits.blocked.Front(); e != nil; e = e.Next() {
		e.Value.(*blockedSend).serve(w.refusal())
	}
	w.limits.blocked.Init()
}
