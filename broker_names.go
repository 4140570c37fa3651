package sendq

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/sendq-go/sendq/internal/set"
	"github.com/sendq-go/sendq/relay"
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

	// writers is a snapshot of the Writers that have the name, which current returns. It is
	// nil if they have changed since. It is stored under Broker.mu, and read without.
	writers atomic.Pointer[[]*Writer]

	broker *Broker

	// Guarded by Broker.mu.
	first, last *holder                    // more than one only with Attach, none when the name is free again
	index       *set.Map[*Writer, *holder] // of all holders, once there were several
	rooms       set.Set[*group]            // those it is a member of
}

// A holder is a Writer that has a name. The holders of a name are a list, in the order in which
// they have got it, so that each comes and goes at the same cost, however many there are.
type holder struct {
	writer     *Writer
	hook       endHook
	next, prev *holder
}

// current returns the Writers that have the name, the oldest first. Broker.mu is not held.
func (n *named) current() *[]*Writer {
	if writers := n.writers.Load(); writers != nil {
		return writers
	}
	return n.makeCurrent()
}

func (n *named) makeCurrent() *[]*Writer {
	n.broker.mu.Lock()
	defer n.broker.mu.Unlock()
	if writers := n.writers.Load(); writers != nil {
		return writers // somebody else was first
	}
	return n.snapshot()
}

// snapshot stores the Writers that have the name, and returns them. Broker.mu is held, here and
// below.
func (n *named) snapshot() *[]*Writer {
	var writers []*Writer
	for h := n.first; h != nil; h = h.next {
		writers = append(writers, h.writer)
	}
	n.writers.Store(&writers)
	return &writers
}

// changed ends a change of the holders. Those who send learn of it. If there are several
// Writers, the snapshot is made when somebody sends next, or many that come in a row would cost
// a copy each.
func (n *named) changed() {
	if n.first == n.last {
		n.snapshot()
	} else {
		n.writers.Store(nil)
	}
}

// holder returns the holder that w is, or nil.
func (n *named) holder(w *Writer) *holder {
	if n.index != nil {
		return n.index.Get(w)
	}
	if n.first != nil && n.first.writer == w {
		return n.first
	}
	return nil
}

// add makes h the last holder.
func (n *named) add(h *holder) {
	if n.first == nil {
		n.first = h
	} else {
		n.last.next, h.prev = h, n.last
		if n.index == nil {
			n.index = new(set.Map[*Writer, *holder])
			n.index.Put(n.first.writer, n.first)
		}
		n.index.Put(h.writer, h)
	}
	n.last = h
}

// remove removes h from the holders. Its end does not matter any longer.
func (n *named) remove(h *holder) {
	h.writer.removeEndHook(&h.hook)
	if h.prev != nil {
		h.prev.next = h.next
	} else {
		n.first = h.next
	}
	if h.next != nil {
		h.next.prev = h.prev
	} else {
		n.last = h.prev
	}
	if n.index != nil {
		n.index.Remove(h.writer)
	}
	if n.first == n.last {
		n.index = nil
	}
}

// Register gives name to w until w ends or Unregister is called. If another Writer has it,
// BrokerOptions.Names says what happens; with Reject, the default, Register fails with
// ErrNameTaken, as it always does if w itself has the name. It fails with ErrClosed if w
// has ended or the Broker has been shut down. If it fails, w lives on.
//
// A Writer may have several names; the empty string is a name like any other.
//
// With a Relay, Register waits until no other node has the name, or, with Takeover, until that
// node has given it up. It fails if that is not known within the Relay's timeout.
// Registrations of one name wait for each other.
func (b *Broker) Register(name string, w *Writer) error {
	return b.RegisterContext(context.Background(), name, w)
}

// RegisterContext is Register, but stops waiting when ctx is done. It fails with an error that
// wraps context.Cause(ctx) then, and w does not have the name. What another node has given up by
// then goes to OnUndelivered on one of the two nodes. RegisterContext panics if ctx is nil.
func (b *Broker) RegisterContext(ctx context.Context, name string, w *Writer) error {
	requireContext(ctx)
	if isDone, err := b.registerAtOnce(name, w); isDone {
		return err
	}
	t, err := b.takeTurn(ctx, name)
	if err != nil {
		return fmt.Errorf("sendq: register %q: %w", name, err)
	}
	defer b.endTurn(t)
	return b.register(ctx, t, w)
}

