package sendq

import (
	"time"

	"github.com/sendq-go/sendq/relay"
)

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
		b.dropAll(nil, func(r *remoteName) bool { return r.node == from && !exists[r.name] })
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
			b.changeAnywhere(r.name, cause, func() { c.drop(r) })
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

// apply applies an event from another node. If the name arrives there with a newer token, the event
// is about an earlier grant and late.
func (b *Broker) apply(from *remoteNode, e relay.Event) {
	c := b.cluster
	r := c.find(e.Name, from)
	switch {
	case e.Kind == relay.EventRoomJoined || e.Kind == relay.EventRoomLeft:
		c.applyRoom(r, e)
		return
	case r != nil && r.isArriving() && r.token > e.Token:
		return
	}
	var rooms []string
	if r != nil {
		rooms = r.roomNames()
		c.drop(r)
	}
	switch {
	case e.Kind == relay.EventJoined:
		c.add(e.Name, from, e.Token)
		c.dropArriving(e.Name, e.Token)
	case e.Kind == relay.EventMoved && r != nil:
		b.move(e, rooms)
	}
}

// dropArriving drops the name where it arrives with an older token.
func (c *cluster) dropArriving(name string, token uint64) {
	for r := c.names.Get(name); r != nil; r = r.next {
		if r.isArriving() && r.token <= token {
			c.drop(r)
		}
	}
}

// applyRoom makes r join or leave a room, and reports whether it did. r may be nil. An arriving
// name keeps its rooms until its node announces the name, and then the rooms.
func (c *cluster) applyRoom(r *remoteName, e relay.Event) bool {
	switch {
	case r == nil || r.isArriving():
		return false
	case e.Kind == relay.EventRoomJoined:
		return c.join(r, e.Room)
	}
	return c.leave(r, e.Room)
}

// move notes that a name with these rooms arrives where moved says: at a known node, or here if a
// claim is under way. It does nothing if anything newer is known about the name.
func (b *Broker) move(moved relay.Event, rooms []string) {
	c := b.cluster
	to := c.nodes[moved.To]
	if moved.To == c.self && b.isClaiming(moved.Name) {
		to = c.here
	}
	newest := c.names.Get(moved.Name)
	if to == nil || newest != nil && newest.token >= moved.Token {
		return
	}
	if old := c.find(moved.Name, to); old != nil {
		c.drop(old) // its end has not been announced yet
	}
	r := c.add(moved.Name, to, moved.Token)
	r.settled = make(chan struct{})
	r.expiry = time.AfterFunc(maxMove, func() { b.expire(r) })
	for _, room := range rooms {
		c.join(r, room)
	}
}

// expire drops an arriving name. mu is not held.
func (b *Broker) expire(r *remoteName) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cluster.find(r.name, r.node) == r {
		b.changeAnywhere(r.name, ErrTakenOver, func() { b.cluster.drop(r) })
	}
}

// NodeGone implements [relay.Node]. mu is not held, here and below.
func (b node) NodeGone(node string, cause error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if gone := b.cluster.nodes[node]; gone != nil {
		delete(b.cluster.nodes, node)
		b.dropAll(cause, func(r *remoteName) bool { return r.node == gone })
	}
}

// Snapshot implements [relay.Node].
func (b node) Snapshot(f func(events []relay.Event)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var events []relay.Event
	for _, n := range b.all.Members() {
		events = append(events, relay.Event{Kind: relay.EventJoined, Name: n.name, Token: n.token})
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
