package sendq

import "slices"

// A reach is the members of a room on other nodes, or all names there.
type reach struct {
	room string
	set[*remote]
	count map[*peer]int
	nodes []string // those in count, in the order in which they came; a new slice at each change
}

func newReach(room string) *reach {
	return &reach{room: room, count: make(map[*peer]int)}
}

func (g *reach) add(r *remote) {
	g.set.add(r)
	if g.count[r.at]++; g.count[r.at] == 1 {
		g.nodes = append(slices.Clip(g.nodes), r.at.name)
	}
}

func (g *reach) remove(r *remote) {
	g.set.remove(r)
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
	case t.kind == toRoom:
		return c.rooms.get(t.name)
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
	return g != nil && g.has(c.names.get(name))
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
		return g.snapshot()
	}
	for _, r := range g.members {
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
		return len(g.members) - b.cluster.hidden
	case b.cluster.hidden == 0:
		return len(g.members)
	}
	return len(b.away(t))
}

func (b *Broker) isVisible(r *remote) bool {
	return b.names.get(r.name) == nil && b.cluster.names.get(r.name) == r
}

// hiddenUnder returns how many remotes are not found under the name.
func (b *Broker) hiddenUnder(name string) (n int) {
	for r := b.cluster.names.get(name); r != nil; r = r.older {
		if !b.isVisible(r) {
			n++
		}
	}
	return n
}
