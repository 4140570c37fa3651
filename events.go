package sendq

import (
	"context"
	"fmt"
	"iter"

	"github.com/sendq-go/sendq/relay"
)

// An EventKind is what has happened to a name.
type EventKind uint8

const (
	Joined     EventKind = iota // a Writer has the name now, and none had before
	Left                        // no Writer has the name any more
	RoomJoined                  // it has become a member of a room
	RoomLeft                    // it is a member no more
	Lagged                      // events are missing here, for the observer was too slow
	Gap                         // messages of another node to this one were lost on the way
)

func (k EventKind) String() string {
	if k <= Gap {
		return [...]string{"Joined", "Left", "RoomJoined", "RoomLeft", "Lagged", "Gap"}[k]
	}
	return fmt.Sprintf("EventKind(%d)", uint8(k))
}

// An Event is a change in who has a name or is in a room.
type Event struct {
	Kind   EventKind
	Name   string
	Room   string // of RoomJoined and RoomLeft
	Cause  error  // of Left: the Err of the last Writer that had the name, or why its node is gone; nil if it was unregistered, or nobody knows
	Missed int    // of Lagged: how many events; of Gap: how many messages
	Node   string // where the name is or was, or whose messages are missing; empty if it is this one
}

// maxLag is how many events are kept for an observer that does not keep up.
const maxLag = 4096

// An observer is an iteration over Events. Broker.mu guards it.
type observer struct {
	events []Event
	missed int
	ready  chan struct{} // has a value if there are some
}

// Events yields what happens to names and rooms, in the order in which it happens, until
// ctx is done. First it yields how things are when the iteration starts, as if each name
// joined, and each room it is in, at that moment.
//
// The Broker does not wait for who iterates. Of events that happen meanwhile it keeps
// 4,096; more are lost, and a Lagged event in their place says how many. To know again how
// things are, start anew.
//
// A takeover is no event, for the name has not left, nor is a second Writer that is attached,
// nor that after a partition two nodes have the name, or that one of them loses it.
// The end of the Broker does not end the iteration: all names leave then.
//
// With a Relay, the names on other nodes are among them, when they are heard of. Events panics
// if ctx is nil.
func (b *Broker) Events(ctx context.Context) iter.Seq[Event] {
	requireContext(ctx)
	return func(yield func(Event) bool) {
		o, events := b.observe()
		defer b.ignore(o)
		for missed := 0; ; events, missed = b.news(o) {
			for _, e := range events {
				if ctx.Err() != nil || !yield(e) {
					return
				}
			}
			if missed > 0 && !yield(Event{Kind: Lagged, Missed: missed}) {
				return
			}
			select {
			case <-o.ready:
			case <-ctx.Done():
				return
			}
		}
	}
}

// observe returns an observer of what happens from now on, and how things are.
func (b *Broker) observe() (*observer, []Event) {
	o := &observer{ready: make(chan struct{}, 1)}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.observers.Add(o)
	var events []Event
	for _, n := range b.all.Members() {
		events = appendPresence(events, "", n.name, n.roomNames())
	}
	for _, r := range b.remotes(toAll) {
		events = appendPresence(events, r.node.name, r.name, r.roomNames())
	}
	return o, events
}

// appendPresence appends the events of a name that joins a node and those rooms.
func appendPresence(events []Event, node, name string, rooms []string) []Event {
	events = append(events, Event{Kind: Joined, Name: name, Node: node})
	for _, room := range rooms {
		events = append(events, Event{Kind: RoomJoined, Name: name, Room: room, Node: node})
	}
	return events
}

func (b *Broker) ignore(o *observer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.observers.Remove(o)
}

// news returns the events since the last call, and how many are missing behind them.
func (b *Broker) news(o *observer) (events []Event, missed int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	events, missed = o.events, o.missed
	o.events, o.missed = nil, 0
	return events, missed
}

// announce tells observers and other nodes about a name of this node. If there is a transport,
// it is called within change. mu is held.
func (b *Broker) announce(e relay.Event) {
	if b.cluster != nil {
		b.cluster.outgoing = append(b.cluster.outgoing, e)
	} else {
		b.notify(eventOf(e, ""))
	}
}

// eventOf returns what observers see of an event on a node.
func eventOf(e relay.Event, node string) Event {
	return Event{Kind: kinds[e.Kind], Name: e.Name, Room: e.Room, Cause: causeOf(e), Node: node}
}

