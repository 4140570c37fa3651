package directory

import (
	"slices"

	"github.com/sendq-go/sendq/internal/set"
	"github.com/sendq-go/sendq/relay"
)

// A node holds the names of a node.
type node struct {
	name    string // empty for this node
	entries set.Set[*entry]
}

// An entry is a name on a node, or on its way there. It is in one of two states:
//
//	arriving    another node has announced a move of the name to node
//	present     node has announced the name
//
// A present name is dropped if node announces its departure or move, announces it again, or is gone.
// An arriving name is dropped in the same cases, but not by an announcement with an older token. It
// is also dropped if any node announces the name, or a move of it, with a newer token. So a name
// arrives at one node at most, with the newest token of all.
type entry struct {
	name     string
	node     *node
	token    uint64
	arriving bool
	away     bool // its node waits for the peer to come back
	rooms    set.Set[*group]
	next     *entry // the same name on another node
}

// precedes reports whether the name is found at e and not at f.
func (e *entry) precedes(f *entry) bool {
	if e.isHere() != f.isHere() {
		return e.isHere()
	}
	return e.token >= f.token
}

func (e *entry) isHere() bool { return e.node.name == "" && !e.arriving }

// groups returns the rooms of e, and none if e is nil.
func (e *entry) groups() []*group {
	if e == nil {
		return nil
	}
	return e.rooms.Members()
}

func (e *entry) isIn(g *group) bool { return e != nil && e.rooms.Has(g) }

// find returns the entry of a name on a node, or nil.
func (d *Directory) find(name string, n *node) *entry {
	e := d.names.Get(name)
	for e != nil && e.node != n {
		e = e.next
	}
	return e
}

// arrival returns the entry of a name that is arriving, or nil.
func (d *Directory) arrival(name string) *entry {
	e := d.names.Get(name)
	for e != nil && !e.arriving {
		e = e.next
	}
	return e
}

// add adds e, which is in no room yet.
func (d *Directory) add(e *entry) {
	first := d.names.Get(e.name)
	at := &first
	for *at != nil && !e.precedes(*at) {
		at = &(*at).next
	}
	e.next, *at = *at, e
	d.names.Put(e.name, first)
	e.node.entries.Add(e)
	d.all.count(e.node)
}

// drop removes e. If the name was found there, replace must follow.
func (d *Directory) drop(e *entry) {
	first := d.names.Get(e.name)
	at := &first
	for *at != e {
		at = &(*at).next
	}
	*at = e.next
	if first == nil {
		d.names.Remove(e.name)
	} else {
		d.names.Put(e.name, first)
	}
	e.node.entries.Remove(e)
	d.all.uncount(e.node)
	for _, g := range e.rooms.Members() {
		g.uncount(e.node)
		d.forgetIfEmpty(g)
	}
}

// A group holds the members of a room, or all names.
type group struct {
	room   string
	found  set.Set[*entry] // the members, each where the name is found
	counts map[*node]int   // members of each node, wherever the names are found
	nodes  []string        // the other nodes in counts, oldest first; a new slice at each change
}

func newGroup(room string) *group { return &group{room: room, counts: make(map[*node]int)} }

func (g *group) count(n *node) {
	if g.counts[n]++; g.counts[n] == 1 && n.name != "" {
		g.nodes = append(slices.Clip(g.nodes), n.name)
	}
}

func (g *group) uncount(n *node) {
	if g.counts[n]--; g.counts[n] > 0 {
		return
	}
	delete(g.counts, n)
	if i := slices.Index(g.nodes, n.name); i >= 0 {
		g.nodes = slices.Concat(g.nodes[:i], g.nodes[i+1:])
	}
}

// group returns the group of a room, or that of all names.
func (d *Directory) group(t relay.Target) *group {
	if t.Kind == relay.TargetAll {
		return d.all
	}
	if g := d.rooms.Get(t.Name); g != nil {
		return g
	}
	return d.none
}

// join makes e a member of the room, which it is not.
func (d *Directory) join(e *entry, room string) {
	g := d.rooms.Get(room)
	if g == nil {
		g = newGroup(room)
		d.rooms.Put(room, g)
	}
	e.rooms.Add(g)
	g.count(e.node)
	if d.all.found.Has(e) {
		g.found.Add(e)
		d.note(e, relay.Event{Kind: relay.EventRoomJoined, Room: room})
	}
}

// leave ends the membership of e in g.
func (d *Directory) leave(e *entry, g *group) {
	e.rooms.Remove(g)
	g.uncount(e.node)
	if d.all.found.Has(e) {
		g.found.Remove(e)
		d.note(e, relay.Event{Kind: relay.EventRoomLeft, Room: g.room})
	}
	d.forgetIfEmpty(g)
}

// forgetIfEmpty forgets a room without members. A dropped entry is one until replace.
func (d *Directory) forgetIfEmpty(g *group) {
	if len(g.counts) == 0 && g.found.Len() == 0 {
		d.rooms.Remove(g.room)
	}
}
