package natsrelay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/relay"
)

// A registry maps each name to one node, in a bucket of JetStream's key-value store. The bucket has
// an entry for each name and a lease for each node. Every write names the revision that it
// replaces. So only one of several concurrent writers wins. A node with a lost name notices when
// it writes the entry.
//
// The revision of an entry is the token of the name. The entry holds the id of the owner of the
// name, then the nodes that may still have the name, the last owner first. A takeover goes like
// this:
//
//  1. The new node writes itself to the front of the entry.
//  2. It asks the other nodes for the name, one after another, until one had it. A node that is
//     registering the name answers afterwards. So what several owners have left arrives in order.
//  3. A new node that gives up takes itself out of the entry, and tells the next one. A node
//     without the name does the same.
//
// A node gives a name up only while the asking node is in the entry. So a late request takes the
// name away for nobody.
//
// The bucket is in memory and may be lost. Each node knows its own names and enters them again. If a
// bucket loses only its newest writes and uses their revisions again, tokens do not grow, and a node
// may not know a name until it changes. JetStream does so only if most servers restart at once. Tokens
// do not grow either if a request for a new bucket is so late that another bucket has come and gone.
type registry struct {
	relay   *Relay
	nc      conn // a second connection, so that a flood of messages cannot delay the lease
	bucket  store
	workers workers

	mu        sync.Mutex
	lease     uint64             // revision of this node's lease; 0 if it has none
	renewedAt time.Time          // when the lease was renewed last
	noRoom    error              // JetStream was full at the last renewal; nil if it was not
	highest   uint64             // highest revision that this node has written or heard of
	names     map[string]holding // names that this node has or claims
	evictions []*eviction        // under way on this node
}

// A holding is a name that this node has or claims.
type holding struct {
	revision uint64 // of the entry, or unknownRevision
	claiming bool   // the claim has not ended
}

// unknownRevision stands for a revision that is not known. The first revision of a bucket is much
// higher.
const unknownRevision = 1

// claim acquires a name for this node.
func (g *registry) claim(ctx context.Context, name string, takeover bool) (token uint64, h relay.Handover, err error) {
	if err := g.waitReady(ctx); err != nil {
		return 0, h, err
	}
	g.mu.Lock()
	g.names[name] = holding{unknownRevision, true}
	g.mu.Unlock()
	for try := 0; ; try++ {
		if ctxErr := backOff(ctx, try); ctxErr != nil {
			err = claimError(name, ctxErr, err)
			break
		}
		newest, before, acquired := g.acquire(ctx, name, 0, takeover)
		token, err = max(token, newest), acquired
		if err == nil {
			h, err = g.collect(ctx, name, token, before)
		}
		if !errors.Is(err, errNotInForce) {
			break
		}
	}
	g.endClaim(name, err == nil)
	isRefused := (errors.Is(err, sendq.ErrNameTaken) || isFull(err)) && ctx.Err() == nil // it may be the cause of ctx
	if err != nil && (!isRefused || token != 0) {
		g.withdrawLater(nameKey(name), token == 0) // without a token, a write may have lost its answer
	}
	return token, h, err
}

// endClaim records whether a claim has succeeded.
func (g *registry) endClaim(name string, isOwner bool) {
	g.mu.Lock()
	own, exists := g.names[name] // unless Close was called
	own.claiming = false
	switch {
	case exists && isOwner:
		g.names[name] = own
	default:
		delete(g.names, name)
	}
	g.mu.Unlock()
	if isOwner && own.revision == unknownRevision { // the lease was lost during the claim
		g.verifyLater(name, "")
	}
}

