package sendq

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
)

// A NamePolicy is what a Broker does when a name is registered that a Writer has already: it
// refuses the second Writer (Reject), gives it the name (Takeover), or lets them share it
// (Attach).
type NamePolicy uint8

const (
	// Reject refuses the new Writer: Register fails with ErrNameTaken.
	Reject NamePolicy = iota

	// Takeover gives the name, with the rooms it is in, to the new Writer. The old one ends
	// with ErrTakenOver, and what it had not written the new one writes first: each
	// message in order and once, though of one the old peer may have got a part. Register
	// waits until the old Writer has ended, and no message to the name is lost meanwhile.
	//
	// The old Writer counts these messages as undelivered, and its Undelivered yields
	// them: they must not be sent again. The new one accepts them whatever its
	// MaxPending. With Disconnect, they never count at MaxPending; with the other policies,
	// a later message finds no room while they fill it. MaxAge and Budget hold for them
	// as well. An old Writer that is closing is taken over like any other. A new one that
	// is closing is refused with ErrClosed.
	//
	// It may also be on another node than the old one, and it is all the same. If it ends before
	// it has got what the old one left, OnUndelivered of its Broker gets that.
	Takeover

	// Attach lets several Writers share the name, as the devices of one user do: each
	// gets every message, and they are in the same rooms. The name lasts until the last of
	// them ends. A message counts as accepted if one of them accepts it. BroadcastFrom and
	// PublishFrom leave out the name, so no device of the sender gets the message.
	Attach
)

func (p NamePolicy) String() string {
	switch p {
	case Reject:
		return "Reject"
	case Takeover:
		return "Takeover"
	case Attach:
		return "Attach"
	}
	return fmt.Sprintf("NamePolicy(%d)", uint8(p))
}

// A named is a name in use: who has it, and where it is a member.
type named struct {
	name string

	// taking is held during a takeover, so that there is one at a time. It is taken
	// before any other lock.
	taking sync.Mutex

	// writers has more than one only with Attach, and none when the name is free
	// again. It is changed, by a new slice, under Broker.mu, and read without.
	writers atomic.Pointer[[]*Writer]

	// Guarded by Broker.mu.
	hooks []*endHook // of the writers, in their order
	rooms []*group   // those it is a member of
}

// Register gives name to w until w ends or Unregister is called. If another Writer has it,
// BrokerOptions.Names says what happens; with Reject, the default, Register fails with
// ErrNameTaken, as it always does if w itself has the name. It fails with ErrClosed if w
// has ended or the Broker has been shut down. If it fails, w lives on.
//
// A Writer may have several names; the empty string is a name like any other.
//
// With a Relay, Register waits until it is known that no other node has the name, or, with
// Takeover, until that node has given it up. It fails if that is not known within the bound
// of the Relay. Registrations of one name wait for each other.
func (b *Broker) Register(name string, w *Writer) error {
	for {
		if err := b.register(name, w); err != errChanged {
			return err
		}
	}
}

// errChanged says that a name has changed hands since Register looked at it.
var errChanged = errors.New("changed")

func (b *Broker) register(name string, w *Writer) error {
	b.mu.Lock()
	n := b.names[name]
	if n != nil && b.opts.Names == Takeover && !slices.Contains(*n.writers.Load(), w) {
		b.mu.Unlock()
		return b.takeOver(n, w)
	}
	defer b.mu.Unlock()
	if n == nil && b.cluster != nil {
		return b.claimName(name, w)
	}
	return b.add(n, name, w)
}

func errShutDown(name string) error {
	return fmt.Errorf("sendq: register %q: Broker is shut down: %w", name, ErrClosed)
}

// add gives the name to w: alone if n is nil, or beside those that have it. mu is held,
// here and below where it does not say otherwise.
func (b *Broker) add(n *named, name string, w *Writer) error {
	switch {
	case b.closed:
		return errShutDown(name)
	case n != nil && (b.opts.Names != Attach || slices.Contains(*n.writers.Load(), w)):
		return fmt.Errorf("%w: %q", ErrNameTaken, name)
	}
	isNew := n == nil
	if isNew {
		n = &named{name: name}
		n.writers.Store(new([]*Writer))
	}
	if err := b.attach(n, w); err != nil {
		return err
	}
	if isNew {
		b.change(name, nil, func() {
			b.names[name] = n
			b.all.add(n)
			b.tell(Event{Kind: Joined, Name: name})
		})
	}
	return nil
}

// attach adds w to those that have the name.
func (b *Broker) attach(n *named, w *Writer) error {
	h, err := b.follow(n, w)
	if err != nil {
		return err
	}
	n.hooks = append(n.hooks, h)
	writers := append(slices.Clip(*n.writers.Load()), w)
	n.writers.Store(&writers)
	return nil
}

// follow sees to it that the Broker learns of the end of w.
func (b *Broker) follow(n *named, w *Writer) (*endHook, error) {
	b.tally.Add(w)
	h := &endHook{ended: func() { b.ended(n, w) }}
	if !w.addEndHook(h) {
		return nil, fmt.Errorf("sendq: register %q: Writer has ended: %w", n.name, ErrClosed)
	}
	return h, nil
}

// detach takes the name away from w, and returns false if w did not have it. It compares
// Writers, not names: the end of a Writer must never remove the one that has the name
// after it.
func (b *Broker) detach(n *named, w *Writer) bool {
	writers := *n.writers.Load()
	i := slices.Index(writers, w)
	if i < 0 {
		return false
	}
	w.removeEndHook(n.hooks[i])
	n.hooks = slices.Delete(n.hooks, i, i+1)
	writers = slices.Concat(writers[:i], writers[i+1:])
	n.writers.Store(&writers)
	return true
}

// ended is called when a Writer has ended that has the name, unless it has lost it
// meanwhile.
func (b *Broker) ended(n *named, w *Writer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.remove(n, w, w.Err()) && w.claim() {
		b.handBackOf(n.name, w)
	}
}

// remove takes the name away from w, and tells whether w had it. If no other Writer is
// attached, the name is free then.
func (b *Broker) remove(n *named, w *Writer, cause error) bool {
	if !b.detach(n, w) {
		return false
	}
	if len(*n.writers.Load()) > 0 {
		return true
	}
	b.vacate(n, Event{Kind: Left, Name: n.name, Cause: cause})
	return true
}

// vacate makes a name free that no Writer has any more, and tells so by left.
func (b *Broker) vacate(n *named, left Event) {
	b.change(n.name, left.Cause, func() {
		delete(b.names, n.name)
		for _, g := range n.rooms {
			b.leave(n, g)
		}
		b.all.remove(n)
		b.tell(left)
	})
	if b.cluster != nil {
		b.cluster.relay.Release(n.name)
	}
}

// Unregister takes name away from w, and out of all rooms if no other Writer is attached,
// and tells whether w had it. If another Writer has the name by now, nothing happens.
// The Writer lives on.
func (b *Broker) Unregister(name string, w *Writer) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.names[name]
	return n != nil && b.remove(n, w, nil)
}
