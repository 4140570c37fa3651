package natsrelay

import (
	"context"
	"time"
)

// renewLoop renews the lease of this node until the end.
func (g *registry) renewLoop() {
	hasDiscovered := false
	for {
		wait := g.relay.opts.Lease / 3
		err := g.renew(g.relay.ctx)
		if err == nil && !hasDiscovered {
			err = g.discover()
			hasDiscovered = err == nil
		}
		if err != nil {
			wait = g.relay.opts.tickInterval()
		}
		select {
		case <-time.After(wait):
		case <-g.relay.ctx.Done():
			return
		}
	}
}

// renew renews the lease. If it is not there any more, other nodes have found this one dead and
// may have taken its names, or the bucket is lost with all that was in it; if the revisions
// have gone back, part of it is. Then every name is entered again.
func (g *registry) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, g.relay.opts.Lease)
	defer cancel()
	start := time.Now()
	g.mu.Lock()
	revision, highest := g.lease, g.highest
	g.mu.Unlock()
	isNew := revision == 0
	if err := g.bucket.open(ctx); err != nil {
		return err
	}
	written, err := g.bucket.write(ctx, leaseKey(g.relay.id), g.relay.id, revision)
	for isConflict(err) {
		var holder string
		if holder, revision, err = g.bucket.read(ctx, leaseKey(g.relay.id)); err == nil {
			if holder == "" { // otherwise an answer was lost
				isNew = true
				g.clearLease()
			}
			written, err = g.bucket.write(ctx, leaseKey(g.relay.id), g.relay.id, revision)
		}
	}
	if err != nil {
		g.bucket.reset()
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.lease, g.renewedAt = written, start
	if !isNew && written > highest {
		g.highest = max(g.highest, written)
		return nil
	}
	g.highest = written
	for name, revision := range g.names {
		if revision != claiming {
			g.names[name] = unknownRevision
			g.workers.do(func() { g.verify(name, 0) })
		}
	}
	return nil
}

// clearLease notes that the lease is not there any more, until renew has got a new one.
func (g *registry) clearLease() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.lease = 0
}

// discover looks which nodes were here before, so that those which are never heard of are found
// dead.
func (g *registry) discover() error {
	ctx, cancel := context.WithTimeout(g.relay.ctx, g.relay.opts.Timeout)
	defer cancel()
	return g.bucket.list(ctx, leaseKey("*"), func(e entry) {
		if e.node != g.relay.id {
			g.relay.peerFor(e.node)
		}
	})
}

// isDead tells whether a node has no lease any more: it has left, or was not heard of for as
// long as one lasts, since there was a reason to think that it is there. In this case its
// lease is removed, so that it finds out.
func (g *registry) isDead(ctx context.Context, p *peer) (bool, error) {
	if hasLeft := p.hasLeft(); hasLeft || p.unansweredBeats.Load() < g.relay.leaseBeats() {
		return hasLeft, nil
	}
	_, revision, err := g.bucket.read(ctx, leaseKey(p.id))
	if err == nil {
		err = g.bucket.remove(ctx, leaseKey(p.id), revision)
	}
	return err == nil, err
}

// sweep removes what nodes that have died have left in the bucket. One node does it, and if it
// dies too, those who want such a name find out by themselves.
func (g *registry) sweep() {
	isAlive := map[string]bool{g.relay.id: true}
	for _, p := range g.relay.allPeers() {
		if p.unansweredBeats.Load() < g.relay.leaseBeats() && !p.hasLeft() {
			isAlive[p.id] = true
			if p.id < g.relay.id {
				return
			}
		}
	}
	ctx, cancel := context.WithTimeout(g.relay.ctx, time.Minute)
	defer cancel()
	// First the entries and then who is dead: a node that is not after all writes its
	// entries again, and they are at other revisions then.
	orphans := make(map[string][]entry)
	note := func(e entry) {
		if !isAlive[e.node] {
			orphans[e.node] = append(orphans[e.node], e)
		}
	}
	for try := 0; g.bucket.list(ctx, "name.*", note) != nil || g.bucket.list(ctx, leaseKey("*"), note) != nil; {
		if try++; backOff(ctx, try) != nil {
			return
		}
		clear(orphans)
	}
	for node, entries := range orphans {
		p := g.relay.peerFor(node)
		if p == nil {
			return
		}
		if isDead, err := g.isDead(ctx, p); err != nil || !isDead {
			continue
		}
		for _, e := range entries {
			g.workers.do(func() { _ = g.bucket.remove(g.relay.ctx, e.key, e.revision) })
		}
	}
}
