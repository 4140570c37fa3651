package natsrelay

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/relay"
)

// A peer is another node. It stays known while it is unreachable, because a partition may heal.
// So each process that has died costs some hundred bytes.
type peer struct {
	relay *Relay
	id    string

	// Only the serving goroutine uses these.
	inbox       inbox
	gaveUp      uint64           // how often the peer has given this node up, and 1; 0 if not known
	wasGivenUp  bool             // the peer has given this node up, and this node has not reported it
	hasSnapshot bool             // the peer's snapshot and all its events since have arrived
	isForeign   bool             // speaks other versions of the protocol
	unlogged    uint64           // messages missed since the last tick
	silentTicks int              // ticks since anything came from the peer
	deliveries  []relay.Delivery // received, and not delivered yet
	deliveryIDs []uint64         // for the outcomes of deliveries; 0 if none is wanted

	unansweredBeats atomic.Int64 // own heartbeats that came back since anything came from the peer

	mu            sync.Mutex // taken with locks of the Broker held, so never held in a call to node
	work          sync.Cond  // signaled when there may be something to publish
	outbox        outbox
	scratch       []byte // for encoding an item
	header        header // of the next envelope; fields about received data only
	acknowledged  uint64 // header.received in the last envelope
	state         state
	givenUp       uint64 // how often this node has given the peer up
	snapshotPiece uint64 // number of the piece with the end of the last snapshot
	pingDue       bool   // an envelope is due, even without a piece
	blocked       bool   // NATS refused an envelope; publish waits for the next tick
	rewound       uint64 // number that the outbox was rewound to since the last tick
	publishing    bool   // publish is running
	lastID        uint64 // of a post or request
	pendingPosts  []pendingPost
	lateness      *time.Timer // runs at the deadline of the first pending post
	requests      map[uint64]chan response
	handovers     []handover
	counts        MessageStats
}

// The life of a peer, as this node sees it. It moves down this list, except that it goes back to
// stale if the peer needs another snapshot, and to unreachable after a Lease of silence.
type state uint8

const (
	unreachable state = iota // silent for a Lease, or never heard; nothing is queued for it
	stale                    // reachable; gets a snapshot before any events
	current                  // reachable; gets events as they happen
	departed                 // said bye; still gets its queue and acknowledgements
	stopped                  // removed; publish returns
)

func (s state) isReachable() bool { return s == stale || s == current }

// A pendingPost waits for its outcome.
type pendingPost struct {
	id       uint64
	deadline time.Time
	outcome  func(relay.Outcome)
}

// peerFor returns the peer with that id. If there is none it adds one in state unreachable, or
// returns nil after Close was called.
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
		outbox:   newOutbox(headerSize(len(r.id)), int(r.pieceSize.Load())),
		header:   header{flags: flagNeedsSnapshot, from: r.id},
		requests: make(map[uint64]chan response),
	}
	p.work.L = &p.mu
	r.peers[id] = p
	return p
}

// tick advances the clock of all peers. Time is counted in ticks, not seconds, so a process that
// was suspended does not consider all other nodes dead.
func (r *Relay) tick() {
	r.clock.Add(1)
	for _, p := range r.allPeers() {
		p.silentTicks++
		lease := r.opts.ticksIn(r.opts.Lease)
		switch state := p.currentState(); {
		case state == departed && p.silentTicks > 2*lease: // late, because its entries may have to be swept
			r.removePeer(p, fmt.Errorf("node %s has left", p.id))
			continue
		case state.isReachable() && p.silentTicks > lease:
			r.opts.Log.Warn("node unreachable", "node", r.id, "peer", p.id, "is_cut_off", r.isCutOff())
			p.markUnreachable(fmt.Errorf("%w: %s", ErrNodeLost, p.id))
		}
		if p.unlogged > 0 {
			r.opts.Log.Warn("messages missed", "node", r.id, "peer", p.id, "messages", p.unlogged)
			p.unlogged = 0
		}
		p.tick()
	}
}

// handleBye handles the last item of a peer.
func (p *peer) handleBye() {
	p.hasSnapshot = false
	p.relay.opts.Log.Info("node has left", "node", p.relay.id, "peer", p.id)
	p.mu.Lock()
	p.state = max(p.state, departed)
	p.mu.Unlock()
	p.relay.wakeDrain()
	p.relay.node.NodeGone(p.id, nil)
}

// removePeer removes a peer and ends its goroutine.
func (r *Relay) removePeer(p *peer, cause error) {
	p.abandon(stopped, cause)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.peers[p.id] == p { // otherwise stop and tick both remove it
		delete(r.peers, p.id)
		r.removed.add(p.stats().MessageStats)
	}
}

func (p *peer) currentState() state {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state
}

// hasLeft reports whether the peer has said bye.
func (p *peer) hasLeft() bool { return p.currentState() >= departed }

// isAlive reports whether the peer has neither left nor been silent for a Lease.
func (p *peer) isAlive() bool {
	return !p.hasLeft() && p.unansweredBeats.Load() < p.relay.leaseBeats()
}

