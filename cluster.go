package sendq

import (
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sendq-go/sendq/internal/set"
	"github.com/sendq-go/sendq/relay"
)

// A cluster holds what a Broker with a transport knows about other nodes. Broker.mu guards it.
//
// Each node speaks for itself: its announcements change nothing that others have announced, so
// the order of several nodes does not matter. A name is found here if it is here, and otherwise
// where it has the newest token. After a partition several nodes may have a name for a while.
type cluster struct {
	transport relay.Transport
	self      string // the name of this node

	nodes    map[string]*remoteNode
	here     *remoteNode                   // this node; names arrive here during a claim
	names    set.Map[string, *remoteName]  // those with the newest token; next leads to the others
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
		here:      new(remoteNode),
		all:       newRemoteGroup(""),
		bound:     bound,
		cancel:    cancel,
		done:      make(chan struct{}),
	}
}

// A remoteNode is another node. If it goes and comes back, it is a new one.
type remoteNode struct{ name string }

// A remoteName is a name on another node, or on its way to a node. It is in one of two states:
//
//	arriving    another node, or this one, has announced that the name moves to node
//	present     node has announced the name
//
// A present name is dropped if node announces that it has left or moved, if node announces it
// again, or if node is gone. An arriving name is dropped in the same cases unless the announcement
// has an older token, and also if any node announces the name with a newer token, or after
// maxMove. So no name arrives for ever, in whatever order the announcements of several nodes
// come.
type remoteName struct {
	name  string
	node  *remoteNode
	token uint64
	rooms set.Set[*remoteGroup]
	next  *remoteName // the same name on another node, with an older token

	// Of an arriving name; nil if it is present.
	settled chan struct{} // closed when it is dropped; messages to the name wait for that
	expiry  *time.Timer
}

func (r *remoteName) isArriving() bool { return r.settled != nil }

// find returns the name on that node, or nil.
func (c *cluster) find(name string, node *remoteNode) *remoteName {
	r := c.names.Get(name)
	for r != nil && r.node != node {
		r = r.next
	}
	return r
}

// add adds a name on a node, before those with older tokens.
func (c *cluster) add(name string, node *remoteNode, token uint64) *remoteName {
	r := &remoteName{name: name, node: node, token: token}
	if first := c.names.Get(name); first == nil || first.token <= token {
		r.next = first
		c.names.Put(name, r)
	} else {
		for first.next != nil && first.next.token > token {
			first = first.next
		}
		first.next, r.next = r, first.next
	}
	c.all.add(r)
	return r
}

// drop removes r.
func (c *cluster) drop(r *remoteName) {
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
	if r.isArriving() {
		close(r.settled)
		r.expiry.Stop()
	}
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
	case r.isArriving():
		return "", r.settled
	default:
		return r.node.name, nil
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
	nodes []string // the names of other nodes, oldest first; a new slice at each change
}

func newRemoteGroup(room string) *remoteGroup {
	return &remoteGroup{room: room, count: make(map[*remoteNode]int)}
}

func (g *remoteGroup) add(r *remoteName) {
	g.Set.Add(r)
	if r.node.name == "" { // this node
		return
	}
	if g.count[r.node]++; g.count[r.node] == 1 {
		g.nodes = append(slices.Clip(g.nodes), r.node.name)
	}
}

func (g *remoteGroup) remove(r *remoteName) {
	g.Set.Remove(r)
	if r.node.name == "" {
		return
	}
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

// allNodes returns the other nodes.
func (c *cluster) allNodes() []string { return slices.Sorted(maps.Keys(c.nodes)) }

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
