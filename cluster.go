package sendq

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/sendq-go/sendq/internal/set"
	"github.com/sendq-go/sendq/relay"
)

// A cluster is what a Broker with a Relay knows of the other nodes, as they have told it.
// Broker.mu guards it.
//
// Each node speaks for itself: what one tells changes nothing of what another has told. So
// it does not matter in which order several are heard. A name that is here is found here,
// and else at the node that said last that it has it; after a partition there may be several
// for a while.
type cluster struct {
	transport relay.Transport
	self      string // the name of this node

	// For closeRelay.
	closing atomic.Bool
	bound   context.Context
	cancel  context.CancelCauseFunc
	closed  bool // nothing is learned any more
	err     error
	over    chan struct{} // closed when it is

	peers  map[string]*peer
	names  set.Map[string, *remote] // the last that said that it has the name, and behind it the others
	rooms  set.Map[string, *reach]  // those with members elsewhere
	all    *reach
	hidden int // how many of all.Members() are not the one that is found under the name

	claims set.Map[string, *claim] // of names that are about to be registered here

	// For change.
	changing bool
	told     []relay.Event // for the transport

	changes uint // for letOthers
}

// A peer is another node that has told something.
type peer struct{ name string }

// A remote is a name that another node has, or is about to have.
type remote struct {
	name  string
	at    *peer
	rooms set.Set[*reach]
	older *remote // another node that has the name too

	// moving, if it is not nil, says that at is about to take the name over: from, which had
	// it, has told so, or this node, if from is nil. It is closed when more is known.
	moving chan struct{}
	from   *peer

	// vouched says that this node has told so. It tells again that the name has left it, when
	// at has lost it.
	vouched bool

	// leaving says that the name has been taken over by this node, whose claim is not over.
	leaving bool
}

func newCluster(t relay.Transport) *cluster {
	bound, cancel := context.WithCancelCause(context.Background())
	return &cluster{
		transport: t,
		bound:     bound,
		cancel:    cancel,
		over:      make(chan struct{}),
		peers:     make(map[string]*peer),
		all:       newReach(""),
	}
}

// find returns what is known of the name at p, or nil.
func (c *cluster) find(name string, p *peer) *remote {
	r := c.names.Get(name)
	for r != nil && r.at != p {
		r = r.older
	}
	return r
}

// add notes that p has the name.
func (c *cluster) add(name string, p *peer) *remote {
	r := &remote{name: name, at: p, older: c.names.Get(name)}
	c.names.Put(name, r)
	c.all.add(r)
	return r
}

// drop forgets r. mu is held.
func (b *Broker) drop(r *remote) {
	c := b.cluster
	for r.rooms.Len() > 0 {
		c.leave(r, r.rooms.Members()[r.rooms.Len()-1].room)
	}
	c.all.remove(r)
	if first := c.names.Get(r.name); first != r {
		for first.older != r {
			first = first.older
		}
		first.older = r.older
	} else if r.older != nil {
		c.names.Put(r.name, r.older)
	} else {
		c.names.Remove(r.name)
	}
	if r.moving != nil {
		close(r.moving)
	}
	if r.vouched && b.names.Get(r.name) == nil {
		c.told = append(c.told, relay.Event{Kind: relay.EventLeft, Name: r.name, Cause: ErrTakenOver})
	}
}

// dropMoving forgets what p has told of who is about to take the name over. mu is held.
func (b *Broker) dropMoving(name string, p *peer) {
	for r := b.cluster.names.Get(name); r != nil; r = r.older {
		if r.moving != nil && r.from == p {
			b.drop(r)
		}
	}
}

// join notes that r is a member of the room, and reports whether that is new.
func (c *cluster) join(r *remote, room string) bool {
	g := c.rooms.Get(room)
	if g == nil {
		g = newReach(room)
		c.rooms.Put(room, g)
	}
	if g.Has(r) {
		return false
	}
	g.add(r)
	r.rooms.Add(g)
	return true
}

// leave notes that r is no member of the room, and reports whether that is new.
func (c *cluster) leave(r *remote, room string) bool {
	g := c.rooms.Get(room)
	if g == nil || !g.Has(r) {
		return false
	}
	r.rooms.Remove(g)
	g.remove(r)
	if g.Len() == 0 {
		c.rooms.Remove(room)
	}
	return true
}