func (p *peer) isReachable() bool { return p.currentState().isReachable() }

// tick makes a ping due, and lets publish try again after a refusal.
func (p *peer) tick() {
	p.adoptPieceSize()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pingDue = p.pingDue || p.state.isReachable()
	p.blocked, p.rewound = false, 0
	p.work.Signal()
}

// addPost adds a post that waits for its outcome. mu is held.
func (p *peer) addPost(id uint64, outcome func(relay.Outcome)) {
	p.pendingPosts = append(p.pendingPosts, pendingPost{id, time.Now().Add(p.relay.opts.Timeout), outcome})
	switch {
	case p.lateness == nil:
		p.lateness = time.AfterFunc(p.relay.opts.Timeout, p.failLatePosts)
	case len(p.pendingPosts) == 1:
		p.lateness.Reset(p.relay.opts.Timeout)
	}
}

// failLatePosts fails posts without an answer in time.
func (p *peer) failLatePosts() {
	p.mu.Lock()
	n := 0
	for n < len(p.pendingPosts) && time.Until(p.pendingPosts[n].deadline) <= 0 {
		n++
	}
	late := p.pendingPosts[:n:n]
	p.pendingPosts = p.pendingPosts[n:]
	if len(p.pendingPosts) > 0 {
		p.lateness.Reset(time.Until(p.pendingPosts[0].deadline))
	}
	p.mu.Unlock()
	p.failPosts(late, fmt.Errorf("no answer from node %s within %v", p.id, p.relay.opts.Timeout))
}

// adoptPieceSize adopts the size of pieces that NATS takes. A piece that has become too large cannot be
// divided, because it has a number and the peer may have received it. So everything queued is given
// up, and the peer learns how many messages it has missed.
func (p *peer) adoptPieceSize() {
	p.mu.Lock()
	fits := p.outbox.resize(int(p.relay.pieceSize.Load()))
	next := p.state
	p.mu.Unlock()
	if fits {
		return
	}
	if next == current {
		next = stale
	}
	cause := errors.New("NATS takes smaller messages than before")
	p.relay.opts.Log.Warn("queue given up", "node", p.relay.id, "peer", p.id, "error", cause)
	p.abandon(next, cause)
}

// failPosts reports that no outcome will arrive for posts.
func (p *peer) failPosts(posts []pendingPost, cause error) {
	for _, post := range posts {
		post.outcome(relay.Outcome{Err: fmt.Errorf("%w: %w", sendq.ErrUnconfirmed, cause)})
	}
}

// markUnreachable gives up everything in transit to the peer, and the peer's names leave. If the
// peer comes back, it learns how many messages of these it has missed, and that others may have been
// missed since, from the number in the snapshot.
func (p *peer) markUnreachable(cause error) {
	p.mu.Lock()
	p.givenUp++
	p.header.flags |= flagNeedsSnapshot
	p.mu.Unlock()
	p.hasSnapshot = false
	p.abandon(unreachable, cause)
	p.relay.node.NodeGone(p.id, cause)
}

// abandon ends publish, clears the outbox and fails everything that waits for the peer.
func (p *peer) abandon(next state, cause error) {
	p.mu.Lock()
	if unacknowledged := p.outbox.clear(); p.state < departed { // a node's Writers end before it leaves
		p.counts.Abandoned += int64(unacknowledged)
	}
	if p.state != stopped {
		p.state = next
	}
	p.work.Signal()
	p.scratch = nil
	posts, requests, handovers := p.pendingPosts, p.requests, p.handovers
	p.pendingPosts, p.requests, p.handovers = nil, make(map[uint64]chan response), nil
	p.mu.Unlock()
	p.failPosts(posts, cause)
	for _, c := range requests {
		close(c)
	}
	for _, h := range handovers {
		p.relay.node.HandBack(h.name, h.undelivered)
	}
	p.relay.wakeDrain()
}

// markReachable is called whenever something comes from the peer.
func (p *peer) markReachable() {
	p.mu.Lock()
	wasUnreachable := p.state == unreachable
	if wasUnreachable {
		p.state, p.pingDue = stale, true
	}
	if wasUnreachable && !p.publishing { // otherwise publish has not yet noticed that the peer was unreachable
		p.publishing = true
		p.relay.goroutines.Go(p.publish)
	}
	p.mu.Unlock()
	if wasUnreachable {
		p.relay.opts.Log.Info("node reachable", "node", p.relay.id, "peer", p.id)
	}
}

// retry publishes again what NATS has refused. It also sends a ping, because the answer shows what
// NATS has lost.
func (p *peer) retry() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.blocked, p.pingDue = false, true
	p.work.Signal()
}

// unacknowledged returns the number of messages without an acknowledgement. done reports whether
// drain need not wait, because the peer has acknowledged every item or is unreachable.
func (p *peer) unacknowledged() (messages int, done bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.outbox.unacknowledged(), !p.state.isReachable() || len(p.outbox.pieces) == 0
}
