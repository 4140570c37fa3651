package natsrelay

import (
	"errors"
	"fmt"

	"github.com/sendq-go/sendq/relay"
)

// receive handles an envelope. Only the serving goroutine calls receive and the handlers below.
func (r *Relay) receive(b []byte) {
	h, b, err := parseEnvelope(b)
	switch {
	case errors.Is(err, errVersion):
		r.handleForeign(&h)
		return
	case err != nil:
		r.malformed.Add(1)
		return
	case h.flags&flagProbe != 0:
		if h.from == r.id {
			r.unprobed.Store(0)
		}
		return
	case h.from == r.id:
		r.handleEcho()
		return
	}
	p := r.peerFor(h.from)
	if p == nil {
		return
	}
	p.silentTicks = 0
	p.unansweredBeats.Store(0)
	p.isForeign = false
	p.markReachable()
	if h.flags&flagBeat == 0 {
		p.handleAcknowledgement(&h)
		p.handlePiece(&h, b)
		p.reportGivenUp(&h)
	}
}

// handleForeign handles an envelope of a node without a common version. The node stays unreachable, but
// it is alive and keeps its names.
func (r *Relay) handleForeign(h *header) {
	p := r.peerFor(h.from)
	if p == nil {
		return
	}
	p.unansweredBeats.Store(0)
	if !p.isForeign {
		p.isForeign = true
		r.opts.Log.Error("node speaks other versions of the protocol, its names are taken but cannot be reached", "node", r.id,
			"peer", p.id, "versions", fmt.Sprint(h.versions), "own", fmt.Sprint([...]int{oldestVersion, newestVersion}))
	}
}

// handleEcho handles a heartbeat of this node itself. It proves that this node can reach NATS. A peer
// is dead or cut off if it was silent for a Lease of such heartbeats.
func (r *Relay) handleEcho() {
	r.lastEcho.Store(r.clock.Load())
	if r.unprobed.Load() > 0 && r.unprobed.Add(1) > int64(r.opts.ticksIn(r.opts.Lease/4)) {
		r.unprobed.Store(0)
		go r.move()
	}
	hasDied := false
	for _, p := range r.allPeers() {
		hasDied = p.unansweredBeats.Add(1) == r.leaseBeats() || hasDied
	}
	if hasDied {
		go r.registry.sweep()
	}
}

// hearsNobody reports whether all reachable nodes are silent, but heartbeats of this node come back.
func (r *Relay) hearsNobody() bool {
	isAlone := false
	for _, p := range r.allPeers() {
		if p.isReachable() {
			if p.unansweredBeats.Load() < int64(r.opts.ticksIn(r.opts.Lease/5)) {
				return false
			}
			isAlone = true
		}
	}
	return isAlone
}

// move moves the connection for messages to another server, because the present one is cut off.
func (r *Relay) move() {
	r.opts.Log.Warn("NATS server is cut off, moving to another one", "node", r.id, "use", "messages")
	_ = r.nc.ForceReconnect() // fails only if the Relay is ending
}

// leaseBeats returns the number of heartbeats in slightly more than a Lease.
func (r *Relay) leaseBeats() int64 { return int64(r.opts.ticksIn(r.opts.Lease)) + 1 }

// handleAcknowledgement handles the fields of a header about data that this node has sent.
func (p *peer) handleAcknowledgement(h *header) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.outbox.acknowledge(h.received)
	for len(p.handovers) > 0 && p.handovers[0].piece <= h.received {
		p.handovers = p.handovers[1:]
	}
	if h.flags&flagResend != 0 && p.rewound != h.received+1 {
		p.rewound = h.received + 1
		p.outbox.rewind(p.rewound)
	}
	if h.flags&flagNeedsSnapshot != 0 && p.snapshotPiece <= h.received && p.state == current {
		p.state = stale
	}
	p.work.Signal()
	if len(p.outbox.pieces) == 0 {
		p.relay.wakeDrain()
	}
}

