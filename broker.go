package sendq

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"

	"golang.org/x/sync/errgroup"
)

// BrokerOptions configure a Broker. There are none yet.
type BrokerOptions struct{}

// A Broker delivers messages to Writers by name: to one, to all, or to the members of
// a room. It only ever queues them, so no call waits for a slow peer, and a stalled
// recipient holds up no other.
//
// Each of its methods may be called from any goroutine at any time. A message may be
// reused when the call that sent it returns; a message to many is copied once. What
// one goroutine sends reaches a recipient in the order of its calls, by whatever
// method, and all recipients see what is broadcast in one same order, as the members
// of a room do.
//
// A Broker keeps no goroutine. It must be made by NewBroker.
type Broker struct {
	// mu guards the names, the rooms and who is in them. It is never held while
	// messages are queued. It may be held while a Writer's lock is taken, but
	// not the other way round.
	mu     sync.Mutex
	names  map[string]*member
	rooms  map[string]*group // those with members
	all    *group            // the members that Broadcast reaches: every one
	closed bool              // no new names
}

// A member is a Writer under a name.
type member struct {
	name   string
	writer *Writer
	hook   endHook
	rooms  map[string]*group // those it is in
}

// NewBroker returns a Broker without names, with default options if opts is nil.
func NewBroker(opts *BrokerOptions) *Broker {
	return &Broker{
		names: make(map[string]*member),
		rooms: make(map[string]*group),
		all:   newGroup(""),
	}
}

// Register gives name to w until w ends or Unregister is called. It fails with
// ErrNameTaken if a Writer, be it w itself, has the name, and with ErrClosed if w has
// ended or the Broker has been shut down. A Writer may have several names; the empty
// string is a name like any other.
func (b *Broker) Register(name string, w *Writer) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return fmt.Errorf("sendq: register %q: Broker is shut down: %w", name, ErrClosed)
	}
	if b.names[name] != nil {
		return fmt.Errorf("%w: %q", ErrNameTaken, name)
	}
	m := &member{name: name, writer: w}
	m.hook.ended = func() { b.remove(m) }
	if !w.addEndHook(&m.hook) {
		return fmt.Errorf("sendq: register %q: Writer has ended: %w", name, ErrClosed)
	}
	b.names[name] = m
	b.all.add(m)
	return nil
}

// Unregister takes name away from w, out of all rooms, and tells whether w had it. If
// another Writer has the name by now, nothing happens. The Writer lives on.
func (b *Broker) Unregister(name string, w *Writer) bool {
	b.mu.Lock()
	m := b.names[name]
	b.mu.Unlock()
	if m == nil || m.writer != w {
		return false
	}
	w.removeEndHook(&m.hook)
	return b.remove(m)
}

// remove takes m out, and tells whether it was in. It compares members, not names:
// the end of a Writer must never remove the one that has the name after it.
func (b *Broker) remove(m *member) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.names[m.name] != m {
		return false
	}
	delete(b.names, m.name)
	b.all.remove(m)
	for room := range m.rooms {
		b.leave(m, room)
	}
	return true
}

// Lookup returns the Writer that has the name.
func (b *Broker) Lookup(name string) (*Writer, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	m := b.names[name]
	if m == nil {
		return nil, false
	}
	return m.writer, true
}

// Names yields the names at the moment when the iteration starts, in no order.
func (b *Broker) Names() iter.Seq[string] {
	return func(yield func(string) bool) { b.yieldNames(b.all, yield) }
}

// yieldNames yields the names of the members of g, which may be nil.
func (b *Broker) yieldNames(g *group, yield func(string) bool) {
	if g == nil {
		return
	}
	b.mu.Lock()
	members := g.snapshot()
	b.mu.Unlock()
	for _, m := range members {
		if !yield(m.name) {
			return
		}
	}
}

// Len returns the number of names.
func (b *Broker) Len() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.names)
}

// Send queues p for the Writer that has the name. It fails with ErrUnknownName if none
// has, and as Writer.Write does if that Writer refuses it. It never waits: where Write would, it
// fails with ErrWouldBlock.
func (b *Broker) Send(name string, p []byte) error {
	w, ok := b.Lookup(name)
	if !ok {
		return fmt.Errorf("%w: %q", ErrUnknownName, name)
	}
	m := copyOf(p)
	return w.send(neverWait, &m)
}

// Broadcast queues p for every Writer and returns how many accepted it, those not counted
// that dropped it at once. A Writer with several names gets it for each.
func (b *Broker) Broadcast(p []byte) int { return b.publish(b.all, p, nil) }

// BroadcastFrom is Broadcast to all names but sender.
func (b *Broker) BroadcastFrom(sender string, p []byte) int { return b.publish(b.all, p, &sender) }

// Shutdown takes no new names from now on, and ends all Writers at once as
// Writer.Shutdown does, within the bound of ctx. It returns nil if each delivered
// everything, and otherwise the errors of those that did not, each with its name,
// joined by errors.Join. Sends go on meanwhile, and are refused by the Writers.
func (b *Broker) Shutdown(ctx context.Context) error {
	return b.end(func(w *Writer) error { return w.Shutdown(ctx) })
}

// Close is Shutdown with the bound of each Writer's own CloseTimeout.
func (b *Broker) Close() error { return b.end((*Writer).Close) }

// end closes the Broker and applies endWriter to all Writers at once.
func (b *Broker) end(endWriter func(*Writer) error) error {
	b.mu.Lock()
	b.closed = true
	members := b.all.snapshot()
	b.mu.Unlock()
	errs := make([]error, len(members))
	var g errgroup.Group
	for i, m := range members {
		g.Go(func() error {
			if err := endWriter(m.writer); err != nil {
				errs[i] = fmt.Errorf("%s: %w", m.name, err)
			}
			return errs[i]
		})
	}
	if g.Wait() == nil {
		return nil
	}
	return errors.Join(errs...)
}
