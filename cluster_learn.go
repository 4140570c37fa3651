package sendq

import "github.com/sendq-go/sendq/relay"

// A node is the side of a Broker that its transport calls.
type node struct{ *Broker }

// Apply implements [relay.Node].
func (b node) Apply(node string, events []relay.Event, snapshot bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.cluster
	if c.closed {
		return
	}
	from := c.nodes[node]
	if from == nil {
		from = &remoteNode{node}
		c.nodes[node] = from
	}
	if snapshot {
		exists := make(map[string]bool)
		for _, e := range events {
			exists[e.Name] = true
		}
		b.dropAll(nil, func(r *remoteName) bool { return r.node == from && !exists[r.name] || r.origin == from })
	}
	for len(events) > 0 && !c.closed {
		n := b.applyNext(from, events)
		events = events[n:]
		b.yield()
	}
}

// applyNext applies the first event, with later ones about the same name, and returns their
// number. mu is held, here and below.
func (b *Broker) applyNext(from *remoteNode, events []relay.Event) (n int) {
	first := events[0]
	if first.Kind == relay.EventRoomJoined || first.Kind == relay.EventRoomLeft {
		// Nothing else can change, so there is no need to compare the rooms before and after.
		if r := b.cluster.find(first.Name, from); b.cluster.applyRoom(r, first) && b.isVisible(r) {
			b.notify(eventOf(first, from.name))
		}
		return 1
	}
	n = 1
	for n < len(events) && events[n].Name == first.Name {
		n++
	}
	b.changeAnywhere(first.Name, causeOf(events[n-1]), func() {
		for _, e := range events[:n] {
			b.apply(from, e)
		}
	})
	return n
}

// dropAll drops all names on other nodes where f returns true. They leave with cause. mu is
// released now and then, here and in yield.
func (b *Broker) dropAll(cause error, f func(*remoteName) bool) {
	c := b.cluster
	for _, r := range c.all.Snapshot() {
		if f(r) && c.find(r.name, r.node) == r {
			b.changeAnywhere(r.name, cause, func() { b.drop(r) })
			b.yield()
		}
	}
}

// yield lets others have mu between many changes: a node may have a million names.
func (b *Broker) yield() {
	if b.cluster.changes++; b.cluster.changes%256 == 0 {
		b.mu.Unlock()
		b.mu.Lock()
	}
}

// apply applies an event from another node.
func (b *Broker) apply(from *remoteNode, e relay.Event) {
	c := b.cluster
	r := c.find(e.Name, from)
	switch e.Kind {
	case relay.EventJoined:
		announced := r != nil && r.announced
		if r != nil { // it was arriving, or this is a snapshot
			r.announced = false
			b.drop(r)
		}
		c.add(e.Name, from, present).announced = announced
		b.dropArriving(e.Name, from)
	case relay.EventLeft, relay.EventMoved:
		b.dropArriving(e.Name, from)
		b.applyLeft(from, r, e)
	default:
		c.applyRoom(r, e)
	}
}

// applyRoom makes r join or leave a room, and reports whether it did. r may be nil.
func (c *cluster) applyRoom(r *remoteName, e relay.Event) bool {
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

// applyLeft applies the end of a name on a node, or its move from there. r is the name on that
// node, or nil.
func (b *Broker) applyLeft(from *remoteNode, r *remoteName, e relay.Event) {
	c := b.cluster
	movesHere := e.Kind == relay.EventMoved && e.To == c.self
	switch {
	case movesHere && b.isClaiming(e.Name):
		if r != nil {
			r.depart()
		}
		return
	case movesHere && b.names.Get(e.Name) == nil:
		// It does not come here, or has left already.
		c.outgoing = append(c.outgoing, relay.Event{Kind: relay.EventLeft, Name: e.Name, Cause: ErrTakenOver})
	case e.Kind == relay.EventMoved && r != nil:
		c.move(from, e.Name, e.To, r.roomNames())
	}
	if r != nil {
		b.drop(r)
	}
}

// move adds a name that arrives at a node, with its rooms. The origin has announced it; nil is this
// node. An unknown node adds nothing.
//
// The name may have arrived and left again before this node hears of the move. Then the other
// node announces nothing more. So the origin, when it hears that the name has left there,
// announces it once more, and every node drops the arriving name.
func (c *cluster) move(origin *remoteNode, name, node string, rooms []string) {
	to := c.nodes[node]
	if to == nil || c.find(name, to) != nil {
		return
	}
	r := c.add(name, to, arriving)
	r.origin, r.announced = origin, origin == nil
	for _, room := range rooms {
		c.join(r, room)
	}
}

// NodeGone implements [relay.Node]. mu is not held, here and below.
func (b node) NodeGone(node string, cause error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if gone := b.cluster.nodes[node]; gone != nil {
		delete(b.cluster.nodes, node)
		b.dropAll(cause, func(r *remoteName) bool { return r.node == gone || r.origin == gone })
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
func (b node) MessagesLost(node string, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.notify(Event{Kind: EventGap, Node: node, Missed: n})
}
