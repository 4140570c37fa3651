package sendq

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/sendq-go/sendq/internal/queue"
	"github.com/sendq-go/sendq/internal/set"
	"github.com/sendq-go/sendq/relay"
)

// BrokerOptions configure a Broker. The zero value of each field is its default.
type BrokerOptions struct {
	// Names is what happens when a name is registered that is taken: the new Writer is
	// refused, or takes over, or shares the name.
	Names NamePolicy

	// OnUndelivered, if it is not nil, gets what a Writer with a name had accepted and
	// not written when it ended, by whatever cause, so that it can be stored or sent
	// elsewhere: what Writer.Undelivered yields. What the connection had taken and
	// the peer had not is not among it. It is called once for a Writer, under one of its
	// names, and not at all if everything was written or another Writer has taken it over.
	// If the Writer has names in several Brokers with OnUndelivered, one of them calls it. In a
	// takeover that is the Broker of the takeover, which needs an OnUndelivered for that.
	//
	// The calls are made one after the other, in the order in which the Writers ended,
	// by a goroutine that exists while there are any. They hold up nothing but
	// one another, and Shutdown and Close of the Broker, which return after the
	// last: so OnUndelivered must not wait for these.
	OnUndelivered func(name string, messages iter.Seq[[]byte], cause error)

	// ReplayMessages and ReplayBytes bound what each room keeps of its last messages for
	// those who join by Room.JoinReplay. With 0 ReplayMessages it keeps none; with 0
	// ReplayBytes their size does not matter. What is kept goes with the room.
	ReplayMessages, ReplayBytes int

	// Relay connects the Broker to those of other processes, so that they share names and
	// rooms across machines; see the package documentation. A transport belongs to one
	// Broker, which closes it. Relay and Attach exclude each other. Nil means that there are
	// no other nodes.
	Relay relay.Transport
}

// A Broker delivers messages to Writers by name: to one, to all, or to the members of
// a room. It only ever queues them, so no call waits for a slow peer, and a stalled
// recipient holds up no other.
//
// Each of its methods may be called from any goroutine at any time. A message may be
// reused when the call that sent it returns; a fan-out copies it once for all. What
// one goroutine sends reaches a recipient in the order of its calls, by whatever
// method, and all recipients see what is broadcast in one same order, as the members
// of a room do.
//
// With a Relay it does the same for names on other nodes. Methods that wait for other nodes say
// so, and have a form with a context.
//
// A Broker keeps no goroutine. It must be made by NewBroker.
type Broker struct {
	opts BrokerOptions

	// mu guards the names, the rooms and who is in them. It is never held while
	// messages are queued. It may be held while a Writer's lock is taken, but
	// not the other way round.
	mu        sync.Mutex
	names     set.Map[string, *member]
	rooms     set.Map[string, *group] // those with members
	turns     set.Map[string, *turn]
	all       *group // the members that Broadcast reaches: every one
	closed    bool   // no new names
	observers set.Set[*observer]
	handbacks handbacks
	cluster   *cluster // nil without a Relay

	direct struct { // messages to several names
		mu  sync.Mutex // no other lock is taken while it is held
		log queue.Log
	}

	tally   Tally
	fanOuts fanOuts
}

// NewBroker returns a Broker without names, with default options if opts is nil. It panics
// if an option makes no sense.
func NewBroker(opts *BrokerOptions) *Broker {
	b := &Broker{all: new(group)}
	b.direct.log.MaxBlock = 2 * queue.MinBlock // who has one message pending should not keep those of others
	if opts != nil {
		b.opts = *opts
	}
	if b.opts.Names > Attach {
		panic(fmt.Sprintf("sendq: NewBroker: no such NamePolicy: %v", b.opts.Names))
	}
	refuseNegative("NewBroker", "ReplayMessages", b.opts.ReplayMessages)
	refuseNegative("NewBroker", "ReplayBytes", b.opts.ReplayBytes)
	b.handbacks.idle = sync.NewCond(&b.mu)
	if b.opts.Relay != nil {
		if b.opts.Names == Attach {
			panic("sendq: NewBroker: Attach and Relay do not go together")
		}
		b.cluster = newCluster(b.opts.Relay)
		b.mu.Lock() // nothing can be learned before it is known who this is
		defer b.mu.Unlock()
		b.cluster.self = b.opts.Relay.Start(node{b})
	}
	return b
}

// Lookup returns the Writer that has the name on this node, with Attach the one that has had
// it longest.
func (b *Broker) Lookup(name string) (*Writer, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.names.Get(name)
	if n == nil {
		return nil, false
	}
	return n.first.writer, true
}

// Names yields the names when the iteration starts, in no order.
func (b *Broker) Names() iter.Seq[string] {
	return func(yield func(string) bool) {
		b.mu.Lock()
		members, remotes := b.all.Snapshot(), b.remotes(toAll)
		b.mu.Unlock()
		yieldNames(members, remotes, yield)
	}
}

func yieldNames(members []*member, remotes []*remoteName, yield func(string) bool) {
	for _, n := range members {
		if !yield(n.name) {
			return
		}
	}
	for _, r := range remotes {
		if !yield(r.name) {
			return
		}
	}
}

// Len returns the number of names.
func (b *Broker) Len() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.names.Len() + b.remotesLen(toAll)
}

// Send queues p for the Writer that has the name. It fails with ErrUnknownName if none
// has, and as Writer.Write does if that Writer refuses it. It never waits: where Write would, it
// fails with ErrWouldBlock.
//
// If another node has the name, Send waits for its reply, which is the same as here. It fails
// with ErrUnconfirmed if no reply comes within the timeout of the Relay.
func (b *Broker) Send(name string, p []byte) error {
	return b.SendContext(context.Background(), name, p)
}

