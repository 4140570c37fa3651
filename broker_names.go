package sendq

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/sendq-go/sendq/internal/set"
	"github.com/sendq-go/sendq/relay"
)

// A NamePolicy determines what a Broker does when a name is taken already: it refuses the second
// Writer (NameReject), gives it the name (NameTakeover), or lets both share it (NameAttach).
type NamePolicy uint8

const (
	// NameReject refuses the new Writer: Register fails with ErrNameTaken.
	NameReject NamePolicy = iota

	// NameTakeover gives the name, with its rooms, to the new Writer. The old Writer ends with
	// ErrTakenOver. The new Writer first writes the messages the old one had not written, in
	// order and once; the old peer may have received part of the first one. Messages of WriteUrgent
	// and CloseWith are discarded instead, because they are for the old connection. Register waits
	// until the old Writer has ended, and no message to the name is lost in that time.
	//
	// Do not send these messages again, although the old Writer counts them as undelivered and
	// its Undelivered yields them. If the new Writer ends before it has received them, its
	// Broker passes them to OnUndelivered.
	//
	// The two Writers may be on different nodes. An old Writer that is closing is taken over
	// like any other. A new Writer that is closing is refused with ErrClosed.
	//
	// The limits of the new Writer treat these messages as follows:
	//
	//   - MaxPending: all are accepted. With Disconnect they never count. With the other
	//     policies they count, so a later message may find no room.
	//   - Budget: they count.
	//   - MaxAge: their age begins at the takeover.
	NameTakeover

	// NameAttach lets several Writers share the name, like the devices of one user: each gets
	// every message, and all are in the same rooms. The name lasts until the last Writer
	// ends. A message counts as accepted if one Writer accepts it. BroadcastFrom and
	// PublishFrom leave out the name, so no device of the sender gets the message.
	NameAttach
)

func (p NamePolicy) String() string {
	switch p {
	case NameReject:
		return "Reject"
	case NameTakeover:
		return "Takeover"
	case NameAttach:
		return "Attach"
	}
	return fmt.Sprintf("NamePolicy(%d)", uint8(p))
}

// A member is a name in use, with its Writers and its rooms.
type member struct {
	name string

	// writers is a snapshot of the Writers of the name, for current. It is nil if they have
	// changed since. It is stored under Broker.mu, and read without.
	writers atomic.Pointer[[]*Writer]

	broker *Broker

	// Guarded by Broker.mu.
	first, last *holder                    // more than one only with NameAttach, none when the name is free again
	index       *set.Map[*Writer, *holder] // of all holders, once there were several
	rooms       set.Set[*group]            // those it is a member of
	isMoving    bool                       // to another node; it is in no group any longer
	since       uint64                     // token of the grant since which the name only moves between nodes
}

// A holder is a Writer of a name. The holders of a name are a list, the oldest first, so each
// comes and goes at the same cost, whatever their number.
type holder struct {
	member     *member
	writer     *Writer
	hook       endHook
	next, prev *holder
}

// expect returns a holder for w, or nil if w has ended. add adds the hook by which the Broker hears of
// the end of w.
func (n *member) expect(w *Writer, add func(...*endHook) bool) *holder {
	h := &holder{member: n, writer: w}
	h.hook.ended = func() { n.broker.ended(n, w) }
	if !w.hasName(n) { // first, because a Writer that fails from now on leaves an heir
		return nil
	}
	if !add(&h.hook) {
		w.lostName(n)
		return nil
	}
	return h
}

// leave undoes expect.
func (h *holder) leave() {
	h.writer.removeEndHook(&h.hook)
	h.writer.lostName(h.member)
}

// current returns the Writers of the name, the oldest first. Broker.mu is not held.
func (n *member) current() *[]*Writer {
	if writers := n.writers.Load(); writers != nil {
		return writers
	}
	return n.makeCurrent()
}

func (n *member) makeCurrent() *[]*Writer {
	n.broker.mu.Lock()
	defer n.broker.mu.Unlock()
	if writers := n.writers.Load(); writers != nil {
		return writers // somebody else was first
	}
	return n.snapshot()
}

