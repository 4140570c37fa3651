package natsrelay

import (
	"context"
	"strings"
)

// release gives a name up.
func (g *registry) release(name string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if own, exists := g.names[name]; exists {
		delete(g.names, name)
		g.removeLater(name, own.revision)
	}
}

// removeLater removes the entry of a name unless another node has taken the name over. It does not
// wait. The entry has a newer revision than this node knows if another node has passed it on, but
// could not tell this one.
func (g *registry) removeLater(name string, revision uint64) {
	key := nameKey(name)
	if revision == unknownRevision {
		g.withdrawLater(key, true)
		return
	}
	g.retryLater(func(ctx context.Context) error {
		if err := g.bucket.remove(ctx, key, revision); err != nil {
			return err
		}
		return g.withdraw(ctx, key, false)
	})
}

// withdrawLater takes this node out of the front of an entry. It does not wait.
func (g *registry) withdrawLater(key string, isWriting bool) {
	g.retryLater(func(ctx context.Context) error { return g.withdraw(ctx, key, isWriting) })
}

// retryLater calls f until it succeeds or the Relay ends. It does not wait.
func (g *registry) retryLater(f func(ctx context.Context) error) { g.retry(f, 0) }

// retry queues f again after each failure, so no number of them keeps others from a worker.
func (g *registry) retry(f func(ctx context.Context) error, try int) {
	g.workers.do(func() {
		if backOff(g.relay.ctx, try) == nil && f(g.relay.ctx) != nil {
			g.retry(f, try+1)
		}
	})
}

// withdraw takes this node out of the front of an entry, unless this node claims the name again. If
// isWriting is true, an earlier write without an answer may still arrive. It arrives before a
// renewal of the lease has an answer, because writes of one connection are in order. If the
// connection has moved to another server in between, the write may be later still. Then the next
// node that finds the name taken lets this one remove the entry (sendPassed).
func (g *registry) withdraw(ctx context.Context, key string, isWriting bool) error {
	if isWriting {
		if err := g.renew(ctx); err != nil {
			return err
		}
	}
	owners, revision, err := g.readOwners(ctx, key)
	if _, isOwn := g.nameOf(key); err != nil || isOwn || len(owners) == 0 {
		return err
	}
	if owners[0] == g.relay.id {
		return g.passOn(ctx, key, owners[1:], revision)
	}
	if p := g.relay.peer(owners[0]); isWriting && p != nil && p.isReachable() {
		return g.passOn(ctx, key, owners, revision) // at another revision, even a very late write fails
	}
	return nil
}

// passOn makes the first of the nodes that is alive the owner of a name, and tells it. This node
// counts if it has the name. If there is none, passOn removes the entry.
func (g *registry) passOn(ctx context.Context, key string, owners []string, revision uint64) error {
	for ; len(owners) > 0; owners = owners[1:] {
		isSelf := owners[0] == g.relay.id
		p := g.relay.peer(owners[0])
		if _, isHere := g.nameOf(key); isSelf && !isHere || !isSelf && p == nil {
			continue
		}
		if !isSelf {
			if isDead, err := g.isDead(ctx, p); err != nil {
				return err
			} else if isDead {
				continue
			}
		}
		revision, err := g.bucket.write(ctx, key, strings.Join(owners, " "), revision)
		switch {
		case err != nil:
			return err
		case isSelf:
			g.takeBack(key, revision)
		default:
			p.sendPassed(key, revision)
		}
		return nil
	}
	return g.bucket.remove(ctx, key, revision)
}

// sendPassed tells the peer that it is the owner in an entry.
func (p *peer) sendPassed(key string, revision uint64) {
	p.sendItem(appendUint(appendBytes([]byte{itemPassed}, key), revision))
}

// takeBack records that this node is the owner in an entry, as another node has told it. If this node does not have
// the name, it passes the entry on.
func (g *registry) takeBack(key string, revision uint64) {
	if name, exists := g.nameOf(key); exists {
		g.recordRevision(name, revision)
	} else {
		g.withdrawLater(key, false)
	}
}
