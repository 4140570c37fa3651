package natsrelay

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/sendq-go/sendq"
)

// A peer is another node. It stays known while it is unreachable, because a partition may heal.
// A process that has died costs some hundred bytes.
type peer struct {
	relay *Relay
	id    string

	// These are the serving goroutine's alone.
	inbox       inbox
	hasSnapshot bool // its snapshot is here, and every event since
	silentTicks int  // ticks since it was heard of
	deliveries  []sendq.Delivery
	deliveryIDs []uint64 // of posts; 0: nobody waits for the outcome

	unansweredBeats atomic.Int64 // of this node itself that have come back since anything has of the peer

	mu            sync.Mutex // taken with locks of the Broker held, so no method of node is called with it
	work          sync.Cond  // when there may be something to publish
	outbox        outbox
	scratch       []byte // for an item
	header        header // of the next envelope, as far as it is about what comes from the peer
	acknowledged  uint64 // header.received of the last one
	state         state
	snapshotPiece uint64 // the piece with which the last snapshot ended
	pingDue       bool   // an envelope is due, even without a piece
	blocked       bool   // NATS has not taken an envelope: wait for the next tick
	rewound       uint64 // since the last tick, to this number
	publishing    bool   // publish is
	lastID        uint64 // id of a post or question
	pendingPosts  []pendingPost
	requests      map[uint64]chan response
	handovers     []handover
	counts        NodeStats
}

// The life of a peer, as this node sees it. It moves down this list, except that a peer goes
// back to stale when it needs another snapshot, and to unreachable after a Lease of silence.
type state uint8

const (
	unreachable state = iota // not heard of for a Lease, or never; it is sent nothing
	stale                    // reachable; it is sent a snapshot before any events
	current                  // reachable; it is sent events as they happen
	departed                 // said bye; it still gets what was queued, and acknowledgements
	stopped                  // this node is done with it, and publish returns
)

func (s state) isReachable() bool { return s == stale || s == current }

// pendingPost is a post whose outcome is not known yet.
type pendingPost struct {
	id       uint64
	deadline int64 // tick
	outcome  func(sendq.Outcome)
}

// meet returns the peer with that id, or nil once Close was called. A new one is unreachable.
func (r *Relay) peerFor(id string) *peer {
	if p := r.peer(id); p != nil {
		return p
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closing.Err() != nil {
		return nil
	}
	p := &peer{
		relay:    r,
		id:       id,
		outbox:   newOutbox(headerSize(len(r.id)), r.pieceSize),
		header:   header{flags: flagNeedsSnapshot, from: r.id},
		requests: make(map[uint64]chan response),
	}
	p.work.L = &p.mu
	r.peers[id] = p
	return p
}

// tick makes the peers' time go on. It counts ticks and not seconds, so a node that has
// been stopped for a while does not think that all others have died.
func (r *Relay) tick() {
	now := r.clock.Add(1)
	for _, p := range r.allPeers() {
		p.silentTicks++
		lease := r.opts.ticksIn(r.opts.Lease)
		switch state := p.currentState(); {
		case state == departed && p.silentTicks > 2*lease: // not before what it may have left is tidied
			r.removePeer(p)
			continue
		case state.isReachable() && p.silentTicks > lease:
			p.markUnreachable(fmt.Errorf("%w: %s", ErrNodeLost, p.id))
		}
		p.tick(now)
	}
}

// handleBye notes that the peer is shutting down.
func (p *peer) handleBye() {
	p.hasSnapshot = false
	p.mu.Lock()
	p.state = max(p.state, departed)
	p.mu.Unlock()
	p.relay.wakeDrain()
	p.relay.node.Forget(p.id, nil)
}

// removePeer forgets a peer that has left.
func (r *Relay) removePeer(p *peer) {
	r.mu.Lock()
	delete(r.peers, p.id)
	r.mu.Unlock()
	p.abandon(stopped, ErrNodeLost)
}

func (p *peer) currentState() state {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state
}

// hasLeft reports whether the peer has said bye.
func (p *peer) hasLeft() bool { return p.currentState() >= departed }

func (p *peer) isReachable() bool { return p.currentState().isReachable() }

// tick lets the peer know that this node lives and how far it is, and gives up waiting.
func (p *peer) tick(now int64) {
	p.mu.Lock()
	n := 0
	for n < len(p.pendingPosts) && p.pendingPosts[n].deadline < now {
		n++
	}
	late := p.pendingPosts[:n:n]
	p.pendingPosts = p.pendingPosts[n:]
	p.pingDue = p.pingDue || p.state.isReachable()
	p.blocked, p.rewound = false, 0
	p.work.Signal()
	p.mu.Unlock()
	p.failPosts(late, "no answer in time")
}

// failPosts tells those who wait that no outcome will come.
func (p *peer) failPosts(ws []pendingPost, why string) {
	for _, w := range ws {
		w.outcome(sendq.Outcome{Err: fmt.Errorf("%w: node %s: %s", sendq.ErrUnconfirmed, p.id, why)})
	}
}

// markUnreachable gives up a peer that is not heard of any more, with all that is on the way to it. What
// of that it has not got, it is told when it comes back.
func (p *peer) markUnreachable(cause error) {
	p.hasSnapshot = false
	p.abandon(unreachable, cause)
	p.relay.node.Forget(p.id, cause)
}

// abandon forgets what the peer should still get and what it was asked, and ends publish.
func (p *peer) abandon(next state, cause error) {
	p.mu.Lock()
	if p.state != stopped {
		p.state = next
	}
	p.work.Signal()
	p.counts.Abandoned += int64(p.outbox.clear())
	p.scratch = nil
	waiting, questions, estates := p.pendingPosts, p.requests, p.handovers
	p.pendingPosts, p.requests, p.handovers = nil, make(map[uint64]chan response), nil
	p.mu.Unlock()
	p.failPosts(waiting, cause.Error())
	for _, c := range questions {
		close(c)
	}
	for _, e := range estates {
		p.relay.node.HandBack(e.name, e.undelivered)
	}
	p.relay.wakeDrain()
}

// markReachable makes a peer that is heard of, but was gone, one of the others.
func (p *peer) markReachable() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state != unreachable {
		return
	}
	p.state, p.pingDue = stale, true
	if !p.publishing { // it may not have noticed
		p.publishing = true
		p.relay.goroutines.Go(p.publish)
	}
}

// retry publishes at once what NATS has not taken, and a ping, so that what it has lost is
// sent again.
func (p *peer) retry() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.blocked, p.pingDue = false, true
	p.work.Signal()
}

// unacknowledged returns how many messages the peer is not known to have, and whether it is known
// to have everything, or is gone.
func (p *peer) unacknowledged() (messages int, isAll bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.outbox.unacknowledged(), !p.state.isReachable() || len(p.outbox.pieces) == 0
}
