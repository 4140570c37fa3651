package natsrelay

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/relay"
)

// A registry maps each name to one node, in a bucket of JetStream's key-value store. The bucket has
// an entry for each name and a lease for each node; the values are node ids. Every write names the
// revision that it replaces. So only one of several concurrent writers wins. A node with a lost
// name notices when it writes the entry.
//
// The bucket is in memory and may be lost. Each node knows its own names and enters them again.
type registry struct {
	relay   *Relay
	nc      *nats.Conn // a second connection, so that a flood of messages cannot delay the lease
	bucket  store
	workers workers

	mu        sync.Mutex
	lease     uint64            // revision of this node's lease; 0 if it has none
	renewedAt time.Time         // when the lease was renewed last
	highest   uint64            // highest revision that this node has written
	names     map[string]uint64 // names of this node, with the revisions of their entries or one of:
}

const (
	claiming = 0 // the entry is not written yet

	// unknownRevision stands for a revision that is not known. No entry of a name has revision 1,
	// because the first entry of a bucket is a lease.
	unknownRevision = 1
)

// claim acquires a name for this node.
func (g *registry) claim(ctx context.Context, name string, takeover bool) (relay.Handover, error) {
	if err := g.waitReady(ctx); err != nil {
		return relay.Handover{}, err
	}
	g.mu.Lock()
	g.names[name] = claiming
	g.mu.Unlock()
	h, err := g.acquire(ctx, name, 0, takeover)
	switch {
	case err == nil:
		return h, nil
	case errors.Is(err, sendq.ErrNameTaken) && ctx.Err() == nil: // otherwise it may be the cause of ctx
		g.deleteName(name)
	default: // the entry may have been written, if an answer was lost
		g.release(name)
	}
	if len(h.Undelivered) > 0 {
		g.relay.node.HandBack(name, h.Undelivered)
	}
	return relay.Handover{}, err
}

// waitReady waits until this node has a lease and can reach NATS.
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

// acquire writes this node into the entry of a name at the given revision; 0 means no entry. If the
// entry is at another revision, acquire tries again at that one, once the node in it is dead or has
// given the name up. It fails if that node keeps the name, or ctx is done. The Handover holds
// whatever the name brings from other nodes, also if acquire fails.
func (g *registry) acquire(ctx context.Context, name string, revision uint64, takeover bool) (h relay.Handover, err error) {
	key := nameKey(name)
	for failures := 0; ; {
		if ctxErr := backOff(ctx, failures); ctxErr != nil {
			if err != nil {
				ctxErr = fmt.Errorf("%w: %w", ctxErr, err)
			}
			return h, failed(ctxErr, "claim %q", name)
		}
		var written, at uint64
		var holder string
		if written, err = g.bucket.write(ctx, key, g.relay.id, revision); err == nil {
			g.recordRevision(name, written)
			return h, nil
		}
		if isConflict(err) {
			holder, at, err = g.bucket.read(ctx, key)
		}
		if err == nil && holder != "" && holder != g.relay.id {
			err = g.evictFrom(ctx, holder, name, takeover, &h)
		}
		switch {
		case err == nil:
			revision = at
		case errors.Is(err, sendq.ErrNameTaken), errors.Is(err, sendq.ErrClosed):
			return h, err
		default:
			failures++
		}
	}
}

// evictFrom returns nil if this node may overwrite the holder's entry of a name, because the holder
// is dead or has given the name up. In the second case it adds what the name brings from there to h.
func (g *registry) evictFrom(ctx context.Context, holder, name string, takeover bool, h *relay.Handover) error {
	p := g.relay.peerFor(holder)
	if p == nil {
		return context.Cause(g.relay.closing)
	}
	isDead, err := g.isDead(ctx, p)
	switch {
	case err != nil || isDead:
		return err
	case !p.isReachable(): // its names are about to be free, unless it comes back
		return fmt.Errorf("%w: %s", ErrNodeLost, holder)
	case !takeover:
		return fmt.Errorf("%w: %q on node %s", sendq.ErrNameTaken, name, holder)
	}
	a, err := p.request(ctx, itemEvict, name, 0)
	if err == nil && !a.found { // it is about to acquire the name, or has just given it up
		err = fmt.Errorf("node %s does not have name %q", holder, name)
	}
	h.Undelivered = append(h.Undelivered, a.messages...)
	h.Rooms = append(h.Rooms, a.rooms...)
	return err
}

// recordRevision records the revision of a name's entry. If this node has released the name, it
// removes the entry.
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

// release gives a name up.
func (g *registry) release(name string) {
	if revision, wasOwn := g.deleteName(name); wasOwn {
		g.removeLater(name, revision)
	}
}

// deleteName removes a name from this node's names, and returns the revision of its entry.
func (g *registry) deleteName(name string) (revision uint64, wasOwn bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	revision, wasOwn = g.names[name]
	delete(g.names, name)
	return revision, wasOwn
}

// removeLater removes the entry of a name unless it has changed. It does not wait.
func (g *registry) removeLater(name string, revision uint64) {
	g.workers.do(func() {
		ctx := g.relay.ctx
		if revision <= unknownRevision {
			// An earlier write without an answer may still arrive, but not after one with
			// an answer. After such a write, recordRevision removes the entry.
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

// verifyLater verifies a name that another node has announced. It does not wait.
func (g *registry) verifyLater(name string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if revision := g.names[name]; revision != claiming {
		g.workers.do(func() { g.verify(name, revision) })
	}
}

// verify writes the entry of a name again, if this node has the name, or finds the name lost.
func (g *registry) verify(name string, revision uint64) {
	g.mu.Lock()
	had := g.names[name]
	g.mu.Unlock()
	if had == claiming { // or this node does not have the name
		return
	}
	if _, err := g.acquire(g.relay.ctx, name, revision, false); !errors.Is(err, sendq.ErrNameTaken) {
		return // the entry is written, or the Relay is ending
	}
	g.mu.Lock()
	isLost := g.names[name] == had
	if isLost {
		delete(g.names, name)
	}
	g.mu.Unlock()
	if isLost {
		g.relay.node.NameLost(name)
	}
}

// close gives up all names and then the lease.
func (g *registry) close(ctx context.Context) error {
	g.mu.Lock()
	for name, revision := range g.names {
		g.removeLater(name, revision)
	}
	clear(g.names)
	g.mu.Unlock()
	err := g.workers.wait(ctx)
	g.relay.cancel(sendq.ErrClosed) // so that renewLoop ends
	if err == nil {
		err = g.removeLease(ctx)
	}
	if err != nil {
		return failed(err, "some names are still taken")
	}
	return nil
}

// removeLease removes the lease. It renews the lease first, because an earlier renewal without an
// answer may still arrive. That one fails afterwards, and the revision is known.
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