// where returns the node that has the name, or what to wait for if that is about to change.
// A nil cluster knows none.
func (c *cluster) where(name string) (node string, wait <-chan struct{}) {
	switch {
	case c == nil || c.names.Get(name) == nil:
		return "", nil
	case c.names.Get(name).leaving:
		return "", c.claims.Get(name).over
	}
	r := c.names.Get(name)
	return r.at.name, r.moving
}

// dropLeaving forgets that other nodes had the name which has been taken over. mu is held.
func (b *Broker) dropLeaving(name string) {
	for r := b.cluster.names.Get(name); r != nil; r = r.older {
		if r.leaving {
			b.drop(r)
		}
	}
}

// closeRelay ends the part in the cluster: nothing is known of other nodes from then on, and
// nobody waits for them. Of several bounds the first counts.
func (b *Broker) closeRelay(ctx context.Context) error {
	c := b.cluster
	if ctx.Err() != nil {
		c.cancel(context.Cause(ctx))
	}
	stop := context.AfterFunc(ctx, func() { c.cancel(context.Cause(ctx)) })
	defer stop()
	if c.closing.Swap(true) {
		<-c.over
		return c.err
	}
	defer close(c.over)
	if err := c.transport.Close(c.bound); err != nil {
		c.err = fmt.Errorf("sendq: closing the Relay: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	c.closed = true
	b.dropAll(ErrClosed, func(*remote) bool { return true })
	for c.claims.Len() > 0 {
		b.handbacks.idle.Wait()
	}
	return c.err
}

// A reach is the members of a room on other nodes, or all names there.
type reach struct {
	room string
	set.Set[*remote]
	count map[*peer]int
	nodes []string // those in count, in the order in which they came; a new slice at each change
}

func newReach(room string) *reach {
	return &reach{room: room, count: make(map[*peer]int)}
}

func (g *reach) add(r *remote) {
	g.Set.Add(r)
	if g.count[r.at]++; g.count[r.at] == 1 {
		g.nodes = append(slices.Clip(g.nodes), r.at.name)
	}
}

func (g *reach) remove(r *remote) {
	g.Set.Remove(r)
	if g.count[r.at]--; g.count[r.at] == 0 {
		delete(g.count, r.at)
		i := slices.Index(g.nodes, r.at.name)
		g.nodes = slices.Concat(g.nodes[:i], g.nodes[i+1:])
	}
}

// reachOf returns who t means on other nodes, or nil if there is none.
func (c *cluster) reachOf(t target) *reach {
	switch {
	case c == nil || t.here:
		return nil
	case t.Kind == relay.TargetRoom:
		return c.rooms.Get(t.Name)
	}
	return c.all
}

// nodesOf returns the nodes to which messages for t must go.
func (c *cluster) nodesOf(t target) []string {
	if g := c.reachOf(t); g != nil {
		return g.nodes
	}
	return nil
}

// has tells whether t means the name on the node that has it.
func (c *cluster) has(t target, name string) bool {
	g := c.reachOf(t)
	return g != nil && g.Has(c.names.Get(name))
}

// away returns those of other nodes that t means and that are found under their names. mu is
// held, here and below where it does not say otherwise.
func (b *Broker) away(t target) (found []*remote) {
	c := b.cluster
	g := c.reachOf(t)
	switch {
	case g == nil:
		return nil
	case c.hidden == 0:
		return g.Snapshot()
	}
	for _, r := range g.Members() {
		if b.isVisible(r) {
			found = append(found, r)
		}
	}
	return found
}

// awayLen returns how many away would return.
func (b *Broker) awayLen(t target) int {
	switch g := b.cluster.reachOf(t); {
	case g == nil:
		return 0
	case g == b.cluster.all:
		return g.Len() - b.cluster.hidden
	case b.cluster.hidden == 0:
		return g.Len()
	}
	return len(b.away(t))
}

func (b *Broker) isVisible(r *remote) bool {
	return b.names.Get(r.name) == nil && b.cluster.names.Get(r.name) == r
}

// hiddenUnder returns how many remotes are not found under the name.
func (b *Broker) hiddenUnder(name string) (n int) {
	for r := b.cluster.names.Get(name); r != nil; r = r.older {
		if !b.isVisible(r) {
			n++
		}
	}
	return n
}

// A node is the side of a Broker that its transport calls.
type node struct{ *Broker }