// snapshot stores the Writers of the name and returns them. Broker.mu is held, here and below.
func (n *member) snapshot() *[]*Writer {
	var writers []*Writer
	for h := n.first; h != nil; h = h.next {
		writers = append(writers, h.writer)
	}
	n.writers.Store(&writers)
	return &writers
}

// changed ends a change of the holders and shows it to senders. If there are several Writers,
// the next sender makes the snapshot; otherwise many additions in a row would cost a copy each.
func (n *member) changed() {
	if n.first == n.last {
		n.snapshot()
	} else {
		n.writers.Store(nil)
	}
}

// holder returns the holder of w, or nil.
func (n *member) holder(w *Writer) *holder {
	if n.index != nil {
		return n.index.Get(w)
	}
	if n.first != nil && n.first.writer == w {
		return n.first
	}
	return nil
}

// add makes h the last holder.
func (n *member) add(h *holder) {
	if h.writer.isHeir() {
		n.broker.away++
	}
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

// remove removes h from the holders. The end of its Writer no longer matters.
func (n *member) remove(h *holder) {
	h.leave()
	if h.writer.isHeir() {
		n.broker.away--
	}
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

// Register gives name to w until w ends or Unregister is called. If another Writer has the name,
// BrokerOptions.NamePolicy decides; with NameReject, the default, Register fails with
// ErrNameTaken. With every policy it fails with ErrNameTaken if w itself has the name already. It
// fails with ErrClosed if w has ended or the Broker has been shut down. If it fails, w lives on.
//
// A Writer may have several names; the empty string is a name like any other.
//
// With a Relay, Register waits until it is known whether another node has the name. If so, Register
// fails with ErrNameTaken, or, with NameTakeover, waits until that node has given the name up. It
// fails if no answer comes within the Relay's timeout. Registrations of one name wait for each
// other.
func (b *Broker) Register(name string, w *Writer) error {
	return b.RegisterContext(context.Background(), name, w)
}

// RegisterContext is Register, but stops waiting for other nodes and other registrations when ctx
// is done. The error wraps context.Cause(ctx) then, and w does not have the name. If another
// node has already given up the name, its messages go to OnUndelivered on one of the two nodes.
// RegisterContext panics if ctx is nil.
func (b *Broker) RegisterContext(ctx context.Context, name string, w *Writer) error {
	requireContext(ctx)
	if isDone, err := b.registerAtOnce(name, w); isDone {
		return err
	}
	t, err := b.takeTurn(ctx, name)
	if err != nil {
		return failed(err, "register %q", name)
	}
	defer b.endTurn(t)
	return b.register(ctx, t, &successor{Writer: w, takesOver: b.opts.NamePolicy == NameTakeover})
}

// registerAtOnce registers or refuses w if that needs no waiting for other nodes or for the old
// Writer.
func (b *Broker) registerAtOnce(name string, w *Writer) (isDone bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.names.Get(name)
	claims := n == nil && b.cluster != nil
	takesOver := n != nil && b.opts.NamePolicy == NameTakeover && n.holder(w) == nil
	if claims || takesOver {
		return false, nil
	}
	return true, b.add(n, name, w)
}

// register is the rest of RegisterContext and Resume. The caller has the turn. mu is not held.
func (b *Broker) register(ctx context.Context, t *turn, s *successor) error {
	n, old, err := b.replace(t.name, s)
	switch {
	case err != nil:
		return err
	case old != nil:
		b.takeOver(n, old, s)
		return nil
	case b.cluster != nil:
		return b.claimName(ctx, t, s)
	case s.resumes:
		s.greet()
	}
	return nil
}

func errShutDown(name string) error {
	return failed(ErrClosed, "register %q: Broker is shut down", name)
}

func errWriterClosed(name string) error {
	return failed(ErrClosed, "register %q: Writer is closing or has ended", name)
}

// add gives the name to w: alone if n is nil, and otherwise together with other Writers. mu is held,
// here and below unless stated otherwise.
func (b *Broker) add(n *member, name string, w *Writer) error {
	switch {
	case b.closed:
		return errShutDown(name)
	case n != nil && (b.opts.NamePolicy != NameAttach || n.holder(w) != nil):
		return fmt.Errorf("%w: %q", ErrNameTaken, name)
	}
	isNew := n == nil
	if isNew {
		n = &member{name: name, broker: b}
	}
	h, err := b.follow(n, w)
	if err != nil {
		return err
	}
	if isNew {
		b.enterName(n, h)
		b.notify(Event{Kind: EventJoined, Name: name})
	} else {
		n.add(h)
		n.changed()
	}
	b.pressedBy(n, w)
	return nil
}

// enterName makes h the holder of a new name.
func (b *Broker) enterName(n *member, h *holder) {
	n.add(h)
	n.changed()
	b.names.Put(n.name, n)
	b.all.Add(n)
}

// follow returns a holder for w; the caller must add it. The Broker counts w from now on.
func (b *Broker) follow(n *member, w *Writer) (*holder, error) {
	h := n.expect(w, func(hooks ...*endHook) bool { return b.tally.follow(w, hooks...) })
	if h == nil {
		return nil, errWriterClosed(n.name)
	}
	return h, nil
}

// detach takes the name away from w, and returns false if w did not have it. It compares
// Writers, not names: the end of a Writer must never remove a later Writer of the name.
func (b *Broker) detach(n *member, w *Writer) bool {
	h := n.holder(w)
	if h == nil {
		return false
	}
	n.remove(h)
	n.changed()
	b.pressedBy(n, w)
	return true
}

// ended is called when w has ended. w may have lost the name by then.
func (b *Broker) ended(n *member, w *Writer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lost(n, w)
}

// lost lets a name linger whose Writer has ended, or takes it away.
func (b *Broker) lost(n *member, w *Writer) {
	if !b.linger(n, w) && b.remove(n, w, w.Err()) && b.takeLeftovers(w) {
		b.handBackOf(n.name, w)
	}
}

// remove takes the name away from w, and reports whether w had it. If no other Writer is
// attached, the name is free then.
func (b *Broker) remove(n *member, w *Writer, cause error) bool {
	if !b.detach(n, w) {
		return false
	}
	if n.first != nil {
		return true
	}
	b.vacate(n, relay.Event{Kind: relay.EventLeft, Name: n.name, Cause: cause})
	return true
}

// vacate makes a name without Writers free and announces left.
func (b *Broker) vacate(n *member, left relay.Event) {
	b.names.Remove(n.name)
	if !n.isMoving {
		b.all.Remove(n)
	}
	for _, g := range n.rooms.Members() {
		g.Remove(n)
		b.forgetIfEmpty(g)
		if b.cluster == nil { // otherwise left includes that
			b.notify(Event{Kind: EventRoomLeft, Name: n.name, Room: g.room})
		}
	}
	if b.cluster != nil {
		b.cluster.forgetBehind(n)
	}
	if b.cluster != nil && left.Kind == relay.EventLeft {
		_, left.Token, _ = b.cluster.directory.Where(n.name)
	}
	b.announce(left)
	if b.cluster != nil {
		b.cluster.transport.Release(n.name)
	}
}

// Unregister takes name away from w and reports whether w had it. If no other Writer is
// attached, the name leaves all rooms. If another Writer has the name by now, nothing happens.
// The Writer lives on. If w has failed and the name lingers, that ends.
func (b *Broker) Unregister(name string, w *Writer) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.names.Get(name)
	if n == nil {
		return false
	}
	heir := n.heirOf(w)
	if !b.remove(n, w, nil) && (heir == nil || !b.remove(n, heir, nil)) {
		return false
	}
	w.endUnneeded(heir)
	return true
}

// heirOf returns the heir of w, or w if it is the heir that has the name, or nil.
func (n *member) heirOf(w *Writer) *Writer {
	if n.isAway() && n.first.writer == w {
		return w
	}
	if w == nil {
		return nil
	}
	return w.currentHeir()
}