// SendContext is Send, but stops waiting for other nodes when ctx is done. The error wraps
// context.Cause(ctx) then. It also wraps ErrUnconfirmed if p was sent, because the other node may
// have accepted p. Otherwise the name was moving between nodes, and p was not accepted.
// SendContext panics if ctx is nil.
func (b *Broker) SendContext(ctx context.Context, name string, p []byte) error {
	requireContext(ctx)
	m := copyOf(p)
	_, node, err := b.deliver(ctx, name, &m, nil)
	if node == "" {
		return err
	}
	q := b.request(name, node, [][]byte{bytes.Clone(p)}) // p stays on its stack if it is there
	q.retry = true
	return b.await(ctx, q).Err
}

// A Report is the outcome of messages to several recipients.
type Report struct {
	Accepted int       // messages accepted and not dropped at once, counted for each recipient
	Refused  []Refusal // the others, in the order of sending; nil if there are none
}

// A Refusal is a recipient that did not accept a message, or dropped it at once. A room
// without members has no recipients, so it refuses nothing.
type Refusal struct {
	Name     string
	Messages int   // how many of the messages sent together were refused
	FanOut   bool  // they were for a room or for all, not for the name alone
	Err      error // the cause: ErrUnknownName, or another error of Broker.Send
}

// SendTo queues p for each of the names, as Send does. Names that are not in Report.Refused
// have accepted it. A name that is given twice gets it twice. p is copied once, and if all goes
// well nothing else is allocated. SendTo sends to all names before it waits for other nodes.
func (b *Broker) SendTo(names []string, p []byte) Report {
	return b.SendToContext(context.Background(), names, p)
}

// SendToContext is SendTo, but stops waiting for other nodes when ctx is done. Report.Refused has
// the names without a reply, with errors like those of SendContext. SendToContext panics if ctx
// is nil.
func (b *Broker) SendToContext(ctx context.Context, names []string, p []byte) (r Report) {
	requireContext(ctx)
	pending := b.sendToAll(ctx, names, p, &r)
	b.awaitAll(ctx, pending, &r)
	return r
}

// sendToAll is SendTo without the replies of other nodes.
func (b *Broker) sendToAll(ctx context.Context, names []string, p []byte, r *Report) (pending requests) {
	b.direct.mu.Lock()
	m := payload{run: b.direct.log.Append([][]byte{p})}
	b.direct.mu.Unlock()
	idle := newWakeList()
	defer idle.done() // also if a Relay panics
	for _, name := range names {
		accepted, node, err := b.deliver(ctx, name, &m, idle)
		r.Accepted += accepted
		switch {
		case node != "":
			q := b.request(name, node, m.run.Messages())
			q.retry = true
			pending.add(q, r)
		case err != nil:
			r.Refused = append(r.Refused, Refusal{name, 1, false, err})
		}
	}
	return pending
}

// Broadcast queues p for every name. It returns the number of names on this node that accepted
// it and did not drop it at once. A Writer with several names gets it for each.
func (b *Broker) Broadcast(p []byte) int {
	return b.publishOne(toAll, p)
}

// BroadcastFrom is Broadcast to all names except sender. With Attach, no Writer of the sender gets
// p.
func (b *Broker) BroadcastFrom(sender string, p []byte) int {
	return b.publishOne(toAll.from(sender), p)
}

// Shutdown takes no new names from now on, and ends all Writers at once as
// Writer.Shutdown does, within the bound of ctx. It returns nil if each delivered
// everything. Otherwise it returns an errors.Join of an *UndeliveredError for each that did
// not, with its name. Sends go on meanwhile, and are refused by the Writers.
//
// When all have ended, the Relay is closed within the same bound, which sends what waits for
// other nodes. Its error is joined too. Nothing is known of names on other nodes then.
// Shutdown panics if ctx is nil.
func (b *Broker) Shutdown(ctx context.Context) error {
	requireContext(ctx)
	return b.end(ctx, func(w *Writer) error { return w.Shutdown(ctx) })
}

// Close is the hard end: it takes no new names from now on, and ends all Writers at once as
// Writer.CloseNow does. It returns nil if nothing was undelivered, and else as Shutdown. The
// Relay is closed without waiting for what it has yet to send.
func (b *Broker) Close() error {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return b.end(ctx, func(w *Writer) error {
		_ = w.CloseNow()
		if w.Stats().Undelivered == 0 {
			return nil
		}
		return w.Close()
	})
}

// end closes the Broker, applies endWriter to all Writers at once, and then closes the Relay
// within the bound of ctx.
func (b *Broker) end(ctx context.Context, endWriter func(*Writer) error) error {
	b.mu.Lock()
	b.closed = true
	members := b.all.Snapshot()
	b.mu.Unlock()
	var writers []*Writer
	var names []string
	for _, n := range members {
		for _, w := range *n.current() {
			writers, names = append(writers, w), append(names, n.name)
		}
	}
	errs := make([]error, len(writers))
	var g errgroup.Group
	for i, w := range writers {
		g.Go(func() error {
			err := endWriter(w)
			if err != nil {
				s := w.Stats()
				errs[i] = &UndeliveredError{names[i], s.Undelivered, s.UndeliveredBytes, err}
			}
			return err
		})
	}
	_ = g.Wait()
	b.waitHandbacks()
	if b.cluster != nil {
		errs = append(errs, b.closeTransport(ctx))
		b.waitHandbacks()
	}
	return errors.Join(errs...)
}
