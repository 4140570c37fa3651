package directory

import "github.com/sendq-go/sendq/relay"

// A Change is a change for observers. They see a name join once and leave once, on however many nodes
// it is in between. EventMoved is the end of a name that has not arrived at another node.
type Change struct {
	relay.Event
	Node string // of the name; empty for this node
}

// maxKept is the number of changes for which memory is kept.
const maxKept = 64

// applyTogether applies events of a node about one name, and returns their net effect.
func (d *Directory) applyTogether(from *node, events ...relay.Event) []Change {
	if cap(d.changes) > maxKept {
		d.changes = nil
	}
	d.changes = d.changes[:0]
	name, last := events[0].Name, events[len(events)-1]
	before := d.names.Get(name)
	for _, e := range events {
		d.apply(from, e)
	}
	if after := d.names.Get(name); after != before {
		d.replace(before, after, last)
	}
	return d.changes
}

// replace notes that a name was found at before and is now found at after. Either may be nil. If
// after is nil, last is the reason.
func (d *Directory) replace(before, after *entry, last relay.Event) {
	for _, g := range before.groups() {
		g.found.Remove(before)
		d.forgetIfEmpty(g)
		if !after.isIn(g) {
			d.note(before, relay.Event{Kind: relay.EventRoomLeft, Room: g.room})
		}
	}
	if before != nil {
		d.all.found.Remove(before)
	}
	if after != nil {
		d.all.found.Add(after)
	}
	switch {
	case before == nil:
		d.note(after, relay.Event{Kind: relay.EventJoined})
	case after == nil && last.Kind == relay.EventMoved:
		d.note(before, relay.Event{Kind: relay.EventMoved})
	case after == nil:
		d.note(before, relay.Event{Kind: relay.EventLeft, Cause: last.Cause})
	}
	for _, g := range after.groups() {
		g.found.Add(after)
		if !before.isIn(g) {
			d.note(after, relay.Event{Kind: relay.EventRoomJoined, Room: g.room})
		}
	}
	switch wasAway := before != nil && before.away; {
	case after == nil || after.away == wasAway:
	case wasAway:
		d.note(after, relay.Event{Kind: relay.EventBack})
	default:
		d.note(after, relay.Event{Kind: relay.EventAway, Cause: last.Cause})
	}
}

func (d *Directory) note(e *entry, event relay.Event) {
	event.Name = e.name
	d.changes = append(d.changes, Change{event, e.node.name})
}
