package sendq

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/sendq-go/sendq/internal/set"
	"github.com/sendq-go/sendq/relay"
)

// A cluster holds what a Broker with a transport knows about other nodes. Broker.mu guards it.
//
// Each node speaks for itself: its announcements change nothing that others have announced, so
// the order of several nodes does not matter. A name is found here if it is here, and otherwise
// on the last node to announce it. After a partition several nodes may have a name for a while.
type cluster struct {
	transport relay.Transport
	self      string // the name of this node

	nodes    map[string]*remoteNode
	names    set.Map[string, *remoteName]  // the last to announce the name; next leads to the others
	rooms    set.Map[string, *remoteGroup] // those with members on other nodes
	all      *remoteGroup
	shadowed int // members of all that isVisible rejects

	// For Broker.change.
	changing bool
	outgoing []relay.Event // to be announced

	changes uint           // for Broker.yield
	claims  sync.WaitGroup // calls of Transport.Claim; none begins once the Broker is closed

	// For Broker.closeTransport.
	closing atomic.Bool
	bound   context.Context
	cancel  context.CancelCauseFunc
	closed  bool // nothing is learned any longer
	err     error
	done    chan struct{} // closed when the transport is closed
}

func newCluster(t relay.Transport) *cluster {
	bound, cancel := context.WithCancelCause(context.Background())
	return &cluster{
		transport: t,
		nodes:     make(map[string]*remoteNode),
		all:       newRemoteGroup(""),
		bound:     bound,
		cancel:    cancel,
		done:      make(chan struct{}),
	}
}

// A remoteNode is another node. If it goes and comes back, it is a new one.
type remoteNode struct{ name string }

// A remoteName is a name on another node. Its state only moves down this list:
//
//	arriving    origin has announced that the name moves to node
//	present     node has announced the name
//	departing   node has announced that the name moves to this node, and a claim is under way
//
// It begins at arriving or present, may skip present, and is dropped from any state:
//
//   - if node announces the name again; a new remoteName takes its place
//   - if node announces that the name has left or moves to a third node
//   - if the claim of a departing name ends
//   - if node is gone, or the origin of an arriving name
//
// Messages to an arriving or departing name wait until it is dropped.
type remoteName struct {
	name  string
	node  *remoteNode
	state remoteState
	rooms set.Set[*remoteGroup]
	next  *remoteName // the same name on another node

	settled chan struct{} // closed when it is dropped; nil if it was always present
	origin  *remoteNode   // of an arriving name; nil if the origin is this node

	// announced is true if this node has announced the move to node. When the name leaves
	// node, this node announces once more that it has left.
	announced bool
}

type remoteState uint8

const (
	arriving remoteState = iota
	present
	departing
)

// find returns the name on that node, or nil.
func (c *cluster) find(name string, node *remoteNode) *remoteName {
	r := c.names.Get(name)
	for r != nil && r.node != node {
		r = r.next
	}
	return r
}

// add adds a name on a node, before the same name on others.
func (c *cluster) add(name string, node *remoteNode, s remoteState) *remoteName {
	r := &remoteName{name: name, node: node, state: s, next: c.names.Get(name)}
	if s == arriving {
		r.settled = make(chan struct{})
	}
	c.names.Put(name, r)
	c.all.add(r)
	return r
}

// depart notes that the name moves to this node.
func (r *remoteName) depart() {
	r.state, r.origin = departing, nil
	if r.settled == nil {
		r.settled = make(chan struct{})
	}
}

// drop removes r. mu is held.
func (b *Broker) drop(r *remoteName) {
	c := b.cluster
	for r.rooms.Len() > 0 {
		c.leave(r, r.rooms.Members()[r.rooms.Len()-1].room)
	}
	c.all.remove(r)
	if first := c.names.Get(r.name); first != r {
		for first.next != r {
			first = first.next
		}
		first.next = r.next
	} else if r.next != nil {
		c.names.Put(r.name, r.next)
	} else {
		c.names.Remove(r.name)
	}
	if r.settled != nil {
		close(r.settled)
	}
	if r.announced && b.names.Get(r.name) == nil {
		c.outgoing = append(c.outgoing, relay.Event{Kind: relay.EventLeft, Name: r.name, Cause: ErrTakenOver})
	}
}

// dropIf drops the name on nodes where f returns true. mu is held.
func (b *Broker) dropIf(name string, f func(*remoteName) bool) {
	for r := b.cluster.names.Get(name); r != nil; r = r.next {
		if f(r) {
			b.drop(r)
		}
	}
}

// dropArriving drops the name on its way to other nodes, if node has announced that. mu is held.
func (b *Broker) dropArriving(name string, node *remoteNode) {
	b.dropIf(name, func(r *remoteName) bool { return r.origin == node })
}

