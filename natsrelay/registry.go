package natsrelay

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/sendq-go/sendq"
)

// A registry says which node has which name. It is a bucket of JetStream's key-value store, with
// an entry for each name, which has the id of its node, and one for each node, which is its
// lease. An entry is only ever changed at a revision that is known: of several nodes that
// try, one wins, and who has lost an entry finds out when it tries to write it.
//
// The bucket is in memory, and may be lost. Each node knows what it has, and enters it again.
type registry struct {
	relay   *Relay
	nc      *nats.Conn // not the one for messages: a flood of them must not cost the lease
	bucket  bucket
	workers workers

	mu        sync.Mutex
	lease     uint64            // its revision; 0: there is none
	renewedAt time.Time         // when the lease was
	highest   uint64            // revision that this node has written
	names     map[string]uint64 // its own, with the revisions of their entries, or one of these:
}

const (
	claiming        = 0 // it is not this node's own yet
	unknownRevision = 1 // of its entry; this is the revision of a lease
)

// claim makes a name this node's own.
func (g *registry) claim(ctx context.Context, name string, takeover bool) (sendq.Estate, error) {
	if err := g.waitReady(ctx); err != nil {
		return sendq.Estate{}, err
	}
	g.mu.Lock()
	g.names[name] = claiming
	g.mu.Unlock()
	e, err := g.acquire(ctx, name, 0, takeover)
	switch {
	case err == nil:
		return e, nil
	case errors.Is(err, sendq.ErrNameTaken):
		g.deleteName(name)
	default: // it may be entered all the same, if an answer was lost
		g.release(name)
	}
	if len(e.Undelivered) > 0 {
		g.relay.node.HandBack(name, e.Undelivered)
	}
	return sendq.Estate{}, err
}

// waitReady waits until this node has a lease and is heard.
func (g *registry) waitReady(ctx context.Context) error {
	for try := 0; ; try++ {
		g.mu.Lock()
		hasLease := g.lease != 0 && time.Since(g.renewedAt) < g.relay.opts.Lease
		g.mu.Unlock()
		if hasLease && !g.relay.isCutOff() {
			return nil
		}
		if err := backOff(ctx, 1+try); err != nil {
			return fmt.Errorf("natsrelay: cannot claim a name without reaching the other nodes: %w", err)
		}
	}
}

// acquire makes the entry of a name this node's, if it has that revision, or none if it is 0. If
// not, it looks whose it is, until that is clear or ctx is done. In the end e has what the
// name has left on other nodes.
func (g *registry) acquire(ctx context.Context, name string, revision uint64, takeover bool) (e sendq.Estate, err error) {
	key := nameKey(name)
	for failed := 0; ; {
		if ctxErr := backOff(ctx, failed); ctxErr != nil {
			if err != nil {
				ctxErr = fmt.Errorf("%w: %w", ctxErr, err)
			}
			return e, fmt.Errorf("natsrelay: claim %q: %w", name, ctxErr)
		}
		var written, at uint64
		var holder string
		if written, err = g.bucket.write(ctx, key, g.relay.id, revision); err == nil {
			g.recordRevision(name, written)
			return e, nil
		}
		if isConflict(err) {
			holder, at, err = g.bucket.read(ctx, key)
		}
		if err == nil && holder != "" && holder != g.relay.id {
			err = g.evictFrom(ctx, holder, name, takeover, &e)
		}
		switch {
		case err == nil:
			revision = at
		case errors.Is(err, sendq.ErrNameTaken), errors.Is(err, sendq.ErrClosed):
			return e, err
		default:
			failed++
		}
	}
}

