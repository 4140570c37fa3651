package sendq

import (
	"context"
	"fmt"
	"iter"
	"slices"
)

// An EventKind is what has happened to a name.
type EventKind uint8

const (
	Joined     EventKind = iota // a Writer has the name now, and none had before
	Left                        // no Writer has the name any more
	RoomJoined                  // it has become a member of a room
	RoomLeft                    // it is a member no more
	Lagged                      // events are missing here, for the observer was too slow
)

func (k EventKind) String() string {
	if k <= Lagged {
		return [...]string{"Joined", "Left", "RoomJoined", "RoomLeft", "Lagged"}[k]
	}
	return fmt.Sprintf("EventKind(%d)", uint8(k))
}

// An Event is a change in who has a name or is in a room.
type Event struct {
	Kind   EventKind
	Name   string
	Room   string // of RoomJoined and RoomLeft
	Cause  error  // of Left: the Err of the last Writer that had the name; nil if it was unregistered
	Missed int    // of Lagged: how many events
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
// A takeover is no event, for the name has not left, nor is a second Writer that is attached.
// The end of the Broker does not end the iteration: all names leave then.
func (b *Broker) Events(ctx context.Context) iter.Seq[Event] {
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
	b.observers = append(b.observers, o)
	var events []Event
	for _, n := range b.all.members {
		events = append(events, Event{Kind: Joined, Name: n.name})
		for _, g := range n.rooms {
			events = append(events, Event{Kind: RoomJoined, Name: n.name, Room: g.room})
		}
	}
	return o, events
}

func (b *Broker) ignore(o *observer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	i := slices.Index(b.observers, o)
	b.observers = slices.Delete(b.observers, i, i+1)
}

// news returns the events since the last call, and how many are missing behind them.
func (b *Broker) news(o *observer) (events []Event, missed int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	events, missed = o.events, o.missed
	o.events, o.missed = nil, 0
	return events, missed
}

// tell tells the observers. mu is held, so they hear of everything in the same order.
func (b *Broker) tell(e Event) {
	for _, o := range b.observers {
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