// registerAtOnce registers or refuses w, unless it has to wait for other nodes or for the
// Writer that has the name.
func (b *Broker) registerAtOnce(name string, w *Writer) (isDone bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.names.Get(name)
	claims := n == nil && b.cluster != nil
	takesOver := n != nil && b.opts.Names == Takeover && n.holder(w) == nil
	if claims || takesOver {
		return false, nil
	}
	return true, b.add(n, name, w)
}

// register gives w a name whose turn the caller has. mu is not held.
func (b *Broker) register(ctx context.Context, t *turn, w *Writer) error {
	n, old, err := b.replace(t.name, w)
	switch {
	case err != nil:
		return err
	case old != nil:
		b.takeOver(n, old, w)
		return nil
	case b.cluster != nil:
		return b.claimName(ctx, t, w)
	}
	return nil
}

func errShutDown(name string) error {
	return fmt.Errorf("sendq: register %q: Broker is shut down: %w", name, ErrClosed)
}

func errWriterClosed(name string) error {
	return fmt.Errorf("sendq: register %q: Writer is closing or has ended: %w", name, ErrClosed)
}

// add gives the name to w: alone if n is nil, or beside those that have it. mu is held,
// here and below where it does not say otherwise.
func (b *Broker) add(n *named, name string, w *Writer) error {
	switch {
	case b.closed:
		return errShutDown(name)
	case n != nil && (b.opts.Names != Attach || n.holder(w) != nil):
		return fmt.Errorf("%w: %q", ErrNameTaken, name)
	}
	isNew := n == nil
	if isNew {
		n = &named{name: name, broker: b}
	}
	h, err := b.follow(n, w)
	if err != nil {
		return err
	}
	n.add(h)
	n.changed()
	if isNew {
		b.change(name, nil, func() {
			b.names.Put(name, n)
			b.all.Add(n)
			b.announce(relay.Event{Kind: relay.EventJoined, Name: name})
		})
	}
	return nil
}

// follow returns w as a holder of the name, which must be added. The Broker counts w from now on
// and learns of its end.
func (b *Broker) follow(n *named, w *Writer) (*holder, error) {
	h := &holder{writer: w}
	h.hook.ended = func() { n.broker.ended(n, w) }
	if !b.tally.follow(w, &h.hook) {
		return nil, errWriterClosed(n.name)
	}
	return h, nil
}

// detach takes the name away from w, and returns false if w did not have it. It compares
// Writers, not names: the end of a Writer must never remove the one that has the name
// after it.
func (b *Broker) detach(n *named, w *Writer) bool {
	h := n.holder(w)
	if h == nil {
		return false
	}
	n.remove(h)
	n.changed()
	return true
}

// ended is called when a Writer has ended that has the name, unless it has lost it
// meanwhile.
func (b *Broker) ended(n *named, w *Writer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.remove(n, w, w.Err()) && b.takeLeftovers(w) {
		b.handBackOf(n.name, w)
	}
}

// remove takes the name away from w, and tells whether w had it. If no other Writer is
// attached, the name is free then.
func (b *Broker) remove(n *named, w *Writer, cause error) bool {
	if !b.detach(n, w) {
		return false
	}
	if n.first != nil {
		return true
	}
	b.vacate(n, relay.Event{Kind: relay.EventLeft, Name: n.name, Cause: cause})
	return true
}

// vacate makes a name free that no Writer has any longer, and announces left.
func (b *Broker) vacate(n *named, left relay.Event) {
	b.change(n.name, causeOf(left), func() {
		b.names.Remove(n.name)
		for _, g := range n.rooms.Members() {
			b.leave(n, g)
		}
		b.all.Remove(n)
		b.announce(left)
	})
	if b.cluster != nil {
		b.cluster.transport.Release(n.name)
	}
}

// Unregister takes name away from w, and out of all rooms if no other Writer is attached,
// and tells whether w had it. If another Writer has the name by now, nothing happens.
// The Writer lives on.
func (b *Broker) Unregister(name string, w *Writer) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.names.Get(name)
	return n != nil && b.remove(n, w, nil)
}
