package directory

import (
	"maps"
	"slices"

	"github.com/sendq-go/sendq/relay"
)

// A fact is that a node has announced a name, or that the name is arriving there.
type fact struct {
	node, name string
	token      uint64
	arriving   bool
	away       bool
	rooms      []string
}

// A model is a naive Directory: a list of facts, the latest last. It computes each answer from all of
// them.
type model struct {
	facts  []*fact
	nodes  []string // the known ones; the first is this one
	claims []string
}

func (m *model) fact(node, name string) *fact {
	i := slices.IndexFunc(m.facts, func(f *fact) bool { return f.node == node && f.name == name })
	if i < 0 {
		return nil
	}
	return m.facts[i]
}

func (m *model) remove(f func(f *fact) bool) { m.facts = slices.DeleteFunc(m.facts, f) }

func (m *model) isHere(f *fact) bool { return f.node == m.nodes[0] && !f.arriving }

// found returns the fact that counts for a name, or nil: the one of this node, or that with the newest
// token.
func (m *model) found(name string) (found *fact) {
	for _, f := range m.facts {
		if f.name == name && (found == nil || m.isHere(f) || !m.isHere(found) && f.token >= found.token) {
			found = f
		}
	}
	return found
}

// arrival returns the fact that a name is arriving, or nil.
func (m *model) arrival(name string) *fact {
	i := slices.IndexFunc(m.facts, func(f *fact) bool { return f.name == name && f.arriving })
	if i < 0 {
		return nil
	}
	return m.facts[i]
}

func (m *model) apply(node string, e relay.Event) {
	f := m.fact(node, e.Name)
	switch {
	case isPresence(e.Kind):
		if f != nil && !f.arriving {
			f.away = e.Kind == relay.EventAway
		}
		return
	case isRoom(e.Kind) && f != nil && !f.arriving:
		f.rooms = slices.DeleteFunc(f.rooms, func(room string) bool { return room == e.Room })
		if e.Kind == relay.EventRoomJoined {
			f.rooms = append(f.rooms, e.Room)
		}
		return
	case isRoom(e.Kind) || f != nil && f.arriving && f.token > e.Token && node != m.nodes[0]:
		return
	}
	m.remove(func(other *fact) bool { return other == f })
	switch {
	case e.Kind == relay.EventJoined:
		m.remove(func(other *fact) bool { return other.name == e.Name && other.arriving && other.token <= e.Token })
		m.facts = append(m.facts, &fact{node: node, name: e.Name, token: e.Token})
	case e.Kind == relay.EventMoved && f != nil:
		m.move(e, f.rooms)
	}
}

func isRoom(kind relay.EventKind) bool {
	return kind == relay.EventRoomJoined || kind == relay.EventRoomLeft
}

func isPresence(kind relay.EventKind) bool { return kind == relay.EventAway || kind == relay.EventBack }

func (m *model) move(e relay.Event, rooms []string) {
	canArrive := slices.Contains(m.nodes, e.To) && (e.To != m.nodes[0] || slices.Contains(m.claims, e.Name))
	isLate := slices.ContainsFunc(m.facts, func(f *fact) bool { return f.name == e.Name && f.token >= e.Token })
	if canArrive && !isLate {
		m.remove(func(f *fact) bool { return f.name == e.Name && (f.arriving || f.node == e.To) })
		m.facts = append(m.facts, &fact{e.To, e.Name, e.Token, true, false, rooms})
	}
}

// A view is what observers see: the rooms of each name, and isAway.
type view map[string][]string

const isAway = "(away)"

func (m *model) view() view {
	v := make(view)
	for _, f := range m.facts {
		found := m.found(f.name)
		seen := slices.Clone(found.rooms)
		if found.away {
			seen = append(seen, isAway)
		}
		v[f.name] = slices.Sorted(slices.Values(seen))
	}
	return v
}

// members returns the names in a room, or all names.
func (v view) members(t relay.Target) (names []string) {
	for name, rooms := range v {
		if t.Kind == relay.TargetAll || slices.Contains(rooms, t.Name) {
			names = append(names, name)
		}
	}
	return slices.Sorted(slices.Values(names))
}

// nodesOf returns the other nodes with a fact about a room, or about any name.
func (m *model) nodesOf(t relay.Target) []string {
	nodes := make(map[string]bool)
	for _, f := range m.facts {
		if f.node != m.nodes[0] && (t.Kind == relay.TargetAll || slices.Contains(f.rooms, t.Name)) {
			nodes[f.node] = true
		}
	}
	return slices.Sorted(maps.Keys(nodes))
}

// announced returns what a fact announces, in the order of rooms.
func (f *fact) announced() []relay.Event {
	events := []relay.Event{{Kind: relay.EventJoined, Name: f.name, Token: f.token}}
	for _, room := range f.rooms {
		events = append(events, relay.Event{Kind: relay.EventRoomJoined, Name: f.name, Room: room})
	}
	if f.away {
		events = append(events, relay.Event{Kind: relay.EventAway, Name: f.name})
	}
	return events
}
