package sendq

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/sendq-go/sendq/internal/queue"
	"github.com/sendq-go/sendq/relay"
)

// claimName registers a name after the transport has made this node its owner. No Writer here has
// it. If Transport.Claim panics, the claim fails. b.mu is not held.
func (b *Broker) claimName(ctx context.Context, t *turn, s *successor) (err error) {
	c := claim{successor: s, err: errNoAnswer}
	if err := b.beginClaim(t, &c); err != nil {
		return err
	}
	defer func() { err = b.endClaim(t, &c) }()
	token, h, err := b.cluster.transport.Claim(ctx, t.name, s.takesOver)
	c.token, c.rooms, c.heard, c.since = token, h.Rooms, h.Heard, cmp.Or(h.Since, token)
	c.estate, c.err = s.estateFrom(h), err
	if err == nil {
		s.prepare()
	}
	return err
}

// A claim is the result of Transport.Claim.
type claim struct {
	*successor
	holder *holder // so the Writer leaves an heir if it fails before the name is here
	token  uint64
	rooms  []string
	heard  map[string]uint64
	since  uint64
	estate *queue.Queue // nil if there was no answer, or the successor has taken it
	err    error
}

// errNoAnswer is the error of a claim until Transport.Claim has returned.
var errNoAnswer = errors.New("sendq: no answer from the transport")

func (b *Broker) beginClaim(t *turn, c *claim) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, _, isElsewhere := b.cluster.directory.Where(t.name)
	if b.closed {
		return errShutDown(t.name)
	}
	if isElsewhere && c.takesOver && c.currentState() != open {
		return errWriterClosed(t.name)
	}
	if c.holder = (&member{name: t.name, broker: b}).expect(c.Writer, c.addEndHooks); c.holder == nil {
		return errWriterClosed(t.name)
	}
	t.isLost = false
	b.cluster.directory.Claim(t.name)
	b.cluster.claims.Add(1)
	return nil
}

// endClaim gives the successor the name if the claim has succeeded. It returns the error of the
// registration.
func (b *Broker) endClaim(t *turn, c *claim) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer b.cluster.claims.Done()
	isOwner, err := c.err == nil, c.err
	switch {
	case isOwner && t.isLost:
		err = failed(ErrNameLost, "register %q", t.name)
	case isOwner:
		err = b.enter(c)
	}
	// The old owner may have announced that the name moves here.
	events := []relay.Event{{Kind: relay.EventLeft, Name: t.name, Token: c.token, Cause: ErrTakenOver}}
	if err == nil {
		events = []relay.Event{{Kind: relay.EventJoined, Name: t.name, Token: c.token, Heard: b.cluster.heardBy(c.holder.member), Since: c.since}}
		for _, room := range c.rooms {
			events = append(events, relay.Event{Kind: relay.EventRoomJoined, Name: t.name, Room: room})
		}
	}
	b.cluster.directory.EndClaim(t.name)
	b.applyOwn(events)
	if err == nil || c.token != 0 {
		b.cluster.transport.Announce(events)
	}
	if n := c.holder.member; err == nil {
		b.pressedBy(n, c.Writer)
		if c.currentState() >= ended {
			b.lost(n, c.Writer)
		}
	} else {
		c.holder.leave()
		c.endUnneeded(c.currentHeir())
	}
	if c.estate != nil {
		b.handBackEstate(t.name, c.estate)
	}
	if isOwner && err != nil {
		b.cluster.transport.Release(t.name)
	}
	return err
}

// enter gives the successor a name granted to this node and what the name brings along. b.mu is held,
// here and below.
func (b *Broker) enter(c *claim) error {
	n := c.holder.member
	hasEstate := !c.estate.Empty() || c.reply != nil
	switch {
	case b.closed:
		return errShutDown(n.name)
	case c.pause():
		defer c.resume()
	case c.currentHeir() == nil && (hasEstate || c.currentState() >= parting):
		return errWriterClosed(n.name)
	}
	b.tally.Add(c.Writer)
	b.enterName(n, c.holder)
	for _, room := range c.rooms {
		b.insert(n, b.makeRoom(room))
	}
	n.since = c.since
	if c.heard != nil {
		b.arrive(c)
	}
	if c.inherit(c.estate) {
		c.estate = nil
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
	heard, since := b.leaveGroups(name, token)
	w, rooms := b.takeAway(name, by, token)
	if w == nil {
		return h, false
	}
	isTaken := w.takeLeftovers() // before its end, which other names of w hear of too
	_ = w.abort(ErrTakenOver)
	if isTaken {
		h = w.settle(ErrTakenOver).handover()
	}
	h.Rooms, h.Heard, h.Since = rooms, heard, since
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
	if b.slow.Get(n) != nil { // no EventLeft follows
		b.slow.Remove(n)
		b.notify(Event{Kind: EventSteady, Name: name})
	}
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
		w.endUnneeded(w.currentHeir())
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
