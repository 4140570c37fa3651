package sendq

import (
	"bytes"
	"slices"
	"sync"
)

// A group is whom a message fans out to: the members of a room, or all of a Broker.
type group struct {
	room string // the room's name

	// order is held by whoever publishes to the group, so that all members get
	// its messages in one same order. It is taken before Broker.mu.
	order sync.Mutex

	// Guarded by Broker.mu.
	members    []*member
	index      map[*member]int // where in members
	frozen     bool            // somebody reads members: change a copy
	publishing bool            // order is held
}

func newGroup(room string) *group { return &group{room: room, index: make(map[*member]int)} }

// snapshot returns the members, which nobody will change. It copies nothing: the next
// change does, once, however many snapshots were taken and changes follow.
func (g *group) snapshot() []*member {
	g.frozen = true
	return g.members
}

func (g *group) thaw() {
	if g.frozen {
		g.members = slices.Clone(g.members)
		g.frozen = false
	}
}

func (g *group) add(m *member) {
	g.thaw()
	g.index[m] = len(g.members)
	g.members = append(g.members, m)
}

func (g *group) remove(m *member) {
	g.thaw()
	i, last := g.index[m], len(g.members)-1
	delete(g.index, m)
	if i < last {
		g.members[i] = g.members[last]
		g.index[g.members[i]] = i
	}
	g.members[last] = nil
	g.members = g.members[:last]
}

// publish queues p for the members of g, which may be nil, and returns how many
// accepted it. If except is not nil, the member of that name is passed over.
//
// The message is copied once, and queued without Broker.mu: a large fan-out holds up
// neither those who join and leave nor messages to one name.
func (b *Broker) publish(g *group, p []byte, except *string) (accepted int) {
	if g == nil {
		return 0
	}
	shared := message{block: newLone(bytes.Clone(p))}
	g.order.Lock()
	defer g.order.Unlock()
	b.mu.Lock()
	g.publishing = true
	members := g.snapshot()
	b.mu.Unlock()

	for _, m := range members {
		if except != nil && m.name == *except {
			continue
		}
		if m.writer.send(neverWait, &shared) == nil {
			accepted++
		}
	}

	b.mu.Lock()
	defer b.mu.Unlock()
	g.publishing = false
	b.dropIfDone(g)
	return accepted
}

// dropIfDone forgets a room that its last member has left. It waits for the message
// under way: otherwise those who come back meanwhile could make the room anew, and see
// the next message before this one. b.mu is held.
func (b *Broker) dropIfDone(g *group) {
	if len(g.members) == 0 && !g.publishing && b.rooms[g.room] == g {
		delete(b.rooms, g.room)
	}
}
