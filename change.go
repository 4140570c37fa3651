package sendq

// A presence is what Events tell of a name. Broker.mu is held in all that follows.
type presence struct {
	exists bool
	node   string
	rooms  []string
}

func (n *named) roomNames() (names []string) {
	for _, g := range n.rooms.members {
		names = append(names, g.room)
	}
	return names
}

func (r *remote) roomNames() (names []string) {
	for _, g := range r.rooms.members {
		names = append(names, g.room)
	}
	return names
}

func (b *Broker) presenceOf(name string) (p presence) {
	if n := b.names.get(name); n != nil {
		p = presence{true, "", n.roomNames()}
	} else if b.cluster != nil && b.cluster.names.get(name) != nil {
		r := b.cluster.names.get(name)
		p = presence{true, r.at.name, r.roomNames()}
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
	case c.names.get(name) != nil:
		b.changeAnywhere(name, cause, f)
	default:
		c.during(f)
		for _, e := range c.told {
			b.notify(e)
		}
		c.tell()
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
	if len(b.observers.members) > 0 {
		before = b.presenceOf(name)
	}
	hidden := b.hiddenUnder(name)
	c.during(f)
	c.hidden += b.hiddenUnder(name) - hidden
	if len(b.observers.members) > 0 {
		b.notifyChange(name, cause, before, b.presenceOf(name))
	}
	c.tell()
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

// tell tells the other nodes what has happened here to a name. That it has left says all.
func (c *cluster) tell() {
	events := c.told
	if len(events) == 0 {
		return
	}
	c.told = nil
	if last := len(events) - 1; events[last].Kind == Left {
		events = events[last:]
	}
	c.relay.Tell(events)
}