// dropDeparting drops the name on the nodes it was taken over from. mu is held.
func (b *Broker) dropDeparting(name string) {
	b.dropIf(name, func(r *remoteName) bool { return r.state == departing })
}

// join makes r a member of the room, and reports whether it was none.
func (c *cluster) join(r *remoteName, room string) bool {
	g := c.rooms.Get(room)
	if g == nil {
		g = newRemoteGroup(room)
		c.rooms.Put(room, g)
	}
	if g.Has(r) {
		return false
	}
	g.add(r)
	r.rooms.Add(g)
	return true
}

// leave ends the membership of r in the room, and reports whether there was one.
func (c *cluster) leave(r *remoteName, room string) bool {
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

// where returns the node that has the name, or a channel to wait for if the name is moving. A
// nil cluster knows no names.
func (c *cluster) where(name string) (node string, wait <-chan struct{}) {
	if c == nil {
		return "", nil
	}
	switch r := c.names.Get(name); {
	case r == nil:
		return "", nil
	case r.state == present:
		return r.node.name, nil
	default:
		return "", r.settled
	}
}

// closeTransport leaves the cluster. Afterwards no other node is known, and nobody waits for one.
// If there are several calls, the earliest end of a ctx counts.
func (b *Broker) closeTransport(ctx context.Context) error {
	c := b.cluster
	if ctx.Err() != nil {
		c.cancel(contextCause(ctx))
	}
	stop := context.AfterFunc(ctx, func() { c.cancel(contextCause(ctx)) })
	defer stop()
	if c.closing.Swap(true) {
		<-c.done
		return c.err
	}
	defer close(c.done)
	if err := c.transport.Close(c.bound); err != nil {
		c.err = failed(err, "closing the Relay")
	}
	c.claims.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	c.closed = true
	b.dropAll(ErrClosed, func(*remoteName) bool { return true })
	return c.err
}

// A remoteGroup holds the members of a room on other nodes, or all names there.
type remoteGroup struct {
	room string
	set.Set[*remoteName]
	count map[*remoteNode]int
	nodes []string // the names of the nodes, oldest first; a new slice at each change
}

func newRemoteGroup(room string) *remoteGroup {
	return &remoteGroup{room: room, count: make(map[*remoteNode]int)}
}

func (g *remoteGroup) add(r *remoteName) {
	g.Set.Add(r)
	if g.count[r.node]++; g.count[r.node] == 1 {
		g.nodes = append(slices.Clip(g.nodes), r.node.name)
	}
}

func (g *remoteGroup) remove(r *remoteName) {
	g.Set.Remove(r)
	if g.count[r.node]--; g.count[r.node] == 0 {
		delete(g.count, r.node)
		i := slices.Index(g.nodes, r.node.name)
		g.nodes = slices.Concat(g.nodes[:i], g.nodes[i+1:])
	}
}

// group returns the recipients of t on other nodes, or nil if there are none.
func (c *cluster) group(t target) *remoteGroup {
	switch {
	case c == nil || t.here:
		return nil
	case t.Kind == relay.TargetRoom:
		return c.rooms.Get(t.Name)
	}
	return c.all
}

// nodesOf returns the nodes that have recipients of t.
func (c *cluster) nodesOf(t target) []string {
	if g := c.group(t); g != nil {
		return g.nodes
	}
	return nil
}

// has reports whether t includes the name on the node where it is found.
func (c *cluster) has(t target, name string) bool {
	g := c.group(t)
	return g != nil && g.Has(c.names.Get(name))
}

// remotes returns the visible recipients of t on other nodes. mu is held, here and below.
func (b *Broker) remotes(t target) (found []*remoteName) {
	g := b.cluster.group(t)
	switch {
	case g == nil:
		return nil
	case b.cluster.shadowed == 0:
		return g.Snapshot()
	}
	for _, r := range g.Members() {
		if b.isVisible(r) {
			found = append(found, r)
		}
	}
	return found
}

// remotesLen returns the length of remotes(t).
func (b *Broker) remotesLen(t target) int {
	c := b.cluster
	switch g := c.group(t); {
	case g == nil:
		return 0
	case g == c.all:
		return g.Len() - c.shadowed
	case c.shadowed == 0:
		return g.Len()
	}
	return len(b.remotes(t))
}

// isVisible reports whether the name is found on that node.
func (b *Broker) isVisible(r *remoteName) bool {
	return b.names.Get(r.name) == nil && b.cluster.names.Get(r.name) == r
}

// shadowedUnder returns how many nodes have the name without being where it is found.
func (b *Broker) shadowedUnder(name string) (n int) {
	for r := b.cluster.names.Get(name); r != nil; r = r.next {
		if !b.isVisible(r) {
			n++
		}
	}
	return n
}
