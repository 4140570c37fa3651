package natsrelay

import (
	"fmt"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/relay"
)

// publish sends snapshots, pieces and pings to the peer while it is reachable or departed. Each peer
// has its own goroutine, so callers never wait for a call into NATS.
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

// publishNext publishes an envelope with the next piece, or a ping if that is empty. mu is held,
// and released during the call into NATS.
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

// isFull reports whether the peer's queue is full. mu is held.
func (p *peer) isFull() bool { return p.outbox.bytes >= p.relay.opts.MaxQueuedBytes }

// enqueue adds an item that contains the given number of messages. mu is held.
func (p *peer) enqueue(item []byte, messages int) {
	p.outbox.add(item, messages)
	p.work.Signal()
}

// sendItem enqueues an item without messages.
func (p *peer) sendItem(item []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state.isReachable() {
		p.enqueue(item, 0)
	}
}

// announce enqueues events, unless a snapshot that will include them is due.
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

// sendSnapshot enqueues a snapshot. Node.Snapshot calls it.
func (p *peer) sendSnapshot(events []relay.Event) {
	list := appendList(nil, events, appendEvent)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state.isReachable() {
		p.enqueue(append(appendUint([]byte{itemSnapshot}, p.givenUp), list...), 0)
		p.state, p.snapshotPiece = current, p.outbox.newest()
	}
}

// send enqueues messages or returns an error. Messages without an outcome are counted even then, so
// the peer learns how many it has missed, unless it has left.
func (p *peer) send(d relay.Delivery, outcome func(relay.Outcome)) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(d.Messages)
	size := 0
	for _, m := range d.Messages {
		size += len(m)
	}
	var err error
	switch {
	case size > maxItem/2: // so it fits with names and lengths
		err = fmt.Errorf("%w: %d bytes for node %s", sendq.ErrTooLarge, size, p.id)
	case !p.state.isReachable():
		err = fmt.Errorf("%w: %w: %s", sendq.ErrUnknownName, ErrNodeLost, p.id)
	case p.isFull():
		err = fmt.Errorf("%w: %d bytes queued for node %s", ErrNodeBehind, p.outbox.bytes, p.id)
	}
	if err != nil {
		if outcome == nil && p.state < departed { // a fan-out may have begun before the peer left
			p.outbox.drop(n)
			p.counts.Dropped += int64(n)
		}
		return err
	}
	id := uint64(0)
	if outcome != nil {
		p.lastID++
		id = p.lastID
		p.addPost(id, outcome)
	}
	item := appendDelivery(appendUint(append(p.scratch[:0], itemPost), id), d)
	p.enqueue(item, n)
	if cap(item) <= maxPiece {
		p.scratch = item
	}
	p.counts.Posted += int64(n)
	return nil
}
