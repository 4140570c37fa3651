package sendq

import (
	"context"
	"errors"
	"slices"

	"github.com/sendq-go/sendq/internal/queue"
	"github.com/sendq-go/sendq/relay"
)

// claimName registers a name after the transport has made this node its owner. No Writer here has
// it. If Transport.Claim panics, the claim fails. b.mu is not held.
func (b *Broker) claimName(ctx context.Context, t *turn, w *Writer) (err error) {
	if err := b.beginClaim(t, w); err != nil {
		return err
	}
	var token uint64
	var h relay.Handover
	err = errNoAnswer
	defer func() { err = b.endClaim(t, w, token, &h, err) }()
	token, h, err = b.cluster.transport.Claim(ctx, t.name, b.opts.NamePolicy == NameTakeover)
	return err
}

// errNoAnswer is the error of a claim until Transport.Claim has returned.
var errNoAnswer = errors.New("sendq: no answer from the transport")

func (b *Broker) beginClaim(t *turn, w *Writer) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.cluster
	_, _, isElsewhere := c.directory.Where(t.name)
	switch state := w.currentState(); {
	case b.closed:
		return errShutDown(t.name)
	case state >= ended, state != open && isElsewhere && b.opts.NamePolicy == NameTakeover:
		return errWriterClosed(t.name)
	}
	t.isLost = false
	c.directory.Claim(t.name)
	c.claims.Add(1)
	return nil
}

// endClaim gives w the name if err is nil. It returns the error of the registration.
func (b *Broker) endClaim(t *turn, w *Writer, token uint64, h *relay.Handover, err error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer b.cluster.claims.Done()
	isOwner := err == nil
	switch {
	case isOwner && t.isLost:
		err = failed(ErrNameLost, "register %q", t.name)
	case isOwner:
		err = b.enter(t.name, w, h)
	}
	// The old owner may have announced that the name moves here.
	events := []relay.Event{{Kind: relay.EventLeft, Name: t.name, Token: token, Cause: ErrTakenOver}}
	if err == nil {
		events = []relay.Event{{Kind: relay.EventJoined, Name: t.name, Token: token}}
		for _, room := range h.Rooms {
			events = append(events, relay.Event{Kind: relay.EventRoomJoined, Name: t.name, Room: room})
		}
	}
	b.cluster.directory.EndClaim(t.name)
	b.applyOwn(events)
	if err == nil {
		b.pressedBy(b.names.Get(t.name), w)
	}
	if err == nil || token != 0 {
		b.cluster.transport.Announce(events)
	}
	b.handBackInherited(t.name, h.Undelivered)
	if isOwner && err != nil {
		b.cluster.transport.Release(t.name)
	}
	return err
}

// enter gives w a name granted to this node and the contents of its handover. Messages stay in h
// if w does not take them. b.mu is held, here and below.
func (b *Broker) enter(name string, w *Writer, h *relay.Handover) error {
	if len(h.Undelivered) > 0 {
		if !w.pause() {
			return errWriterClosed(name)
		}
		defer w.resume()
	}
	if err := b.add(nil, name, w); err != nil {
		return err
	}
	for _, room := range h.Rooms {
		b.insert(b.names.Get(name), b.makeRoom(room))
	}
	if w.inherit(queue.Of(h.Undelivered)) {
		h.Undelivered = nil
	}
	return nil
}

// currentState returns the Writer's state. It may be a later one by now.
func (w *Writer) currentState() state {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.state
}

// Evict implements [relay.Node]. The name leaves at once, and messages to it wait until the other
// node has announced it.
func (b node) Evict(ctx context.Context, name, by string, token uint64) (h relay.Handover, ok bool) {
	t, err := b.takeTurn(ctx, name)
	if err != nil {
		return h, false
	}
	defer b.endTurn(t)
	if ctx.Err() != nil { // the node by may have given up
		return h, false
	}
	w, rooms := b.takeAway(name, by, token)
	if w == nil {
		return h, false
	}
	isTaken := w.takeLeftovers() // before its end, which other names of w hear of too
	_ = w.abort(ErrTakenOver)
	if isTaken {
		h.Undelivered = slices.Collect(w.queue.Portable().All())
	}
	h.Rooms = rooms
	return h, true
}

// takeAway takes the name away from its Writer, and returns the Writer and the rooms of the name.
// w is nil if the name is free or was granted to this node later than to the node by.
func (b *Broker) takeAway(name, by string, token uint64) (w *Writer, rooms []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.names.Get(name)
	if _, newer, _ := b.cluster.directory.Where(name); n == nil || newer > token {
		return nil, nil
	}
	w, rooms = n.first.writer, b.cluster.directory.RoomsOf(name)
	b.detach(n, w)
	b.vacate(n, relay.Event{Kind: relay.EventMoved, Name: name, Token: token, To: by})
	return w, rooms
}

// NameLost implements [relay.Node].
func (b node) NameLost(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if t := b.turns.Get(name); t != nil {
		t.isLost = true
	}
	n := b.names.Get(name)
	if n == nil {
		return
	}
	w := n.first.writer
	b.detach(n, w)
	b.vacate(n, relay.Event{Kind: relay.EventLeft, Name: name, Cause: ErrNameLost})
	b.handbacks.expected++
	b.handbacks.parting.Add(w)
	go func() {
		defer b.handbackSettled()
		isTaken := b.takeLeftovers(w)
		w.dismiss(ErrNameLost)
		<-w.Done()
		b.mu.Lock()
		defer b.mu.Unlock()
		b.handbacks.parting.Remove(w)
		if isTaken {
			b.handBackOf(name, w)
		}
	}()
}

// HandBack implements [relay.Node].
func (b node) HandBack(name string, undelivered [][]byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.handBackInherited(name, undelivered)
}

// handBackInherited passes messages of a takeover between nodes to OnUndelivered. mu is held.
func (b *Broker) handBackInherited(name string, undelivered [][]byte) {
	if len(undelivered) > 0 {
		b.handBack(name, slices.Values(undelivered), ErrTakenOver)
	}
}