var kinds = [...]EventKind{
	relay.EventJoined: Joined, relay.EventLeft: Left, relay.EventMoved: Left,
	relay.EventRoomJoined: RoomJoined, relay.EventRoomLeft: RoomLeft,
}

// causeOf returns why a name leaves.
func causeOf(e relay.Event) error {
	if e.Kind == relay.EventMoved {
		return ErrTakenOver
	}
	return e.Cause
}

// notify tells the observers. mu is held, so all of them see the same order.
func (b *Broker) notify(e Event) {
	for _, o := range b.observers.Members() {
		if len(o.events) == maxLag {
			o.missed++
		} else {
			o.events = append(o.events, e)
		}
		select {
		case o.ready <- struct{}{}:
		default:
		}
	}
}

// A presence is what Events tell of a name. Broker.mu is held in all that follows.
type presence struct {
	exists bool
	node   string
	rooms  []string
}

func (n *named) roomNames() (names []string) {
	for _, g := range n.rooms.Members() {
		names = append(names, g.room)
	}
	return names
}

func (r *remoteName) roomNames() (names []string) {
	for _, g := range r.rooms.Members() {
		names = append(names, g.room)
	}
	return names
}

func (b *Broker) presenceOf(name string) (p presence) {
	if n := b.names.Get(name); n != nil {
		p = presence{true, "", n.roomNames()}
	} else if b.cluster != nil && b.cluster.names.Get(name) != nil {
		r := b.cluster.names.Get(name)
		p = presence{true, r.node.name, r.roomNames()}
	}
	return p
}

// change makes f change something about a name that is here, or was, or will be.
// With a Relay, observers learn only what comes of it: that a name leaves here which
// another node has as well, or comes here from there, is no event.
func (b *Broker) change(name string, cause error, f func()) {
	c := b.cluster
	switch {
	case c == nil || c.changing:
		f()
	case c.names.Get(name) != nil:
		b.changeAnywhere(name, cause, f)
	default:
		c.during(f)
		for _, e := range c.outgoing {
			b.notify(eventOf(e, ""))
		}
		c.announce()
	}
}

// during calls f while changing is true, and not longer if a Relay panics.
func (c *cluster) during(f func()) {
	c.changing = true
	defer func() { c.changing = false }()
	f()
}

// changeAnywhere is change if f may also change what is known of other nodes.
func (b *Broker) changeAnywhere(name string, cause error, f func()) {
	c := b.cluster
	var before presence
	if b.observers.Len() > 0 {
		before = b.presenceOf(name)
	}
	shadowed := b.shadowedUnder(name)
	c.during(f)
	c.shadowed += b.shadowedUnder(name) - shadowed
	if b.observers.Len() > 0 {
		b.notifyChange(name, cause, before, b.presenceOf(name))
	}
	c.announce()
}

// notifyChange tells the observers what has changed about a name.
func (b *Broker) notifyChange(name string, cause error, before, after presence) {
	was, is := before.rooms, after.rooms
	for _, room := range without(was, is) {
		b.notify(Event{Kind: RoomLeft, Name: name, Room: room, Node: before.node})
	}
	switch {
	case before.exists && !after.exists:
		b.notify(Event{Kind: Left, Name: name, Cause: cause, Node: before.node})
	case !before.exists && after.exists:
		b.notify(Event{Kind: Joined, Name: name, Node: after.node})
	}
	for _, room := range without(is, was) {
		b.notify(Event{Kind: RoomJoined, Name: name, Room: room, Node: after.node})
	}
}

// without returns the rooms that are not among others.
func without(rooms, others []string) (rest []string) {
	if len(others) == 0 {
		return rooms
	}
	known := make(map[string]bool, len(others))
	for _, room := range others {
		known[room] = true
	}
	for _, room := range rooms {
		if !known[room] {
			rest = append(rest, room)
		}
	}
	return rest
}

// announce tells the other nodes what has happened here to a name. If it has left, the rest does
// not matter.
func (c *cluster) announce() {
	events := c.outgoing
	if len(events) == 0 {
		return
	}
	c.outgoing = nil
	switch last := len(events) - 1; events[last].Kind {
	case relay.EventLeft, relay.EventMoved:
		events = events[last:]
	}
	c.transport.Announce(events)
}
