package natsrelay

import (
	"context"
	"strings"
	"time"
)

// renewLoop renews the lease of this node until the Relay ends.
func (g *registry) renewLoop() {
	isLate := false
	var moved time.Time
	for {
		wait := g.relay.opts.renewInterval()
		start := time.Now()
		err := g.renew(g.relay.ctx)
		hasWaited := time.Since(start) >= g.relay.opts.Lease/4 // the lease may be younger, because a withdrawal renews it too
		switch age := g.leaseAge(); {
		case g.relay.ctx.Err() != nil:
			return
		case err == nil:
			if isLate {
				g.relay.opts.Log.Info("lease renewed again", "node", g.relay.id)
			}
			isLate = false
			g.probe()
		case hasWaited || age > g.relay.opts.Lease/3:
			if !isLate {
				g.relay.opts.Log.Warn("lease not renewed", "node", g.relay.id, "age", age, "error", err)
			}
			isLate = true
			if time.Since(moved) > g.relay.opts.Lease/3 && !isFull(err) { // no other server has more room
				g.relay.opts.Log.Warn("moving to another NATS server", "node", g.relay.id)
				moved = time.Now()
				_ = g.nc.ForceReconnect() // fails only if the Relay is ending
				if g.relay.hearsNobody() {
					g.relay.move()
				}
			}
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

// leaseAge returns the time since the last renewal.
func (g *registry) leaseAge() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return time.Since(g.renewedAt)
}

// probe sends an envelope from the registry's connection to the other one. If it does not arrive, but
// this node's heartbeats do, the server of the other connection is cut off. The registry's is not,
// because it has just renewed the lease.
func (g *registry) probe() {
	g.relay.unprobed.CompareAndSwap(0, 1)
	_ = g.nc.Publish(g.relay.subject("to."+g.relay.id), g.relay.signal(flagProbe))
}

// renew renews the lease, or creates it. If the lease is gone, other nodes have found this one dead
// and may have taken its names, or the bucket is lost. If the new revision is not above all earlier
// ones, part of the bucket is lost. In these cases renew verifies every name.
func (g *registry) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, max(g.relay.opts.Lease/4, time.Second))
	defer cancel()
	start := time.Now()
	g.mu.Lock()
	lease, highest := g.lease, g.highest
	g.mu.Unlock()
	revision := lease
	isNew := lease == 0
	if err := g.bucket.open(ctx, highest); err != nil {
		return err
	}
	written, err := g.bucket.write(ctx, leaseKey(g.relay.id), g.relay.id, revision)
	for isConflict(err) {
		var holder string
		if holder, revision, err = g.bucket.read(ctx, leaseKey(g.relay.id)); err == nil {
			if holder == "" || revision < lease { // otherwise the answer to a write was lost
				isNew = true
				g.clearLease()
			}
			written, err = g.bucket.write(ctx, leaseKey(g.relay.id), g.relay.id, revision)
		}
	}
	if isFull(err) {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.noRoom = err
		return err // the bucket stays open, so names can be released and make room
	}
	if err != nil {
		g.bucket.reset()
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.lease, g.renewedAt, g.noRoom = written, start, nil
	if !isNew && written > highest {
		g.highest = max(g.highest, written)
		return nil
	}
	g.highest = written
	for name, own := range g.names {
		own.revision = unknownRevision
		g.names[name] = own
		g.retryLater(func(ctx context.Context) error { return g.verify(ctx, name, 0, "") })
	}
	return nil
}

// clearLease records that this node has no lease.
func (g *registry) clearLease() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.lease = 0
}

// discover adds a peer for each lease in the bucket. If nothing is ever heard of it, its names
// become free. discover has a goroutine of its own, because nats.go may hold up a list for seconds
// after a lost connection, and the lease must be renewed.
func (g *registry) discover() {
	add := func(e entry) {
		if e.node != g.relay.id {
			g.relay.peerFor(e.node)
		}
	}
	for try := 0; backOff(g.relay.ctx, try) == nil; try++ {
		ctx, cancel := context.WithTimeout(g.relay.ctx, g.relay.opts.attemptTimeout())
		err := g.bucket.list(ctx, leaseKey("*"), add)
		cancel()
		if err == nil {
			return
		}
	}
}

// isDead reports whether a node has left, or is unreachable and has no lease. If it was silent for a
// Lease, isDead first removes its lease, so the node notices if it is alive.
func (g *registry) isDead(ctx context.Context, p *peer) (bool, error) {
	if p.hasLeft() || p.isReachable() && p.isAlive() {
		return p.hasLeft(), nil
	}
	_, revision, err := g.bucket.read(ctx, leaseKey(p.id))
	if err != nil || revision == 0 {
		return err == nil, err
	}
	if p.isAlive() {
		return false, nil
	}
	if err = g.bucket.remove(ctx, leaseKey(p.id), revision); err != nil {
		return false, err
	}
	_, revision, err = g.bucket.read(ctx, leaseKey(p.id)) // it may have been renewed before the removal
	return err == nil && revision == 0, err
}

// sweep removes dead nodes from the front of all entries in the bucket. Only the live node with the lowest id
// does so. If it dies too, the entries stay until another node claims the names.
func (g *registry) sweep() {
	isAlive := map[string]bool{g.relay.id: true}
	for _, p := range g.relay.allPeers() {
		if p.isAlive() {
			isAlive[p.id] = true
			if p.id < g.relay.id {
				return
			}
		}
	}
	ctx, cancel := context.WithTimeout(g.relay.ctx, time.Minute)
	defer cancel()
	// List the entries before checking which nodes are dead. A node that turns out to be alive
	// writes its entries again, at other revisions, and they are not removed.
	orphans := make(map[string][]entry)
	note := func(e entry) {
		if owner, _, _ := strings.Cut(e.node, " "); !isAlive[owner] {
			orphans[owner] = append(orphans[owner], e)
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
		isDead, err := g.isDead(ctx, p)
		for try := 1; err != nil && backOff(ctx, try) == nil; try++ {
			isDead, err = g.isDead(ctx, p)
		}
		if err != nil || !isDead {
			continue
		}
		for _, e := range entries {
			g.retryLater(func(ctx context.Context) error {
				err := g.passOn(ctx, e.key, strings.Fields(e.node)[1:], e.revision)
				if isConflict(err) { // the entry is no longer the dead node's
					return nil
				}
				return err
			})
		}
	}
}
