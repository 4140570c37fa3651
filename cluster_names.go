package sendq

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/sendq-go/sendq/internal/queue"
	"github.com/sendq-go/sendq/relay"
)

// A claim is a name that is about to be registered here, once the Relay has made it this
// node's own.
type claim struct {
	over chan struct{} // closed when it is
	lost bool          // another node has the name by now
}

// claimName registers a name that no Writer has here. It fails with errChanged if one has it by
// now, or if somebody else was claiming the name, when that is over. If Relay.Claim panics, the
// claim fails. b.mu is not held.
func (b *Broker) claimName(name string, w *Writer) (err error) {
	cl, err := b.beginClaim(name, w)
	if err != nil {
		return err
	}
	var e relay.Handover
	err = errNoAnswer
	defer func() { err = b.endClaim(name, w, cl, &e, err) }()
	e, err = b.cluster.transport.Claim(context.TODO(), name, b.opts.Names == Takeover)
	return err
}

// errNoAnswer is the error of a claim until Relay.Claim has returned.
var errNoAnswer = errors.New("sendq: no answer of the Relay")

func (b *Broker) beginClaim(name string, w *Writer) (*claim, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.cluster
	switch other, state := c.claims.Get(name), w.currentState(); {
	case b.names.Get(name) != nil:
		return nil, errChanged
	case b.closed:
		return nil, errShutDown(name)
	case state >= ended, state != open && c.names.Get(name) != nil && b.opts.Names == Takeover:
		return nil, fmt.Errorf("sendq: register %q: Writer is closing or has ended: %w", name, ErrClosed)
	case other != nil:
		b.mu.Unlock()
		<-other.over
		b.mu.Lock()
		return nil, errChanged
	}
	cl := &claim{over: make(chan struct{})}
	c.claims.Put(name, cl)
	return cl, nil
}

// endClaim gives w the name if err is nil. It returns why w does not have it.
func (b *Broker) endClaim(name string, w *Writer, cl *claim, e *relay.Handover, err error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer func() {
		close(cl.over)
		b.handbacks.idle.Broadcast()
	}()
	b.cluster.claims.Remove(name)
	isOurs := err == nil
	b.change(name, ErrTakenOver, func() {
		if isOurs {
			err = b.enter(name, w, cl, e)
		}
		b.dropLeaving(name)
	})
	if err != nil && b.opts.Names == Takeover {
		// Others may have noted that the name is about to come here. Here nobody has.
		b.cluster.transport.Announce([]relay.Event{{Kind: relay.EventLeft, Name: name, Cause: ErrTakenOver}})
	}
	b.handBackEstate(name, e.Undelivered)
	if isOurs && err != nil {
		b.cluster.transport.Release(name)
	}
	return err
}

// enter gives w a name that is this node's own now, and what it has left on another. What w does
// not get stays in the estate. b.mu is held, here and below.
func (b *Broker) enter(name string, w *Writer, cl *claim, e *relay.Handover) error {
	if cl.lost {
		return fmt.Errorf("sendq: register %q: %w", name, ErrNameLost)
	}
	if len(e.Undelivered) > 0 {
		if !w.pause() {
			return fmt.Errorf("sendq: register %q: Writer is closing: %w", name, ErrClosed)
		}
		defer w.resume()
	}
	if err := b.add(nil, name, w); err != nil {
		return err
	}
	for _, room := range e.Rooms {
		b.join(b.names.Get(name), b.makeRoom(room))
	}
	if w.inherit(queue.Of(e.Undelivered)) {
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

// Evict implements [relay.Node]. A takeover by another node is one by a Writer that is not here: the
// name goes at once, and with it what is sent to it, which waits until the other node has
// said that it is there.
func (b node) Evict(ctx context.Context, name, by string) (e relay.Handover, ok bool) {
	for {
		b.mu.Lock()
		n, cl := b.names.Get(name), b.cluster.claims.Get(name)
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
func (b *Broker) evictFrom(n *named, by string) (e relay.Handover, ok bool) {
	n.taking.Lock()
	defer n.taking.Unlock()
	w, rooms := b.takeAway(n, by)
	if w == nil {
		return e, false
	}
	claimed := w.takeLeftovers() // before its end, which other names of w hear of too
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
		b.vacate(n, relay.Event{Kind: relay.EventMoved, Name: n.name, To: by})
		b.cluster.move(nil, n.name, by, rooms)
	})
	return w, rooms
}

// NameLost implements [relay.Node].
func (b node) NameLost(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if cl := b.cluster.claims.Get(name); cl != nil {
		cl.lost = true
	}
	n := b.names.Get(name)
	if n == nil {
		return
	}
	w := n.first.writer
	b.detach(n, w)
	b.vacate(n, relay.Event{Kind: relay.EventLeft, Name: name, Cause: ErrNameLost})
	b.handbacks.expected++
	go func() {
		defer b.handbackSettled()
		claimed := b.takeLeftovers(w)
		_ = w.abort(ErrNameLost)
		if claimed {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.handBackOf(name, w)
		}
	}()
}

// HandBack implements [relay.Node].
func (b node) HandBack(name string, undelivered [][]byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.handBackEstate(name, undelivered)
}

// handBackEstate hands back what a name has left that another node has taken over. mu is
// held.
func (b *Broker) handBackEstate(name string, undelivered [][]byte) {
	if len(undelivered) > 0 {
		b.handBack(name, slices.Values(undelivered), ErrTakenOver)
	}
}
