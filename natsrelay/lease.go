package natsrelay

import (
	"context"
	"time"
)

// keep renews the lease of this node until the end.
func (g *registry) keep() {
	for {
		wait := g.relay.opts.Lease / 3
		if g.renew() != nil {
			wait = g.relay.opts.tick()
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
func (g *registry) renew() error {
	ctx, cancel := context.WithTimeout(g.relay.ctx, g.relay.opts.Lease/3)
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
			isNew = isNew || holder == "" // otherwise an answer was lost
			written, err = g.bucket.write(ctx, leaseKey(g.relay.id), g.relay.id, revision)
		}
	}
	if err != nil {
		g.bucket.close()
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.lease, g.renewed = written, start
	if !isNew && written > highest {
		g.highest = max(g.highest, written)
		return nil
	}
	g.highest = written
	for name, revision := range g.names {
		if revision != claiming {
			g.names[name] = unknown
			g.work.do(func() { g.verify(name, 0) })
		}
	}
	return nil
}

// isDead tells whether a node has no lease any more: it has left, or was not heard of for as
// long as one lasts. In this case its lease is removed, so that it finds out.
func (g *registry) isDead(ctx context.Context, node string) (bool, error) {
	p := g.relay.peer(node)
	isSilent := g.relay.beats.Load() >= g.relay.enough() // it would have been heard of
	if p != nil {
		isSilent = p.beats.Load() >= g.relay.enough()
		if hasLeft := p.hasLeft(); hasLeft || !isSilent {
			return hasLeft, nil
		}
	}
	holder, revision, err := g.bucket.read(ctx, leaseKey(node))
	switch {
	case err != nil:
		return false, err
	case holder == "":
		return true, nil
	case isSilent:
		return true, g.bucket.remove(ctx, leaseKey(node), revision)
	}
	return false, nil
}

// tidy removes what nodes that have died have left in the bucket. One node does it, and if it
// dies too, those who want such a name find out by themselves.
func (g *registry) tidy() {
	lives := map[string]bool{g.relay.id: true}
	for _, p := range g.relay.others() {
		if p.beats.Load() < g.relay.enough() && !p.hasLeft() {
			lives[p.id] = true
			if p.id < g.relay.id {
				return
			}
		}
	}
	ctx, cancel := context.WithTimeout(g.relay.ctx, time.Minute)
	defer cancel()
	// First the entries and then who is dead: a node that is not after all writes its
	// entries again, and they are at other revisions then.
	left := make(map[string][]entry)
	note := func(e entry) {
		if !lives[e.node] {
			left[e.node] = append(left[e.node], e)
		}
	}
	if g.bucket.list(ctx, "name.*", note) != nil || g.bucket.list(ctx, "node.*", note) != nil {
		return
	}
	for node, entries := range left {
		if isDead, err := g.isDead(ctx, node); err != nil || !isDead {
			continue
		}
		for _, e := range entries {
			g.work.do(func() { _ = g.bucket.remove(g.relay.ctx, e.key, e.revision) })
		}
	}
}
