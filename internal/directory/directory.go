// Package directory holds the names of all nodes of a cluster, and their rooms.
//
// A Directory is state and nothing else: it has no lock, no clock and no goroutine, and calls nobody.
// The same operations always have the same results. It is not safe for concurrent use.
//
// Each node speaks for itself, this node too: its announcements change nothing that other nodes have
// announced. So several nodes may have a name. It is found here if it is here, and otherwise on
// the node with the newest token.
package directory

import (
	"iter"
	"maps"
	"slices"

	"github.com/sendq-go/sendq/internal/set"
	"github.com/sendq-go/sendq/relay"
)

// A Directory holds the announcements of all nodes.
type Directory struct {
	Self string // the name of this node; set before the first operation

	here    *node
	nodes   map[string]*node        // the others
	names   set.Map[string, *entry] // where they are found; next leads to the other nodes
	rooms   set.Map[string, *group] // those with members on any node
	all     *group                  // all names
	none    *group                  // a room without members
	claims  set.Map[string, bool]   // names being claimed by this node
	changes []Change                // of the last operation
}

// New returns an empty Directory.
func New() *Directory {
	return &Directory{here: new(node), nodes: make(map[string]*node), all: newGroup(""), none: newGroup("")}
}

// Where returns the node of the name, which is empty for this node, and the token of the name there.
// It reports whether there is one.
func (d *Directory) Where(name string) (node string, token uint64, ok bool) {
	if e := d.names.Get(name); e != nil {
		return e.node.name, e.token, true
	}
	return "", 0, false
}

// IsAway reports whether the node of the name waits for its peer to come back.
func (d *Directory) IsAway(name string) bool {
	e := d.names.Get(name)
	return e != nil && e.away
}

// Arrival returns the token of the name's arrival at a node, and reports whether the name is arriving.
func (d *Directory) Arrival(name string) (token uint64, ok bool) {
	if e := d.arrival(name); e != nil {
		return e.token, true
	}
	return 0, false
}

// Has reports whether the name is a member of the room.
func (d *Directory) Has(name, room string) bool { return d.names.Get(name).isIn(d.rooms.Get(room)) }

// RoomsOf returns the rooms of the name, in no particular order.
func (d *Directory) RoomsOf(name string) (rooms []string) {
	for _, g := range d.names.Get(name).groups() {
		rooms = append(rooms, g.room)
	}
	return rooms
}

// Members returns the names in a room, or all names, as they are now, in no particular order. The
// Directory may change before they are read.
func (d *Directory) Members(t relay.Target) iter.Seq[string] {
	found := d.group(t).found.Snapshot()
	return func(yield func(string) bool) {
		for _, e := range found {
			if !yield(e.name) {
				return
			}
		}
	}
}

// Len returns the number of Members.
func (d *Directory) Len(t relay.Target) int { return d.group(t).found.Len() }

// NodesOf returns the other nodes with a member of the room, or with any name, including those where
// the name is not found. The slice never changes.
func (d *Directory) NodesOf(t relay.Target) []string { return d.group(t).nodes }

// IsAlone reports whether there are no other nodes.
func (d *Directory) IsAlone() bool { return len(d.nodes) == 0 }

// Nodes returns all other nodes.
func (d *Directory) Nodes() []string { return slices.Sorted(maps.Keys(d.nodes)) }

// Snapshot returns the announcements of the names on this node.
func (d *Directory) Snapshot() (events []relay.Event) {
	for _, e := range d.here.entries.Members() {
		if e.arriving {
			continue
		}
		events = append(events, relay.Event{Kind: relay.EventJoined, Name: e.name, Token: e.token})
		for _, g := range e.rooms.Members() {
			events = append(events, relay.Event{Kind: relay.EventRoomJoined, Name: e.name, Room: g.room})
		}
		if e.away {
			events = append(events, relay.Event{Kind: relay.EventAway, Name: e.name})
		}
	}
	return events
}
