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
	defer func() { p.running = false }()
	for p.state.isReachable() || p.state == departed {
		next := p.out.peek()
		switch {
		case p.state == stale && !p.isFull():
			p.mu.Unlock()
			p.relay.node.Snapshot(p.show)
			p.mu.Lock()
		case p.blocked:
			p.work.Wait()
		case next != nil:
			p.envelop(next)
		case p.pingDue:
			p.envelop(&piece{buf: make([]byte, p.out.room)})
		default:
			p.work.Wait()
		}
	}
}

// envelop publishes a piece behind its header, or, if it is empty, a ping. mu is held, and not
// during the call.
func (p *peer) envelop(next *piece) {
	h := p.header
	h.oldest = p.out.oldest
	h.messages = p.out.before()
	h.number = p.out.next - 1
	h.torn = uint32(next.torn)
	isPing := len(next.buf) == p.out.room
	if !isPing {
		h.number++
		p.out.take()
	}
	h.put(next.buf)
	p.pingDue, p.answered = false, h.received
	p.mu.Unlock()
	err := p.relay.nc.Publish(p.relay.subject("to."+p.id), next.buf)
	p.mu.Lock()
	if err != nil {
		p.blocked, p.pingDue = true, true
		p.out.rewind(h.number)
	}
}

// isFull tells whether the peer is too far behind. mu is held, here and below where it does
// not say otherwise.
func (p *peer) isFull() bool { return p.out.bytes >= p.relay.opts.MaxQueued }

// add adds an item with so many messages in it.
func (p *peer) add(item []byte, messages int) {
	p.out.add(item, messages)
	p.work.Signal()
}

// send is add without messages. mu is not held.
func (p *peer) send(item []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state.isReachable() {
		p.add(item, 0)
	}
}

// tell adds events, unless a snapshot will come that has them. mu is not held.
func (p *peer) tell(item []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.state != current:
	case p.isFull():
		p.state = stale
	default:
		p.add(item, 0)
	}
}

// show adds a snapshot. It is called by Node.Snapshot; mu is not held.
func (p *peer) show(events []sendq.Event) {
	item := appendList([]byte{itemSnapshot}, events, appendEvent)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state.isReachable() {
		p.add(item, 0)
		p.state, p.shown = current, p.out.last()
	}
}

// post adds messages, or says why not. If nobody waits for the outcome they count in any
// case, so that the peer knows how many it has missed. mu is not held.
func (p *peer) post(d sendq.Delivery, outcome func(sendq.Outcome)) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var err error
	switch {
	case !p.state.isReachable():
		err = fmt.Errorf("%w: %w: %s", sendq.ErrUnknownName, ErrNodeLost, p.id)
	case p.isFull():
		err = fmt.Errorf("%w: node %s is %d bytes behind", sendq.ErrWouldBlock, p.id, p.out.bytes)
	}
	n := len(d.Messages)
	if err != nil {
		if outcome == nil {
			p.out.omit(n)
			p.counts.Omitted += int64(n)
		}
		return err
	}
	id := uint64(0)
	if outcome != nil {
		p.last++
		id = p.last
		deadline := p.relay.clock.Load() + int64(p.relay.opts.ticks(p.relay.opts.Timeout))
		p.waiting = append(p.waiting, waiting{id, deadline, outcome})
	}
	item := appendDelivery(appendUint(append(p.scratch[:0], itemPost), id), d)
	p.add(item, n)
	if cap(item) <= maxPiece {
		p.scratch = item
	}
	p.counts.Posted += int64(n)
	return nil
}
