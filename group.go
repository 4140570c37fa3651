package sendq

import (
	"slices"
	"sync"
)

// A group is whom a message fans out to: the members of a room, or all of a Broker.
type group struct {
	room string // the room's name

	// order is held by whoever publishes to the group, so that all members get
	// its messages in one same order. It is taken before Broker.mu. It guards the
	// log and what is kept of it.
	order sync.Mutex
	log   log
	kept  history

	// Guarded by Broker.mu.
	members []*named
	index   map[*named]int // where in members
	frozen  bool           // somebody reads members: change a copy
	users   int            // who publish, or are about to
}

func newGroup(room string) *group { return &group{room: room, index: make(map[*named]int)} }

// snapshot returns the members, which nobody will change. It copies nothing: the next
// change does, once, however many snapshots were taken and changes follow.
func (g *group) snapshot() []*named {
	g.frozen = true
	return g.members
}

func (g *group) thaw() {
	if g.frozen {
		g.members = slices.Clone(g.members)
		g.frozen = false
	}
}

func (g *group) has(n *named) bool {
	_, ok := g.index[n]
	return ok
}

func (g *group) add(n *named) {
	g.thaw()
	g.index[n] = len(g.members)
	g.members = append(g.members, n)
}

func (g *group) remove(n *named) {
	g.thaw()
	i, last := g.index[n], len(g.members)-1
	delete(g.index, n)
	if i < last {
		g.members[i] = g.members[last]
		g.index[g.members[i]] = i
	}
	g.members[last] = nil
	g.members = g.members[:last]
}
