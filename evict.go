package sendq

import "slices"

// evict is Node.Evict. A takeover by another node is one by a Writer that is not here: the
// name goes at once, and with it what is sent to it, which waits until the other node has
// said that it is there.
func (b *Broker) evict(name, by string) (e Estate, ok bool) {
	for {
		b.mu.Lock()
		n, cl := b.names.get(name), b.cluster.claims.get(name)
		b.mu.Unlock()
		switch {
		case n != nil:
			if e, ok = b.evictFrom(n, by); ok {
				return e, true
			}
		case cl != nil:
			<-cl.over
		default:
			return e, false
		}
	}
}

// evictFrom is evict unless the name is free meanwhile.
func (b *Broker) evictFrom(n *named, by string) (e Estate, ok bool) {
	n.taking.Lock()
	defer n.taking.Unlock()
	w, rooms := b.takeAway(n, by)
	if w == nil {
		return e, false
	}
	claimed := w.claim() // before its end, which other names of w hear of too
	_ = w.abort(ErrTakenOver)
	if claimed {
		e.Undelivered = slices.Collect(w.Undelivered())
	}
	e.Rooms = rooms
	return e, true
}

// takeAway takes the name away from its Writer, which it returns with the rooms of the name, or
// nil if the name is free.
func (b *Broker) takeAway(n *named, by string) (w *Writer, rooms []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n.first == nil {
		return nil, nil
	}
	w, rooms = n.first.writer, n.roomNames()
	b.changeAnywhere(n.name, ErrTakenOver, func() {
		b.detach(n, w)
		b.vacate(n, Event{Kind: Left, Name: n.name, Cause: ErrTakenOver, Node: by})
		b.cluster.move(nil, n.name, by, rooms)
	})
	return w, rooms
}

// lose is Node.Lose.
func (b *Broker) lose(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if cl := b.cluster.claims.get(name); cl != nil {
		cl.lost = true
	}
	n := b.names.get(name)
	if n == nil {
		return
	}
	w := n.first.writer
	b.detach(n, w)
	b.vacate(n, Event{Kind: Left, Name: name, Cause: ErrNameLost})
	b.returned.expected++
	go func() {
		defer b.doneExpecting()
		claimed := b.claim(w)
		_ = w.abort(ErrNameLost)
		if claimed {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.handBackOf(name, w)
		}
	}()
}

// handBackEstate hands back what a name has left that another node has taken over. mu is
// held.
func (b *Broker) handBackEstate(name string, undelivered [][]byte) {
	if len(undelivered) > 0 {
		b.handBack(name, slices.Values(undelivered), ErrTakenOver)
	}
}
