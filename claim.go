package sendq

import "fmt"

// A claim is a name that is about to be registered here, once the Relay has made it this
// node's own.
type claim struct {
	over chan struct{} // closed when it is
	lost bool          // another node has the name by now
}

// claimName registers a name that no Writer has here. It fails with errChanged if that was
// being tried already, when that is over. b.mu is held, and released meanwhile.
func (b *Broker) claimName(name string, w *Writer) error {
	c := b.cluster
	switch other, state := c.claims.get(name), w.currentState(); {
	case b.closed:
		return errShutDown(name)
	case state >= ended, state != open && c.names.get(name) != nil && b.opts.Names == Takeover:
		return fmt.Errorf("sendq: register %q: Writer is closing or has ended: %w", name, ErrClosed)
	case other != nil:
		b.mu.Unlock()
		<-other.over
		b.mu.Lock()
		return errChanged
	}
	cl := &claim{over: make(chan struct{})}
	c.claims.put(name, cl)
	b.mu.Unlock()
	estate, err := c.relay.Claim(name, b.opts.Names == Takeover)
	b.mu.Lock()
	c.claims.remove(name)
	b.change(name, ErrTakenOver, func() {
		if err == nil {
			if err = b.enter(name, w, cl, &estate); err != nil {
				c.relay.Release(name)
			}
		}
		b.dropLeaving(name)
		if err != nil && b.opts.Names == Takeover {
			// Others may have noted that the name is about to come here.
			b.tell(Event{Kind: Left, Name: name, Cause: ErrTakenOver})
		}
	})
	b.handBackEstate(name, estate.Undelivered)
	close(cl.over)
	b.returned.none.Broadcast()
	return err
}

// enter gives w a name that is this node's own now, and what it has left on another. What w does
// not get stays in the estate. b.mu is held, here and below.
func (b *Broker) enter(name string, w *Writer, cl *claim, e *Estate) error {
	if cl.lost {
		return fmt.Errorf("sendq: register %q: %w", name, ErrNameLost)
	}
	if len(e.Undelivered) > 0 {
		if !w.hold() {
			return fmt.Errorf("sendq: register %q: Writer is closing: %w", name, ErrClosed)
		}
		defer w.letGo()
	}
	if err := b.add(nil, name, w); err != nil {
		return err
	}
	for _, room := range e.Rooms {
		b.join(b.names.get(name), b.makeRoom(room))
	}
	if w.inherit(queueOf(e.Undelivered)) {
		e.Undelivered = nil
	}
	return nil
}

// currentState returns the Writer's state, which may be a later one by now.
func (w *Writer) currentState() state {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.state
}

// queueOf returns a queue of messages, for a Writer to inherit.
func queueOf(messages [][]byte) *queue {
	q := new(queue)
	for _, p := range messages {
		q.keep(p)
	}
	q.share()
	return q
}