// waitReady waits until this node has a lease and can reach NATS.
func (g *registry) waitReady(ctx context.Context) error {
	for try := 0; ; try++ {
		g.mu.Lock()
		hasLease := g.lease != 0 && time.Since(g.renewedAt) < g.relay.opts.Lease
		noRoom := g.noRoom
		g.mu.Unlock()
		switch {
		case hasLease && !g.relay.isCutOff():
			return nil
		case !hasLease && noRoom != nil:
			return failed(noRoom, "cannot claim a name without a lease")
		}
		if err := backOff(ctx, 1+try); err != nil {
			return fmt.Errorf("natsrelay: cannot claim a name without reaching the other nodes: %w", err)
		}
	}
}

// acquire writes this node into the entry of a name at the given revision; 0 means no entry. If the
// entry is at another revision, acquire tries again at that one. It fails if a live node owns the
// name and takeover is false, if JetStream is full, or if ctx is done. It returns the nodes that may still have the name.
func (g *registry) acquire(ctx context.Context, name string, revision uint64, takeover bool) (token uint64, before []string, err error) {
	key := nameKey(name)
	for failures := 0; ; {
		if ctxErr := backOff(ctx, failures); ctxErr != nil {
			return 0, nil, claimError(name, ctxErr, err)
		}
		owners := append([]string{g.relay.id}, before...)
		if token, err = g.bucket.write(ctx, key, strings.Join(owners, " "), revision); err == nil {
			g.recordRevision(name, token)
			return token, before, nil
		}
		if isConflict(err) {
			before, revision, err = g.readBefore(ctx, name, takeover)
		}
		switch {
		case err == nil:
		case errors.Is(err, sendq.ErrNameTaken), errors.Is(err, sendq.ErrClosed):
			return 0, nil, err
		case isFull(err) && failures == 0:
			return 0, nil, failed(err, "claim %q", name)
		default:
			failures++
		}
	}
}

// readOwners returns the nodes in an entry, and its revision.
func (g *registry) readOwners(ctx context.Context, key string) (owners []string, revision uint64, err error) {
	value, revision, err := g.bucket.read(ctx, key)
	return strings.Fields(value), revision, err
}

// readBefore returns the other nodes that may still have a name, and the revision of its entry. It
// fails if this node cannot become the owner.
func (g *registry) readBefore(ctx context.Context, name string, takeover bool) (before []string, revision uint64, err error) {
	owners, revision, err := g.readOwners(ctx, nameKey(name))
	if err != nil {
		return nil, 0, err
	}
	for i, node := range owners {
		if node == g.relay.id {
			continue
		}
		p := g.relay.peerFor(node)
		if p == nil {
			return nil, 0, context.Cause(g.relay.closing)
		}
		isDead, err := g.isDead(ctx, p)
		switch {
		case err != nil:
			return nil, 0, err
		case isDead:
		case !p.isReachable(): // its names are about to be free, unless it comes back
			return nil, 0, fmt.Errorf("%w: %s", ErrNodeLost, node)
		case i == 0 && !takeover:
			p.sendPassed(nameKey(name), revision) // if it does not have the name, it removes the entry
			return nil, 0, &takenError{name, owners}
		default:
			before = append(before, node)
		}
	}
	return before[:min(len(before), maxBefore)], revision, nil
}

// maxBefore limits the nodes in an entry after the first one.
const maxBefore = 7

// A takenError indicates that another node owns a name.
type takenError struct {
	name   string
	owners []string
}

func (e *takenError) Error() string {
	return fmt.Sprintf("%v: %q on node %s", sendq.ErrNameTaken, e.name, e.owners[0])
}

func (e *takenError) Unwrap() error { return sendq.ErrNameTaken }

// collect takes a name away from other nodes, one after another, until one had it.
func (g *registry) collect(ctx context.Context, name string, token uint64, nodes []string) (h relay.Handover, err error) {
	for _, node := range nodes {
		found := false
		if h, found, err = g.evictFrom(ctx, node, name, token); found || err != nil {
			return h, err
		}
	}
	return h, nil
}

