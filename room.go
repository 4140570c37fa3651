package sendq

import (
	"fmt"
	"iter"
)

// A Room is a set of a Broker's names that share messages. It is a handle, cheap to
// make and to copy: the room itself exists from its first member to its last, and a
// handle neither makes it nor keeps it.
type Room struct {
	broker *Broker
	name   string
}

// Room returns a handle to the room of that name, whether or not it has members.
func (b *Broker) Room(name string) *Room { return &Room{b, name} }

// Join makes name a member; it is none the less nil if it is one already. It fails with
// ErrUnknownName if no Writer has the name. A member stays until Leave is called, its
// Writer ends or it is unregistered.
func (r *Room) Join(name string) error {
	b := r.broker
	b.mu.Lock()
	defer b.mu.Unlock()
	m := b.names[name]
	if m == nil {
		return fmt.Errorf("%w: %q", ErrUnknownName, name)
	}
	if m.rooms[r.name] != nil {
		return nil
	}
	g := b.rooms[r.name]
	if g == nil {
		g = newGroup(r.name)
		b.rooms[r.name] = g
	}
	g.add(m)
	if m.rooms == nil {
		m.rooms = make(map[string]*group)
	}
	m.rooms[r.name] = g
	return nil
}

// Leave ends the membership of name and tells whether there was one. Messages that
// are being published meanwhile may still reach it.
func (r *Room) Leave(name string) bool {
	b := r.broker
	b.mu.Lock()
	defer b.mu.Unlock()
	m := b.names[name]
	return m != nil && b.leave(m, r.name)
}

// leave takes m out of a room and tells whether it was in. b.mu is held.
func (b *Broker) leave(m *member, room string) bool {
	g := m.rooms[room]
	if g == nil {
		return false
	}
	delete(m.rooms, room)
	g.remove(m)
	b.dropIfDone(g)
	return true
}

// Publish queues p for every member and returns how many accepted it.
func (r *Room) Publish(p []byte) int { return r.broker.publish(r.group(), p, nil) }

// PublishFrom is Publish to all members but sender, who need not be one.
func (r *Room) PublishFrom(sender string, p []byte) int {
	return r.broker.publish(r.group(), p, &sender)
}

// Members yields the members' names at the moment when the iteration starts, in no order.
func (r *Room) Members() iter.Seq[string] {
	return func(yield func(string) bool) { r.broker.yieldNames(r.group(), yield) }
}

// Len returns the number of members.
func (r *Room) Len() int {
	r.broker.mu.Lock()
	defer r.broker.mu.Unlock()
	if g := r.broker.rooms[r.name]; g != nil {
		return len(g.members)
	}
	return 0
}

// group returns the members of the room, or nil if it has none.
func (r *Room) group() *group {
	r.broker.mu.Lock()
	defer r.broker.mu.Unlock()
	return r.broker.rooms[r.name]
}
