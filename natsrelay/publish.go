package natsrelay

import (
	"fmt"

	"github.com/sendq-go/sendq"
)

// publish publishes what there is for the peer until that is lost, in the order of the numbers:
// one goroutine for each peer, so that a call of NATS that waits holds up nobody who posts.
func (p *peer) publish() {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer func() { p.publishing = false }()
	for p.state.isReachable() || p.state == departed {
		next := p.outbox.peek()
		switch {
		case p.state == stale && !p.isFull():
			p.mu.Unlock()
			p.relay.node.Snapshot(p.sendSnapshot)
			p.mu.Lock()
		case p.blocked:
			p.work.Wait()
		case next != nil:
			p.publishNext(next)
		case p.pingDue:
			p.publishNext(&piece{buf: make([]byte, p.outbox.headroom)})
		default:
			p.work.Wait()
		}
	}
}

// publishNext publishes a piece behind its header, or, if it is empty, a ping. mu is held, and not
// during the call.
func (p *peer) publishNext(next *piece) {
	h := p.header
	h.oldest = p.outbox.oldest
	h.messages = p.outbox.messagesBefore()
	h.number = p.outbox.next - 1
	h.continued = uint32(next.continued)
	isPing := len(next.buf) == p.outbox.headroom
	if !isPing {
		h.number++
		p.outbox.markPublished()
	}
	h.put(next.buf)
	p.pingDue, p.acknowledged = false, h.received
	p.mu.Unlock()
	err := p.relay.nc.Publish(p.relay.subject("to."+p.id), next.buf)
	p.mu.Lock()
	if err != nil {
		p.blocked, p.pingDue = true, true
		p.outbox.rewind(h.number)
	}
}

// isFull tells whether the peer is too far behind. mu is held, here and below where it does
// not say otherwise.
func (p *peer) isFull() bool { return p.outbox.bytes >= p.relay.opts.MaxQueuedBytes }

// enqueue adds an item with so many messages in it.
func (p *peer) enqueue(item []byte, messages int) {
	p.outbox.add(item, messages)
	p.work.Signal()
}

// sendItem is add without messages. mu is not held.
func (p *peer) sendItem(item []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state.isReachable() {
		p.enqueue(item, 0)
	}
}

// announce adds events, unless a snapshot will come that has them. mu is not held.
func (p *peer) announce(item []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.state != current:
	case p.isFull():
		p.state = stale
	default:
		p.enqueue(item, 0)
	}
}

// sendSnapshot adds a snapshot. It is called by Node.Snapshot; mu is not held.
func (p *peer) sendSnapshot(events []sendq.Event) {
	item := appendList([]byte{itemSnapshot}, events, appendEvent)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state.isReachable() {
		p.enqueue(item, 0)
		p.state, p.snapshotPiece = current, p.outbox.newest()
	}
}

// post adds messages, or says why not. If nobody waits for the outcome they count in any
// case, so that the peer knows how many it has missed. mu is not held.
func (p *peer) send(d sendq.Delivery, outcome func(sendq.Outcome)) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var err error
	switch {
	case !p.state.isReachable():
		err = fmt.Errorf("%w: %w: %s", sendq.ErrUnknownName, ErrNodeLost, p.id)
	case p.isFull():
		err = fmt.Errorf("%w: %d bytes queued for node %s", ErrNodeBehind, p.outbox.bytes, p.id)
	}
	n := len(d.Messages)
	if err != nil {
		if outcome == nil {
			p.outbox.drop(n)
			p.counts.Dropped += int64(n)
		}
		return err
	}
	id := uint64(0)
	if outcome != nil {
		p.lastID++
		id = p.lastID
		deadline := p.relay.clock.Load() + int64(p.relay.opts.ticksIn(p.relay.opts.Timeout))
		p.pendingPosts = append(p.pendingPosts, pendingPost{id, deadline, outcome})
	}
	item := appendDelivery(appendUint(append(p.scratch[:0], itemPost), id), d)
	p.enqueue(item, n)
	if cap(item) <= maxPiece {
		p.scratch = item
	}
	p.counts.Posted += int64(n)
	return nil
}