// evictFrom takes a name away from another node. found is false if the node does not have the name
// or is dead.
func (g *registry) evictFrom(ctx context.Context, node, name string, token uint64) (h relay.Handover, found bool, err error) {
	for failures := 0; ; failures++ {
		if ctxErr := backOff(ctx, failures); ctxErr != nil {
			return h, false, claimError(name, ctxErr, err)
		}
		p := g.relay.peerFor(node)
		if p == nil {
			return h, false, context.Cause(g.relay.closing)
		}
		var a response
		if a, err = p.request(ctx, itemEvict, name, token); err == nil {
			if a.refused {
				err = errNotInForce
			}
			return a.handover(), a.found, err
		}
		if isDead, deadErr := g.isDead(ctx, p); deadErr == nil && isDead {
			return h, false, nil
		}
	}
}

// claimError returns the error of a claim whose context is done. last is the error of the last attempt,
// or nil.
func claimError(name string, ctxErr, last error) error {
	if last != nil {
		ctxErr = fmt.Errorf("%w: %w", ctxErr, last)
	}
	return failed(ctxErr, "claim %q", name)
}

// errNotInForce indicates that the entry of a name no longer has this node.
var errNotInForce = errors.New("natsrelay: the name was given to another node")

// recordRevision records the revision of a name's entry, which this node has written. If this node
// has released the name, it withdraws the entry.
func (g *registry) recordRevision(name string, revision uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.highest = max(g.highest, revision)
	own, exists := g.names[name]
	if !exists {
		g.withdrawLater(nameKey(name), false)
		return
	}
	own.revision = max(own.revision, revision)
	g.names[name] = own
	g.cancelEvictions(name, revision)
}

// hear learns the token of a grant to another node. If this node then creates a new bucket, its
// revisions begin above that token.
func (g *registry) hear(token uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.highest = max(g.highest, token)
}

// nameOf returns the name with that key, if this node has or claims it.
func (g *registry) nameOf(key string) (name string, exists bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if name, ok := decodeKey(key); ok {
		_, exists = g.names[name]
		return name, exists
	}
	for name := range g.names {
		if len(name) > maxPlain && nameKey(name) == key {
			return name, true
		}
	}
	return "", false
}

// verifyLater verifies a name that another node, the rival, has announced. It does not wait.
func (g *registry) verifyLater(name, rival string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if own, exists := g.names[name]; exists && !own.claiming {
		g.retryLater(func(ctx context.Context) error { return g.verify(ctx, name, own.revision, rival) })
	}
}

// verify writes the entry of a name again, if this node has the name, or finds the name lost. While
// another node takes the name over from this one, it is not lost before that node announces it. If
// verify returns an error, neither is known yet.
func (g *registry) verify(ctx context.Context, name string, revision uint64, rival string) error {
	g.mu.Lock()
	had, exists := g.names[name]
	g.mu.Unlock()
	if !exists || had.claiming {
		return nil
	}
	bounded, cancel := g.relay.bound(ctx)
	defer cancel()
	_, _, err := g.acquire(bounded, name, revision, false)
	taken, ok := errors.AsType[*takenError](err)
	switch {
	case !ok:
		return err
	case slices.Contains(taken.owners, g.relay.id) && taken.owners[0] != rival:
		return nil // the name is moving
	}
	g.mu.Lock()
	isLost := g.names[name] == had
	if isLost {
		delete(g.names, name)
	}
	g.mu.Unlock()
	if !isLost { // the lease was lost in the meantime, or the name was released
		return g.verify(ctx, name, 0, rival)
	}
	g.relay.opts.Log.Warn("name lost to another node", "node", g.relay.id, "name", name)
	g.relay.node.NameLost(name)
	return nil
}

// close gives up all names and then the lease.
func (g *registry) close(ctx context.Context) error {
	g.mu.Lock()
	for name, own := range g.names {
		if own.claiming {
			own.revision = unknownRevision // other nodes may still have the name
		}
		g.removeLater(name, own.revision)
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
