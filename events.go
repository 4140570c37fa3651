package sendq

import (
	"context"
	"fmt"
	"iter"

	"github.com/sendq-go/sendq/internal/set"
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
	EventSlow                        // a Writer of the name has become slow; see WriterOptions.HighMark
	EventSteady                      // no Writer of the name is slow any longer
	EventAway                        // the Writer of the name has failed, and the name lingers; see BrokerOptions.Linger
	EventBack                        // a name that was away has a Writer again
)

func (k EventKind) String() string {
	if k <= EventBack {
		return [...]string{"Joined", "Left", "RoomJoined", "RoomLeft", "Lagged", "Gap", "Slow", "Steady", "Away", "Back"}[k]
	}
	return fmt.Sprintf("EventKind(%d)", uint8(k))
}

// An Event is a change of a name or of its rooms, or reports missing events or messages.
type Event struct {
	Kind EventKind
	Name string // empty in EventLagged and EventGap

	// Room is the room of EventRoomJoined and EventRoomLeft.
	Room string

	// Cause is the cause of EventLeft and EventAway: the Err of the last Writer of the name, or why
	// its node is gone. It is nil if the name was unregistered or the cause is unknown.
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
// EventSlow and EventSteady are for the Writers of this node with a HighMark. An EventLeft ends both.
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
	for name := range b.snapshot(toAll) {
		node := ""
		if b.cluster != nil {
			node, _, _ = b.cluster.directory.Where(name)
		}
		events = append(events, Event{Kind: EventJoined, Name: name, Node: node})
		for _, room := range b.roomsOf(name) {
			events = append(events, Event{Kind: EventRoomJoined, Name: name, Room: room, Node: node})
		}
		n := b.names.Get(name)
		if b.slow.Get(n) != nil {
			events = append(events, Event{Kind: EventSlow, Name: name})
		}
		switch {
		case n != nil && n.isAway():
			events = append(events, Event{Kind: EventAway, Name: name, Cause: n.first.writer.limits.keeper.cause})
		case n == nil && b.cluster.isAway(name):
			events = append(events, Event{Kind: EventAway, Name: name, Node: node})
		}
	}
	return o, events
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

// announce reports a change of a name of this node to observers and other nodes. mu is held.
func (b *Broker) announce(e relay.Event) {
	if b.cluster == nil {
		b.notify(eventOf(e, ""))
		return
	}
	events := []relay.Event{e}
	b.applyOwn(events)
	b.cluster.transport.Announce(events)
}

// eventOf returns what observers see of an event on a node.
func eventOf(e relay.Event, node string) Event {
	cause := e.Cause
	if e.Kind == relay.EventMoved {
		cause = ErrTakenOver
	}
	return Event{Kind: kinds[e.Kind], Name: e.Name, Room: e.Room, Cause: cause, Node: node}
}

var kinds = [...]EventKind{
	relay.EventJoined: EventJoined, relay.EventLeft: EventLeft, relay.EventMoved: EventLeft,
	relay.EventRoomJoined: EventRoomJoined, relay.EventRoomLeft: EventRoomLeft,
	relay.EventAway: EventAway, relay.EventBack: EventBack,
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

// pressed is called when w, a Writer that has or had the name of n, has become slow or is no longer.
// mu is not held.
func (b *Broker) pressed(n *member, w *Writer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pressedBy(n, w)
}

// pressedBy emits EventSlow or EventSteady if n has become slow or steady by a change of w. mu is
// held.
func (b *Broker) pressedBy(n *member, w *Writer) {
	slow := b.slow.Get(n)
	isSlow, wasSlow := n.holder(w) != nil && w.isSlow(), slow != nil && slow.Has(w)
	switch {
	case isSlow && slow == nil:
		slow = new(set.Set[*Writer])
		b.slow.Put(n, slow)
		b.notify(Event{Kind: EventSlow, Name: n.name})
		fallthrough
	case isSlow && !wasSlow:
		slow.Add(w)
	case wasSlow && !isSlow:
		if slow.Remove(w); slow.Len() > 0 {
			return
		}
		b.slow.Remove(n)
		if n.first != nil { // otherwise EventLeft follows
			b.notify(Event{Kind: EventSteady, Name: n.name})
		}
	}
}
