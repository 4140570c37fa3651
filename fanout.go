package sendq

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
)

// A group is whom a message fans out to: the members of a room, or all of a Broker.
type group struct {
	room string // the room's name

	// order is held by whoever publishes to the group, so that all members get
	// its messages in one same order. It is taken before Broker.mu. It guards the
	// log and what is kept of it.
	order sync.Mutex
	log   log
	kept  history

	// Guarded by Broker.mu.
	members []*named
	index   map[*named]int // where in members
	frozen  bool           // somebody reads members: change a copy
	users   int            // who publish, or are about to
}

func newGroup(room string) *group { return &group{room: room, index: make(map[*named]int)} }

// snapshot returns the members, which nobody will change. It copies nothing: the next
// change does, once, however many snapshots were taken and changes follow.
func (g *group) snapshot() []*named {
	g.frozen = true
	return g.members
}

func (g *group) thaw() {
	if g.frozen {
		g.members = slices.Clone(g.members)
		g.frozen = false
	}
}

func (g *group) has(n *named) bool {
	_, ok := g.index[n]
	return ok
}

func (g *group) add(n *named) {
	g.thaw()
	g.index[n] = len(g.members)
	g.members = append(g.members, n)
}

func (g *group) remove(n *named) {
	g.thaw()
	i, last := g.index[n], len(g.members)-1
	delete(g.index, n)
	if i < last {
		g.members[i] = g.members[last]
		g.index[g.members[i]] = i
	}
	g.members[last] = nil
	g.members = g.members[:last]
}

// A target is whom a message is for.
type target struct {
	kind   targetKind
	name   string // of the recipient, or of the room
	except bool   // all but the sender
	sender string
}

type targetKind uint8

const (
	toName targetKind = iota
	toRoom
	toAll
)

// from returns t without the sender.
func (t target) from(sender string) target {
	t.except, t.sender = true, sender
	return t
}

// use returns the group that t means, or nil, and keeps it until done. mu is not held.
func (b *Broker) use(t target) *group {
	b.mu.Lock()
	defer b.mu.Unlock()
	g := b.all
	if t.kind == toRoom {
		g = b.rooms[t.name]
	}
	if g != nil {
		g.users++
	}
	return g
}

// recipients returns the members of g but the one that t excepts. mu is not held.
func (b *Broker) recipients(g *group, t target) (members []*named, except *named) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if t.except {
		except = b.names[t.sender]
	}
	return g.snapshot(), except
}

// done ends what use began. A room that its last member has left is forgotten then, and not
// while a message is under way: otherwise those who come back meanwhile could make the room
// anew, and see the next message before this one.
func (b *Broker) done(g *group) {
	b.mu.Lock()
	defer b.mu.Unlock()
	g.users--
	b.forgetIfEmpty(g)
}

// forgetIfEmpty forgets a room without members that nobody uses. mu is held.
func (b *Broker) forgetIfEmpty(g *group) {
	if len(g.members) == 0 && g.users == 0 && b.rooms[g.room] == g {
		delete(b.rooms, g.room)
	}
}

// deliver queues messages for t and returns how often one was accepted. If refused is not
// nil, it gets the others. The Writers that have been idle go to idle, which must be started.
func (b *Broker) deliver(t target, messages [][]byte, idle *crew, refused *[]Refusal) (accepted int) {
	if t.kind != toName {
		return b.publish(t, messages, idle, refused)
	}
	for _, p := range messages {
		m := letter(p)
		m.idle = idle
		took, err := b.post(t.name, m)
		accepted += took
		if err != nil && refused != nil {
			*refused = append(*refused, Refusal{t.name, 1, false, err})
		}
	}
	return accepted
}

// publishOne is publish of one message.
func (b *Broker) publishOne(t target, p []byte) int {
	idle := newCrew()
	defer idle.start()
	return b.publish(t, [][]byte{p}, idle, nil)
}

// publish is deliver to a group.
//
// A message is copied once, and queued without Broker.mu: a large fan-out holds up
// neither those who join and leave nor messages to one name.
func (b *Broker) publish(t target, messages [][]byte, idle *crew, refused *[]Refusal) (accepted int) {
	g := b.use(t)
	if g == nil {
		return 0
	}
	defer b.done(g)
	g.order.Lock()
	defer g.order.Unlock()
	members, except := b.recipients(g, t)
	m := mail{idle: idle}
	for len(messages) > 0 {
		m.block, m.first, m.last = g.log.append(messages)
		messages = messages[m.messages():]
		for _, n := range members {
			if n == except {
				continue
			}
			took, err := n.deliver(&m)
			accepted += took
			if err != nil && refused != nil {
				*refused = append(*refused, Refusal{n.name, m.messages() - took, true, err})
			}
		}
		if g != b.all {
			g.kept.add(&m, &b.opts)
		}
	}
	return accepted
}

// A mail is what a Broker delivers: a message to copy, or messages [first, last) of a block.
type mail struct {
	copied      []byte
	block       *block
	first, last int

	// idle, if it is not nil, gets the Writers whose flusher must be started, which waits
	// until all is queued for all.
	idle *crew
}

func (m *mail) messages() int {
	if m.block == nil {
		return 1
	}
	return m.last - m.first
}

// deliver queues m for those that have the name, and returns how many of its messages were
// accepted, and if not all, why one was not.
func (n *named) deliver(m *mail) (accepted int, err error) {
	rest, left := *m, m.messages()
	for {
		writers := n.writers.Load()
		took, refused := rest.post(*writers)
		accepted += took
		rest.first += took
		left -= took
		switch {
		case left == 0:
			return accepted, err
		case !errors.Is(refused, net.ErrClosed) && len(*writers) > 0:
			err = refused
			rest.first++ // those behind it may be accepted
			if left--; left == 0 {
				return accepted, err
			}
		case len(*writers) == 0:
			return accepted, fmt.Errorf("%w: %q", ErrUnknownName, n.name)
		case n.writers.Load() == writers:
			return accepted, refused
		}
		// Otherwise another Writer has the name since.
	}
}

// post posts m to those that have a name, up to the first message that none of them accepts.
// It returns how many come before that, and why it was not accepted.
func (m *mail) post(writers []*Writer) (accepted int, err error) {
	if len(writers) == 1 {
		return writers[0].post(m)
	}
	one := *m
	for ; accepted < m.messages(); accepted++ {
		one.first = m.first + accepted
		one.last = one.first + 1
		err = nil
		isAccepted := false
		for _, w := range writers {
			_, refused := w.post(&one)
			switch {
			case refused == nil:
				isAccepted = true
			case err == nil || !errors.Is(refused, net.ErrClosed):
				err = refused
			}
		}
		if !isAccepted {
			return accepted, err
		}
	}
	return accepted, nil
}

// post accepts what m brings, up to the first message that it refuses. It returns how many
// come before that, and why it was refused. It never waits.
func (w *Writer) post(m *mail) (accepted int, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if m.idle != nil {
		w.held++
		defer func() {
			if w.held--; !w.queue.empty() && w.startFlushing() {
				m.idle.writers = append(m.idle.writers, w)
			}
		}()
	}
	switch {
	case m.block == nil:
		if err = w.offer(&message{copied: m.copied}); err == nil {
			accepted = 1
		}
	case w.limits == nil && w.state != open:
		err = w.refusal()
	case w.limits == nil:
		accepted = m.messages()
		w.accept(accepted, w.queue.push(m.block, m.first, m.last))
	default:
		for i := m.first; i < m.last; i++ {
			if err = w.offer(&message{block: m.block, index: i}); err != nil {
				break
			}
			accepted++
		}
	}
	return accepted, err
}