// handlePiece delivers the items of an envelope if it is the next one, and reports lost messages.
func (p *peer) handlePiece(h *header, b []byte) {
	hadGap := p.inbox.hasGap
	isNext, missed, hasLoss := p.inbox.accept(h, len(b) == 0)
	if hasLoss {
		p.hasSnapshot = false
	}
	if missed > 0 {
		p.unlogged += missed
		p.relay.node.MessagesLost(p.id, int(missed))
	}
	received := p.inbox.messages
	if isNext && len(b) > 0 {
		if !p.inbox.unpack(h.continued, b, p.handleItem) {
			p.relay.malformed.Add(1)
		}
		p.deliver()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.counts.Received += int64(p.inbox.messages - received)
	p.counts.Missed += int64(missed)
	p.header.received = p.inbox.number
	p.header.flags = 0
	if !p.hasSnapshot && p.state < departed {
		p.header.flags |= flagNeedsSnapshot
	}
	if p.inbox.hasGap {
		p.header.flags |= flagResend
	}
	isWaiting := p.inbox.hasGap || h.oldest <= p.inbox.number // the peer keeps pieces for this node
	if p.inbox.hasGap && !hadGap || p.inbox.number-p.acknowledged >= window/4 || p.state == departed && isWaiting {
		p.pingDue = true
		p.work.Signal()
	}
}

// handleItem handles an item, and returns the number of messages in it.
func (p *peer) handleItem(b []byte) (messages int) {
	in := parser{b: b}
	kind := in.byte()
	if kind == itemPost {
		id, d := in.uint(), in.delivery()
		if in.bad {
			p.relay.malformed.Add(1)
			return 0
		}
		p.deliveries, p.deliveryIDs = append(p.deliveries, d), append(p.deliveryIDs, id)
		return len(d.Messages)
	}
	p.deliver() // first, because the items are in order
	switch kind {
	case itemOutcome:
		p.handleOutcome(&in)
	case itemEvents, itemSnapshot:
		p.handleEvents(&in, kind == itemSnapshot)
	case itemEvict, itemReplay:
		p.handleRequest(&in, kind)
	case itemHandover, itemHistory:
		p.handleResponse(&in, kind)
	case itemPassed:
		if key, revision := in.string(), in.uint(); !in.bad {
			p.relay.registry.takeBack(key, revision)
		}
	case itemBye:
		p.handleBye()
	default:
		in.fail()
	}
	if in.bad {
		p.relay.malformed.Add(1)
	}
	return 0
}

// deliver delivers the collected messages together, and enqueues the outcomes.
func (p *peer) deliver() {
	if len(p.deliveries) == 0 {
		return
	}
	outcomes := p.relay.node.Deliver(p.id, p.deliveries)
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, id := range p.deliveryIDs {
		if id != 0 && p.state.isReachable() {
			item := appendUint(appendUint([]byte{itemOutcome}, id), outcomes[i].Accepted)
			p.enqueue(appendError(item, outcomes[i].Err), 0)
		}
	}
	clear(p.deliveries)
	p.deliveries, p.deliveryIDs = p.deliveries[:0], p.deliveryIDs[:0]
}

// handleOutcome passes an outcome to the sender of its post. Outcomes arrive in the order of posts,
// so an outcome that is skipped was lost.
func (p *peer) handleOutcome(in *parser) {
	id, o := in.uint(), relay.Outcome{Accepted: in.int(), Err: in.error()}
	p.mu.Lock()
	n := 0
	for n < len(p.pendingPosts) && p.pendingPosts[n].id <= id {
		n++
	}
	posts := p.pendingPosts[:n:n]
	p.pendingPosts = p.pendingPosts[n:]
	p.mu.Unlock()
	if n > 0 && posts[n-1].id == id {
		n--
		posts[n].outcome(o)
	}
	p.failPosts(posts[:n], fmt.Errorf("the answer of node %s was lost", p.id))
}

// handleEvents handles events or a snapshot. Events are meaningless without an earlier snapshot.
func (p *peer) handleEvents(in *parser, isSnapshot bool) {
	gaveUp := p.gaveUp
	if isSnapshot {
		gaveUp = in.uint() + 1
	}
	events := in.events()
	if in.bad || !isSnapshot && !p.hasSnapshot || p.hasLeft() {
		return
	}
	p.wasGivenUp = p.wasGivenUp || p.gaveUp != 0 && gaveUp > p.gaveUp
	p.gaveUp, p.hasSnapshot = gaveUp, true
	p.relay.node.Apply(p.id, events, isSnapshot)
	for _, e := range events {
		p.relay.registry.hear(e.Token)
		if e.Kind == relay.EventJoined {
			p.relay.registry.verifyLater(e.Name, p.id)
		}
	}
}

// reportGivenUp reports that the peer has given this node up, once it knows the names of this node
// again. Until then it publishes without this node.
func (p *peer) reportGivenUp(h *header) {
	if p.wasGivenUp && h.flags&flagNeedsSnapshot == 0 {
		p.wasGivenUp = false
		p.relay.opts.Log.Warn("messages missed", "node", p.relay.id, "peer", p.id, "messages", "unknown")
		p.relay.node.MessagesLost(p.id, -1)
	}
}
