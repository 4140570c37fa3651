package sendq

// learn is Node.Learn. mu is not held, here and below.
func (b *Broker) learn(node string, events []Event, snapshot bool) {
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
		if e := events[0]; e.Kind == RoomJoined || e.Kind == RoomLeft {
			// No more can change than that: no need to compare the rooms before and after.
			if r := c.find(e.Name, p); c.applyRoom(r, e) && b.isVisible(r) {
				b.notify(Event{Kind: e.Kind, Name: r.name, Room: e.Room, Node: p.name})
			}
			events = events[1:]
			b.letOthers()
			continue
		}
		name, n := events[0].Name, 1
		for n < len(events) && events[n].Name == name {
			n++
		}
		b.changeAnywhere(name, events[n-1].Cause, func() {
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
func (b *Broker) apply(p *peer, e Event) {
	c := b.cluster
	r := c.find(e.Name, p)
	switch e.Kind {
	case Joined:
		vouched := r != nil && r.vouched
		if r != nil { // it was moving, or this is told anew
			r.vouched = false
			b.drop(r)
		}
		c.add(e.Name, p).vouched = vouched
		b.dropMoving(e.Name, p)
	case Left:
		b.dropMoving(e.Name, p)
		b.applyLeft(p, r, e)
	default:
		c.applyRoom(r, e)
	}
}

// applyRoom notes that r, unless it is nil, has joined or left a room, and reports whether that
// is new.
func (c *cluster) applyRoom(r *remote, e Event) bool {
	switch {
	case r == nil:
		return false
	case e.Kind == RoomJoined:
		return c.join(r, e.Room)
	case e.Kind == RoomLeft:
		return c.leave(r, e.Room)
	}
	return false
}

// applyLeft notes that the name has left p, where r is if it is not nil: for good, or
// for e.Node, which takes it over.
func (b *Broker) applyLeft(p *peer, r *remote, e Event) {
	c := b.cluster
	switch {
	case e.Node == c.self && c.claims.Get(e.Name) != nil:
		if r != nil {
			r.leaving = true // until the claim is over
		}
		return
	case e.Node == c.self && b.names.Get(e.Name) == nil:
		// It is not about to come here, or has left already.
		c.told = append(c.told, Event{Kind: Left, Name: e.Name, Cause: e.Cause})
	case e.Node != "" && r != nil:
		c.move(p, e.Name, e.Node, r.roomNames())
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

// forget is Node.Forget.
func (b *Broker) forget(node string, cause error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p := b.cluster.peers[node]; p != nil {
		delete(b.cluster.peers, node)
		b.dropAll(cause, func(r *remote) bool { return r.at == p || r.from == p })
	}
}

// snapshotFor is Node.Snapshot.
func (b *Broker) snapshotFor(f func(events []Event)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f(b.eventsOf(b.all.Members()))
}

// missed is Node.Missed.
func (b *Broker) missed(node string, messages int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.notify(Event{Kind: Gap, Node: node, Missed: messages})
}
