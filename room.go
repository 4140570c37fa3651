package sendq

import (
	"iter"
	"slices"

	"github.com/sendq-go/sendq/internal/queue"
	"github.com/sendq-go/sendq/relay"
)

// A Room is a set of a Broker's names that share messages. It is a handle, cheap to make and to
// copy. The room itself exists as long as it has members. A handle neither creates it nor keeps it
// alive.
type Room struct {
	broker *Broker
	name   string
}

// Room returns a handle to the room of that name, whether or not it has members.
func (b *Broker) Room(name string) *Room { return &Room{b, name} }

func (r *Room) target() target { return toRoom(r.name) }

// RoomsOf yields the rooms of name at the start of the iteration, in no particular order.
func (b *Broker) RoomsOf(name string) iter.Seq[string] {
	return func(yield func(string) bool) {
		b.mu.Lock()
		rooms := b.roomsOf(name)
		b.mu.Unlock()
		slices.Values(rooms)(yield)
	}
}

// roomsOf returns the rooms of name. mu is held.
func (b *Broker) roomsOf(name string) (rooms []string) {
	if b.cluster != nil {
		return b.cluster.directory.RoomsOf(name)
	}
	if n := b.names.Get(name); n != nil {
		for _, g := range n.rooms.Members() {
			rooms = append(rooms, g.room)
		}
	}
	return rooms
}

// Join adds name to the room. Joining twice is not an error. Join fails with ErrUnknownName if
// no Writer on this node has the name. A member stays until Leave is called or the name is free
// again.
func (r *Room) Join(name string) error {
	b := r.broker
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.names.Get(name)
	if n == nil || n.isMoving {
		return errUnknownName(name)
	}
	b.join(n, b.makeRoom(r.name))
	return nil
}

// makeRoom returns the room of that name, a new one if there is none. b.mu is held, here
// and below unless stated otherwise.
func (b *Broker) makeRoom(name string) *group {
	g := b.rooms.Get(name)
	if g == nil {
		g = &group{room: name, kept: queue.History{MaxMessages: b.opts.ReplayMessages, MaxBytes: b.opts.ReplayBytes}}
		b.rooms.Put(name, g)
	}
	return g
}

// join makes n a member of g, and reports whether it was none.
func (b *Broker) join(n *member, g *group) bool {
	if !b.insert(n, g) {
		return false
	}
	b.announce(relay.Event{Kind: relay.EventRoomJoined, Name: n.name, Room: g.room})
	return true
}

// insert is join without the announcement.
func (b *Broker) insert(n *member, g *group) bool {
	if g.Has(n) {
		return false
	}
	g.Add(n)
	g.isJoined = b.cluster != nil
	n.rooms.Add(g)
	return true
}

// Leave removes name from the room and reports whether it was a member on this node. Messages
// being published at the same time may still reach it.
func (r *Room) Leave(name string) bool {
	b := r.broker
	b.mu.Lock()
	defer b.mu.Unlock()
	n, g := b.names.Get(name), b.rooms.Get(r.name)
	if n == nil || g == nil || !g.Has(n) {
		return false
	}
	n.rooms.Remove(g)
	g.Remove(n)
	b.forgetIfEmpty(g)
	b.announce(relay.Event{Kind: relay.EventRoomLeft, Name: name, Room: r.name})
	return true
}

// Publish queues p for every member. It returns the number of members on this node that accepted
// it and did not drop it at once.
func (r *Room) Publish(p []byte) int {
	return r.broker.publishOne(r.target(), p)
}

// PublishFrom is Publish to all members except sender. The sender need not be a member. With
// NameAttach, no Writer of the sender gets p.
func (r *Room) PublishFrom(sender string, p []byte) int {
	return r.broker.publishOne(r.target().from(sender), p)
}

// PublishLatest is Publish of the newest message of key: each member gets p by Writer.WriteLatest. So
// members that keep up get all messages, and slow ones only the newest of each key. For slow members
// the room's order holds among the messages of one key, but not between these and other messages. A
// replay has all messages. Members on other nodes get p as by Publish.
func (r *Room) PublishLatest(key string, p []byte) int {
	return r.broker.publishOne(r.target().latest(key), p)
}

// Has reports whether name is a member.
func (r *Room) Has(name string) bool {
	b := r.broker
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cluster != nil {
		return b.cluster.directory.Has(name, r.name)
	}
	g := b.rooms.Get(r.name)
	return g != nil && g.Has(b.names.Get(name))
}

// Members yields the names of the members at the start of the iteration, in no particular order.
func (r *Room) Members() iter.Seq[string] {
	return r.broker.namesIn(r.target())
}

// Len returns the number of members.
func (r *Room) Len() int { return r.broker.count(r.target()) }
