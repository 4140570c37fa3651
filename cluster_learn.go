package sendq

import "github.com/sendq-go/sendq/relay"

// Apply implements [relay.Node].
func (b node) Apply(node string, events []relay.Event, snapshot bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.cluster
	if c.closed {
		return
	}
	p := c.peers[node]
	if p == nil {
		p = &peer{node}
		c.peers[node] = p
	}
	if snapshot {
		told := make(map[string]bool)
		for _, e := range events {
			told[e.Name] = true
		}
		b.dropAll(nil, func(r *remote) bool { return r.at == p && !told[r.name] || r.from == p })
	}
	for len(events) > 0 && !c.closed {
		if e := events[0]; e.Kind == relay.EventRoomJoined || e.Kind == relay.EventRoomLeft {
			// No more can change than that: no need to compare the rooms before and after.
			if r := c.find(e.Name, p); c.applyRoom(r, e) && b.isVisible(r) {
				b.notify(eventOf(e, p.name))
			}
			events = events[1:]
			b.letOthers()
			continue
		}
		name, n := events[0].Name, 1
		for n < len(events) && events[n].Name == name {
			n++
		}
		b.changeAnywhere(name, causeOf(events[n-1]), func() {
			for _, e := range events[:n] {
				b.apply(p, e)
			}
		})
		events = events[n:]
		b.letOthers()
	}
}

// dropAll forgets the remotes that f wants, whose names leave with that cause. mu is held,
// but now and then released, here and below.
func (b *Broker) dropAll(cause error, f func(*remote) bool) {
	c := b.cluster
	for _, r := range c.all.Snapshot() {
		if f(r) && c.find(r.name, r.at) == r {
			b.changeAnywhere(r.name, cause, func() { b.drop(r) })
			b.letOthers()
		}
	}
}

// letOthers lets others have mu in the midst of many changes: a node may have a million names.
func (b *Broker) letOthers() {
	if b.cluster.changes++; b.cluster.changes%256 == 0 {
		b.mu.Unlock()
		b.mu.Lock()
	}
}

// apply notes what p has told. mu is held, here and below.
func (b *Broker) apply(p *peer, e relay.Event) {
	c := b.cluster
	r := c.find(e.Name, p)
	switch e.Kind {
	case relay.EventJoined:
		vouched := r != nil && r.vouched
		if r != nil { // it was moving, or this is told anew
			r.vouched = false
			b.drop(r)
		}
		c.add(e.Name, p).vouched = vouched
		b.dropMoving(e.Name, p)
	case relay.EventLeft, relay.EventMoved:
		b.dropMoving(e.Name, p)
		b.applyLeft(p, r, e)
	default:
		c.applyRoom(r, e)
	}
}

// applyRoom notes that r, unless it is nil, has joined or left a room, and reports whether that
// is new.
func (c *cluster) applyRoom(r *remote, e relay.Event) bool {
	switch {
	case r == nil:
		return false
	case e.Kind == relay.EventRoomJoined:
		return c.join(r, e.Room)
	case e.Kind == relay.EventRoomLeft:
		return c.leave(r, e.Room)
	}
	return false
}

// applyLeft notes that the name has left p, where r is if it is not nil: for good, or
// for e.To, which takes it over.
func (b *Broker) applyLeft(p *peer, r *remote, e relay.Event) {
	c := b.cluster
	switch {
	case e.To == c.self && c.claims.Get(e.Name) != nil:
		if r != nil {
			r.leaving = true // until the claim is over
		}
		return
	case e.To == c.self && b.names.Get(e.Name) == nil:
		// It is not about to come here, or has left already.
		c.told = append(c.told, relay.Event{Kind: relay.EventLeft, Name: e.Name, Cause: ErrTakenOver})
	case e.Kind == relay.EventMoved && r != nil:
		c.move(p, e.Name, e.To, r.roomNames())
	}
	if r != nil {
		b.drop(r)
	}
}

// move notes what from, or this node if it is nil, has told: node is about to take over the
// name, which is in those rooms. If nothing else is known of that node, nothing is noted.
//
// This node may have heard already that it did and has lost the name again, so that nothing
// more of that is to come. Therefore from, which has had to tell all others, sees to it that
// they forget what they have noted, and tells once more that the name has left it when it has
// heard that from node.
func (c *cluster) move(from *peer, name, node string, rooms []string) {
	p := c.peers[node]
	if p == nil || c.find(name, p) != nil {
		return
	}
	r := c.add(name, p)
	r.moving, r.from, r.vouched = make(chan struct{}), from, from == nil
	for _, room := range rooms {
		c.join(r, room)
	}
}

// NodeGone implements [relay.Node].
func (b node) NodeGone(node string, cause error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p := b.cluster.peers[node]; p != nil {
		delete(b.cluster.peers, node)
		b.dropAll(cause, func(r *remote) bool { return r.at == p || r.from == p })
	}
}

// Snapshot implements [relay.Node].
func (b node) Snapshot(f func(events []relay.Event)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var events []relay.Event
	for _, n := range b.all.Members() {
		events = append(events, relay.Event{Kind: relay.EventJoined, Name: n.name})
		for _, g := range n.rooms.Members() {
			events = append(events, relay.Event{Kind: relay.EventRoomJoined, Name: n.name, Room: g.room})
		}
	}
	f(events)
}

// MessagesLost implements [relay.Node].
func (b node) MessagesLost(node string, messages int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.notify(Event{Kind: Gap, Node: node, Missed: messages})
}
