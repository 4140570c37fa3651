package sendq

import (
	"bytes"
	"container/list"
	"context"
	"math"

	"github.com/sendq-go/sendq/internal/queue"
)

// WriteLatest is Write while the Writer keeps up. While it is slow (see WriterOptions.HighMark), it
// keeps only the newest message of each key, such as a price or a position, and drops the one
// before. So a peer that has been slow gets the present state, not an old backlog. Without HighMark
// WriteLatest is always Write.
//
// A kept message waits beside the queue until the queue falls to LowMark. Then kept messages are
// queued up to HighMark, in the order in which their keys were first kept. Until then, messages of
// Write go before them. Messages of one key reach the connection in the order in which they were
// accepted. Flush, OnFlushed and CloseWith queue all kept messages at once, and so does a message for
// which MaxPending or MaxMessages leaves no room.
//
// Kept messages count as pending, and those dropped count as accepted and dropped. Keys do not count.
// For MaxAge and OldestPending, the age of a kept message begins when it is queued. WriteLatest
// returns the errors of Write. If it waits for room, with Block, the message is not dropped for a
// newer one.
func (w *Writer) WriteLatest(key string, p []byte) (int, error) {
	m := copyOf(p)
	m.key = &key
	if err := w.send(context.Background(), &m, nil); err != nil {
		return 0, err
	}
	return len(p), nil
}

// stale holds the newest message of each key while the Writer is slow. The queue is not empty
// then. Writer.mu guards it.
type stale struct {
	order list.List                // of *staleMessage, by when their keys were first kept
	keys  map[string]*list.Element // nil if there are none
	amount
}

type staleMessage struct {
	key string
	run queue.Run // of one message
}

func (m *staleMessage) amount() amount { return amountOf(1, m.run.Size()) }

// setStale sets the amount of the stale messages.
func (l *limits) setStale(stale amount) {
	l.pressure.stale.amount = stale
	l.setMost()
}

func (s *stale) isEmpty() bool { return s.order.Len() == 0 }

// staleAmount returns the amount of the stale messages. mu is held, here and below.
func (w *Writer) staleAmount() amount {
	if p := w.pressure(); p != nil {
		return p.stale.amount
	}
	return amount{}
}

// pendingBytes returns the size of the pending messages.
func (w *Writer) pendingBytes() int64 {
	s := w.staleAmount()
	return w.queue.Bytes() + s.cost - messageOverhead*s.messages
}

// offerStale is offer for a message with a key, but returns false if the message is to be queued.
func (w *Writer) offerStale(m *payload) (isStale bool, err error) {
	l, p := w.limits, w.limits.pressure
	need := amountOf(1, m.size())
	if p == nil || !p.slow || w.state != open || l.Budget != nil && need.cost > int64(l.Budget.limit) {
		return false, nil
	}
	old := p.stale.keys[*m.key]
	var replaced amount
	if old != nil {
		replaced = old.Value.(*staleMessage).amount()
	}
	if !w.hasRoom(need.minus(replaced)) || old == nil && l.blocked.Len() > 0 {
		return false, nil
	}
	return true, w.keep(m, old)
}

// keep makes m the stale message of its key, instead of old unless that is nil.
func (w *Writer) keep(m *payload, old *list.Element) error {
	s := &w.limits.pressure.stale
	kept := &staleMessage{*m.key, m.run}
	if m.run.Block == nil {
		kept.run = queue.Lone(bytes.Clone(m.copied))
	}
	if old != nil {
		w.dropStale(old.Value.(*staleMessage))
	}
	if w.limits.Budget != nil {
		if slow := w.reserve(&payload{run: kept.run}); slow != nil {
			if old != nil {
				s.forget(old)
			}
			return w.disconnect(slow)
		}
	}
	w.limits.setStale(s.amount.plus(kept.amount()))
	if w.isHeir() {
		w.limits.Budget.release(w, w.letGo()) // the oldest that is kept makes room
	}
	if old != nil {
		old.Value = kept
		w.notifyWaiters() // the new message may be shorter
		return nil
	}
	if s.keys == nil {
		s.keys = make(map[string]*list.Element)
	}
	s.keys[kept.key] = s.order.PushBack(kept)
	return nil
}

// forget removes a message that no longer counts.
func (s *stale) forget(e *list.Element) {
	delete(s.keys, s.order.Remove(e).(*staleMessage).key)
	if s.isEmpty() {
		s.keys = nil
	}
}

// dropStale counts m as dropped. The caller must forget or replace it.
func (w *Writer) dropStale(m *staleMessage) {
	l, size := w.limits, m.run.Size()
	w.peakPending = max(w.peakPending, w.pendingBytes())
	w.accepted++
	w.acceptedBytes += int64(size)
	l.dropped++
	l.droppedBytes += int64(size)
	l.setStale(l.pressure.stale.minus(m.amount()))
	switch {
	case l.Budget == nil:
	case m.run.Block.IsShared():
		l.backlog.letGo(m.run.Block)
	default:
		l.Budget.release(w, queue.Removed{OwnMessages: 1, OwnSize: size})
	}
}

// queueStale queues the first stale message, and the next ones as long as the queue does not exceed
// upTo. They have been charged to the Budget before.
func (w *Writer) queueStale(upTo int64) {
	p := w.pressure()
	if p == nil {
		return
	}
	s := &p.stale
	for queued := 0; !s.isEmpty(); queued++ {
		e := s.order.Front()
		m := e.Value.(*staleMessage)
		if queued > 0 && w.queuedAmount().cost+m.amount().cost > upTo {
			return
		}
		w.limits.setStale(s.minus(m.amount()))
		s.forget(e)
		w.accept(1, w.queue.Push(m.run))
	}
}

// queueAllStale queues all stale messages.
func (w *Writer) queueAllStale() { w.queueStale(math.MaxInt64) }
