package sendq

import (
	"context"
	"fmt"
	"iter"

	"github.com/sendq-go/sendq/relay"
)

// An EventKind is the kind of an Event.
type EventKind uint8

const (
	EventJoined     EventKind = iota // a Writer has the name, and none had before
	EventLeft                        // no Writer has the name any longer
	EventRoomJoined                  // the name has become a member of a room
	EventRoomLeft                    // the name is no longer a member of a room
	EventLagged                      // events are missing here, because the observer was too slow
	EventGap                         // messages from another node were lost in transit
)

func (k EventKind) String() string {
	if k <= EventGap {
		return [...]string{"Joined", "Left", "RoomJoined", "RoomLeft", "Lagged", "Gap"}[k]
	}
	return fmt.Sprintf("EventKind(%d)", uint8(k))
}

// An Event is a change of a name or of its rooms, or reports missing events or messages.
type Event struct {
	Kind EventKind
	Name string // empty in EventLagged and EventGap

	// Room is the room of EventRoomJoined and EventRoomLeft.
	Room string

	// Cause is the cause of EventLeft: the Err of the last Writer of the name, or why its node is
	// gone. It is nil if the name was unregistered or the cause is unknown.
	Cause error

	// Missed is the number of missing events of EventLagged, or of lost messages of EventGap. It is
	// negative in an EventGap if the number is unknown, because the other node could not reach
	// this one for a time.
	Missed int

	// Node is the node of the name, or of the sender of lost messages. It is empty for this
	// node.
	Node string
}

// maxLag is the number of events kept for an observer that does not keep up.
const maxLag = 4096

// An observer is an iteration over Events. Broker.mu guards it.
type observer struct {
	events []Event
	missed int
	ready  chan struct{} // has a value if there are some
}

// Events yields the events of names and rooms in order, until ctx is done. It begins with the state
// at the start of the iteration, as if each name had just joined, and then each of its rooms.
//
// A select statement cannot wait for an iteration. To select on events, let a goroutine send them
// on a channel:
//
//	events := make(chan sendq.Event)
//	go func() {
//		defer close(events)
//		for e := range broker.Events(ctx) {
//			select {
//			case events <- e:
//			case <-ctx.Done():
//				return
//			}
//		}
//	}()
//
// The Broker does not wait for the caller. It keeps at most 4,096 events for each iteration and
// discards later ones. An EventLagged in their place has their number. To learn the current state
// again, restart the iteration.
//
// Takeovers, additional Writers of a name and duplicates after a partition cause no events,
// because the name never becomes free. The end of the Broker does not end the iteration: all
// names leave then.
//
// With a Relay, Events includes the names on other nodes, as their announcements arrive. Events
// panics if ctx is nil.
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
			if missed > 0 && !yield(Event{Kind: EventLagged, Missed: missed}) {
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

// observe returns an observer of later events, and events that describe the current state.
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

// appendPresence appends the events of a name joining a node and rooms.
func appendPresence(events []Event, node, name string, rooms []string) []Event {
	events = append(events, Event{Kind: EventJoined, Name: name, Node: node})
	for _, room := range rooms {
		events = append(events, Event{Kind: EventRoomJoined, Name: name, Room: room, Node: node})
	}
	return events
}

func (b *Broker) ignore(o *observer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.observers.Remove(o)
}

// news returns the events since the last call, and the number of missing events after them.
func (b *Broker) news(o *observer) (events []Event, missed int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	events, missed = o.events, o.missed
	o.events, o.missed = nil, 0
	return events, missed
}

// announce reports a change of a name of this node to observers and other nodes. With a
// transport, it must be called within change. mu is held.
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
	relay.EventJoined: EventJoined, relay.EventLeft: EventLeft, relay.EventMoved: EventLeft,
	relay.EventRoomJoined: EventRoomJoined, relay.EventRoomLeft: EventRoomLeft,
}

// causeOf returns why a name leaves.
func causeOf(e relay.Event) error {
	if e.Kind == relay.EventMoved {
		return ErrTakenOver
	}
	return e.Cause
}

// notify queues e for the observers. mu is held, so all of them see the same order.
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

// A presence is the state of a name for observers. Broker.mu is held in all methods below.
type presence struct {
	exists bool
	node   string
	rooms  []string
}

func (n *member) roomNames() (names []string) {
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

// change calls f, which changes something about a name on this node. With a transport, observers
// see only the net effect: if another node has the name too, or had it before, its leaving or
// coming here is no event.
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

// during calls f while changing is true. It resets changing even if the transport panics.
func (c *cluster) during(f func()) {
	c.changing = true
	defer func() { c.changing = false }()
	f()
}

// changeAnywhere is change for an f that may also change what is known about other nodes.
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

// notifyChange reports the net changes of a name to the observers.
func (b *Broker) notifyChange(name string, cause error, before, after presence) {
	was, is := before.rooms, after.rooms
	for _, room := range without(was, is) {
		b.notify(Event{Kind: EventRoomLeft, Name: name, Room: room, Node: before.node})
	}
	switch {
	case before.exists && !after.exists:
		b.notify(Event{Kind: EventLeft, Name: name, Cause: cause, Node: before.node})
	case !before.exists && after.exists:
		b.notify(Event{Kind: EventJoined, Name: name, Node: after.node})
	}
	for _, room := range without(is, was) {
		b.notify(Event{Kind: EventRoomJoined, Name: name, Room: room, Node: after.node})
	}
}

// without returns the rooms without others.
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

// announce announces the outgoing events. If the last one says that the name has left, the
// others do not matter.
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
