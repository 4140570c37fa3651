package directory

import "github.com/sendq-go/sendq/relay"

// Apply applies announcements of a node; see relay.Node. It calls f with each name and its changes,
// which are valid until the next operation. f may use the Directory. If f drops the node, the
// remaining announcements are void.
func (d *Directory) Apply(from string, events []relay.Event, snapshot bool, f func(name string, changes []Change)) {
	n := d.node(from)
	if n == nil {
		n = &node{name: from}
		d.nodes[from] = n
	}
	if snapshot {
		d.Apply(from, n.missing(events), false, f)
	}
	for len(events) > 0 && d.node(from) == n {
		name, i := events[0].Name, 1
		for i < len(events) && events[i].Name == name {
			i++
		}
		f(name, d.applyTogether(n, events[:i]...))
		events = events[i:]
	}
}

// Drop forgets another node as if all its names had left. It calls f like Apply.
func (d *Directory) Drop(name string, cause error, f func(name string, changes []Change)) {
	n := d.nodes[name]
	if n == nil {
		return
	}
	for n.entries.Len() > 0 { // names may arrive during f
		for _, e := range n.entries.Snapshot() {
			left := e.left()
			left.Cause = cause
			f(e.name, d.applyTogether(n, left))
		}
	}
	delete(d.nodes, name)
}

// Claim begins a claim of the name by this node. Until EndClaim, the name can arrive here.
func (d *Directory) Claim(name string) { d.claims.Put(name, true) }

// EndClaim ends a claim. The caller must apply the outcome, EventJoined or EventLeft.
func (d *Directory) EndClaim(name string) { d.claims.Remove(name) }

// Expire drops the name if it is still arriving with that token.
func (d *Directory) Expire(name string, token uint64) []Change {
	e := d.arrival(name)
	if e == nil || e.token != token {
		return nil
	}
	return d.applyTogether(e.node, relay.Event{Kind: relay.EventMoved, Name: name, Token: token})
}

// node returns the node of that name, or nil.
func (d *Directory) node(name string) *node {
	if name == d.Self {
		return d.here
	}
	return d.nodes[name]
}

// missing returns the end of each present name of n without an event in a snapshot. A name may have
// been granted to n after that snapshot, so an arriving one is not missing.
func (n *node) missing(snapshot []relay.Event) (events []relay.Event) {
	exists := make(map[string]bool)
	for _, e := range snapshot {
		exists[e.Name] = true
	}
	for _, e := range n.entries.Members() {
		if !e.arriving && !exists[e.name] {
			events = append(events, e.left())
		}
	}
	return events
}

// left returns the event that ends e.
func (e *entry) left() relay.Event {
	return relay.Event{Kind: relay.EventLeft, Name: e.name, Token: e.token}
}

// apply applies one event. If the name is arriving at from with a newer token, the event is about an
// earlier grant and late. Events of this node are never late.
func (d *Directory) apply(from *node, event relay.Event) {
	e := d.find(event.Name, from)
	switch {
	case event.Kind == relay.EventRoomJoined || event.Kind == relay.EventRoomLeft:
		d.applyRoom(e, event)
		return
	case event.Kind == relay.EventAway || event.Kind == relay.EventBack:
		d.applyAway(e, event)
		return
	case e != nil && e.arriving && e.token > event.Token && from != d.here:
		return
	case e != nil:
		d.drop(e)
	}
	switch {
	case event.Kind == relay.EventJoined:
		if arriving := d.arrival(event.Name); arriving != nil && arriving.token <= event.Token {
			d.drop(arriving)
		}
		d.add(&entry{name: event.Name, node: from, token: event.Token})
	case event.Kind == relay.EventMoved && e != nil:
		d.move(e, event)
	}
}

// applyRoom makes e join or leave a room. e may be nil. An arriving name keeps its rooms until its node
// announces the name, and then the rooms.
func (d *Directory) applyRoom(e *entry, event relay.Event) {
	g := d.rooms.Get(event.Room)
	joins := event.Kind == relay.EventRoomJoined
	switch {
	case e == nil || e.arriving || e.isIn(g) == joins:
	case joins:
		d.join(e, event.Room)
	default:
		d.leave(e, g)
	}
}

// applyAway makes e away or back. e may be nil.
func (d *Directory) applyAway(e *entry, event relay.Event) {
	isAway := event.Kind == relay.EventAway
	if e == nil || e.arriving || e.away == isAway {
		return
	}
	e.away = isAway
	if d.all.found.Has(e) {
		d.note(e, relay.Event{Kind: event.Kind, Cause: event.Cause})
	}
}

// move makes the name of old arrive with its rooms at moved.To. That must be a known node, or this
// one during a claim. If a newer token is known for the name, move does nothing.
func (d *Directory) move(old *entry, moved relay.Event) {
	to := d.node(moved.To)
	if to == nil || to == d.here && !d.claims.Get(old.name) {
		return
	}
	for e := d.names.Get(old.name); e != nil; e = e.next {
		if e.token >= moved.Token {
			return
		}
	}
	for e := d.names.Get(old.name); e != nil; e = e.next {
		if e.arriving || e.node == to { // its end has not been announced yet
			d.drop(e)
		}
	}
	e := &entry{name: old.name, node: to, token: moved.Token, arriving: true}
	d.add(e)
	for _, g := range old.rooms.Members() {
		d.join(e, g.room)
	}
}