// evictFrom returns nil if an entry that another node has may be overwritten: that node is
// dead, or has given the name up, and then e gets what it has left.
func (g *registry) evictFrom(ctx context.Context, holder, name string, takeover bool, e *sendq.Estate) error {
	p := g.relay.peerFor(holder)
	if p == nil {
		return context.Cause(g.relay.closing)
	}
	isDead, err := g.isDead(ctx, p)
	switch {
	case err != nil || isDead:
		return err
	case !p.isReachable(): // its names have left, and are free in a moment, unless it comes back
		return fmt.Errorf("%w: %s", ErrNodeLost, holder)
	case !takeover:
		return fmt.Errorf("%w: %q on node %s", sendq.ErrNameTaken, name, holder)
	}
	a, err := p.request(ctx, itemEvict, name, 0)
	if err == nil && !a.found { // it is about to have it, or has just given it away
		err = fmt.Errorf("node %s does not have name %q", holder, name)
	}
	e.Undelivered = append(e.Undelivered, a.messages...)
	e.Rooms = append(e.Rooms, a.rooms...)
	return err
}

// recordRevision notes the revision at which this node has a name; if it does not want it any more, the
// name is free again.
func (g *registry) recordRevision(name string, revision uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.highest = max(g.highest, revision)
	if old, ok := g.names[name]; ok {
		g.names[name] = max(old, revision)
	} else {
		g.removeLater(name, revision)
	}
}

// release makes a name free.
func (g *registry) release(name string) {
	if revision, wasOwn := g.deleteName(name); wasOwn {
		g.removeLater(name, revision)
	}
}

// deleteName makes a name not this node's, and returns the revision of its entry.
func (g *registry) deleteName(name string) (revision uint64, wasOwn bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	revision, wasOwn = g.names[name]
	delete(g.names, name)
	return revision, wasOwn
}

// removeLater removes the entry of a name, if it is still this node's.
func (g *registry) removeLater(name string, revision uint64) {
	g.workers.do(func() {
		ctx := g.relay.ctx
		if revision <= unknownRevision {
			// A write whose answer was lost may be yet to come, but not behind one that is
			// answered: have frees the name then.
			_, _ = g.acquire(ctx, name, 0, false)
			return
		}
		for try := 0; backOff(ctx, try) == nil; try++ {
			if g.bucket.remove(ctx, nameKey(name), revision) == nil {
				return
			}
		}
	})
}

// verifyLater makes sure of a name that another node says it has.
func (g *registry) verifyLater(name string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if revision := g.names[name]; revision != claiming {
		g.workers.do(func() { g.verify(name, revision) })
	}
}

// verify enters a name again, which this node has, or loses it.
func (g *registry) verify(name string, revision uint64) {
	g.mu.Lock()
	had := g.names[name]
	g.mu.Unlock()
	if had == claiming { // or not this node's at all
		return
	}
	if _, err := g.acquire(g.relay.ctx, name, revision, false); !errors.Is(err, sendq.ErrNameTaken) {
		return // it is entered, or all is over
	}
	g.mu.Lock()
	isLost := g.names[name] == had
	if isLost {
		delete(g.names, name)
	}
	g.mu.Unlock()
	if isLost {
		g.relay.node.Lose(name)
	}
}

// close gives up the lease when all names are free. The node is at its end then.
func (g *registry) close(ctx context.Context) error {
	g.mu.Lock()
	for name, revision := range g.names {
		g.removeLater(name, revision)
	}
	clear(g.names)
	g.mu.Unlock()
	err := g.workers.wait(ctx)
	g.relay.cancel(sendq.ErrClosed) // or the lease could be renewed
	if err == nil {
		err = g.removeLease(ctx)
	}
	if err != nil {
		return fmt.Errorf("natsrelay: some names are still taken: %w", err)
	}
	return nil
}

// removeLease gives up the lease. It renews it first, for a renewal may be under way that nobody
// waits for any more: that comes to nothing then, and the revision is known.
func (g *registry) removeLease(ctx context.Context) error {
	for try := 0; ; try++ {
		if err := backOff(ctx, try); err != nil {
			return err
		}
		if g.renew(ctx) == nil && g.bucket.remove(ctx, leaseKey(g.relay.id), g.leaseRevision()) == nil {
			return nil
		}
	}
}

// leaseRevision returns the revision of the lease.
func (g *registry) leaseRevision() uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.lease
}
