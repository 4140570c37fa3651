package sendq

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/sendq-go/sendq/internal/queue"
	"github.com/sendq-go/sendq/internal/set"
	"github.com/sendq-go/sendq/relay"
)

// BrokerOptions configure a Broker. The zero value of each field is its default.
type BrokerOptions struct {
	// NamePolicy determines what Register does if the name is taken: it refuses the new
	// Writer, lets it take over, or lets both share the name.
	NamePolicy NamePolicy

	// OnUndelivered is called when a Writer with a name has ended for any reason, so that the
	// messages of Writer.Undelivered can be stored or sent elsewhere. Data already handed to
	// the kernel is not among them, except what WriterOptions.Keep has kept: these messages come
	// first, unless Err is nil, and the peer may have received them. The cause is the Err of the
	// Writer. Nil means that the messages are discarded.
	//
	// It is called at most once for a Writer, under one of its names. It is not called if there are
	// no such messages or another Writer has taken them over. If a Writer has
	// names in several Brokers with OnUndelivered, one of these calls it. If a takeover cannot
	// pass the messages on, only the Broker of the takeover may call it. If that Broker has no
	// OnUndelivered, the messages are discarded.
	//
	// Calls are serialized in the order in which the Writers ended. Shutdown, Close and
	// CloseNow of the Broker wait for the last call, so OnUndelivered must not wait for them.
	OnUndelivered func(name string, messages iter.Seq[[]byte], cause error)

	// Linger is how long a name stays after its Writer has failed, so that its peer can come back;
	// see Resume. The name is away then: it stays in its rooms, and what is sent to it is accepted
	// and kept, together with what the Writer had kept and not written, up to WriterOptions.Keep of
	// the Writer. The oldest written messages make room for new ones. If those not written exceed
	// Keep, or the time has passed, the name leaves, and OnUndelivered gets everything that was
	// kept. HighMark of the Writer stays in force, so of WriteLatest and Room.PublishLatest only
	// the newest messages are kept.
	//
	// A Writer has failed if a write or a limit has ended it, or Writer.Fail. After Close, CloseNow,
	// Unregister or the end of the Broker no name lingers, and neither does one without Keep.
	// Unregister with the failed Writer, or CloseNow of the Writer that Lookup returns, ends the
	// wait. 0 means that names do not linger. Linger and NameAttach exclude each other.
	Linger time.Duration

	// Each room keeps its last messages for Room.JoinReplay: at most ReplayMessages messages,
	// of at most ReplayBytes bytes together. If ReplayMessages is 0, rooms keep none. If
	// ReplayBytes is 0, there is no limit in bytes. A room discards its messages when the last
	// member leaves.
	ReplayMessages, ReplayBytes int

	// Relay connects the Broker to Brokers in other processes. They share names and rooms; see
	// "Across machines" in the package documentation. A transport belongs to one Broker, and
	// the Broker closes it. Relay and NameAttach exclude each other. Nil means no other nodes.
	Relay relay.Transport
}

// A Broker delivers messages to Writers by name: to one, to all, or to the members of
// a room. It only ever queues them, so no call waits for a slow peer, and a stalled
// recipient delays no other.
//
// Each method may be called from any goroutine at any time. A message may be reused when
// the call that sent it returns; a fan-out copies it once for all. Messages of one
// goroutine reach a recipient in the order of its calls, by any method. All recipients see
// broadcasts in the same order, and all members of a room see its messages in the same order.
//
// With a Relay it does the same for names on other nodes. Methods that wait for other nodes say
// so, and have a form with a context.
//
// A Broker keeps no goroutine. It must be made by NewBroker.
type Broker struct {
	opts BrokerOptions

	// mu guards the names, the rooms, their members and fanOuts. It is never held while messages are
	// queued. A Writer's lock may be taken while it is held, but not the other way round.
	mu        sync.Mutex
	names     set.Map[string, *member]
	rooms     set.Map[string, *group] // those with members
	turns     set.Map[string, *turn]
	all       *group // the members that Broadcast reaches: every one
	closed    bool   // no new names
	away      int    // names whose peer is away
	observers set.Set[*observer]
	slow      set.Map[*member, *set.Set[*Writer]] // the names with slow Writers, and these
	handbacks handbacks
	fanOuts   fanOuts
	cluster   *cluster // nil without a Relay

	direct struct { // messages to several names
		mu  sync.Mutex // no other lock is taken while it is held
		log queue.Log
	}

	tally Tally
}

// NewBroker returns a Broker without names, with default options if opts is nil. It panics
// if an option makes no sense.
func NewBroker(opts *BrokerOptions) *Broker {
	b := &Broker{all: new(group)}
	b.direct.log.MaxBlock = 2 * queue.MinBlock // who has one message pending should not keep those of others
	if opts != nil {
		b.opts = *opts
	}
	if b.opts.NamePolicy > NameAttach {
		panic(fmt.Sprintf("sendq: NewBroker: no such NamePolicy: %v", b.opts.NamePolicy))
	}
	refuseNegative("NewBroker", "ReplayMessages", b.opts.ReplayMessages)
	refuseNegative("NewBroker", "ReplayBytes", b.opts.ReplayBytes)
	refuseNegative("NewBroker", "Linger", b.opts.Linger)
	if b.opts.Linger > 0 && b.opts.NamePolicy == NameAttach {
		panic("sendq: NewBroker: NameAttach and Linger exclude each other")
	}
	b.handbacks.settled = sync.NewCond(&b.mu)
	b.handbacks.lock, b.handbacks.idle = &b.mu, b.handbacks.settled.Broadcast
	if b.opts.Relay != nil {
		if b.opts.NamePolicy == NameAttach {
			panic("sendq: NewBroker: NameAttach and Relay exclude each other")
		}
		b.cluster = newCluster(b.opts.Relay)
		b.mu.Lock() // nothing can be learned before it is known who this is
		defer b.mu.Unlock()
		b.cluster.directory.Self = b.opts.Relay.Start(node{b})
	}
	return b
}

// Lookup returns the Writer of the name on this node. With NameAttach it returns the oldest one. While
// the name is away, it returns a Writer without a connection, which keeps what is sent to it.
func (b *Broker) Lookup(name string) (*Writer, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.names.Get(name)
	if n == nil {
		return nil, false
	}
	return n.first.writer, true
}

// Names yields the names present at the start of the iteration, in no particular order.
func (b *Broker) Names() iter.Seq[string] {
	return b.namesIn(toAll)
}

// Len returns the number of names.
func (b *Broker) Len() int {
	return b.count(toAll)
}

// Send queues p for the Writer of the name. It fails with ErrUnknownName if there is none, and
// like Writer.Write if the Writer refuses p. It never waits for the Writer: where Write would
// wait, Send fails with ErrWouldBlock.
//
// If another node has the name, Send waits for its reply and returns what it would return for a name
// on this node. It fails with ErrUnconfirmed if no reply comes within the timeout of the Relay.
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

// BroadcastFrom is Broadcast to all names except sender. With NameAttach, no Writer of the
// sender gets p.
func (b *Broker) BroadcastFrom(sender string, p []byte) int {
	return b.publishOne(toAll.from(sender), p)
}

// Shutdown ends the Broker. It accepts no more names and ends all Writers at once, as
// Writer.Shutdown does, within the bound of ctx. Sends are still possible; the Writers refuse
// them.
//
// After the last Writer has ended, Shutdown closes the Relay within the same bound. The Relay
// sends what is queued for other nodes. No name on another node is known after that.
//
// The error is nil if everything was delivered. Otherwise it is a *ShutdownError, with an
// *UndeliveredError for each Writer that did not deliver everything. Shutdown panics if ctx is
// nil.
func (b *Broker) Shutdown(ctx context.Context) error {
	requireContext(ctx)
	undelivered := b.endAll(func(w *Writer) error { return w.Shutdown(ctx) })
	return b.leaveCluster(ctx, undelivered)
}

// Close ends the Broker like Shutdown, and delivers what is pending. Each Writer has its own
// CloseTimeout for that. Then the Relay has 5 seconds.
func (b *Broker) Close() error {
	undelivered := b.endAll((*Writer).Close)
	ctx, cancel := context.WithTimeout(context.Background(), defaultCloseTimeout)
	defer cancel()
	return b.leaveCluster(ctx, undelivered)
}

// CloseNow ends the Broker like Shutdown, but delivers nothing: it ends all Writers as
// Writer.CloseNow does, and the Relay does not send what is queued for other nodes. Without a
// Relay, the error is nil if nothing was pending. A Relay may have no time to give up its names,
// and then the error says so.
func (b *Broker) CloseNow() error {
	undelivered := b.endAll(func(w *Writer) error {
		_ = w.CloseNow()
		if w.Stats().Undelivered == 0 {
			return nil
		}
		return w.Close()
	})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return b.leaveCluster(ctx, undelivered)
}

// endAll is endWriters for all Writers at once.
func (b *Broker) endAll(end func(*Writer) error) []*UndeliveredError {
	return b.endWriters(func(int, int) {}, func(string, *Writer) {}, end)
}

// endWriters accepts no more names, and ends all Writers. It calls await before the turn of name i
// of n, and then begin for each Writer of the name; end waits for the end of the Writer. endWriters
// returns an element for each name whose Writer did not deliver everything.
func (b *Broker) endWriters(await func(i, n int), begin func(string, *Writer), end func(*Writer) error) (undelivered []*UndeliveredError) {
	b.mu.Lock()
	b.closed = true
	members := b.all.Snapshot()
	b.mu.Unlock()
	var ending sync.WaitGroup
	for i, m := range members {
		if len(*m.current()) == 0 {
			continue
		}
		await(i, len(members))
		for _, w := range *m.current() {
			u := &UndeliveredError{Name: m.name}
			undelivered = append(undelivered, u)
			begin(m.name, w)
			ending.Go(func() {
				u.Err = end(w)
				s := w.Stats()
				u.Messages, u.Bytes = s.Undelivered, s.UndeliveredBytes
			})
		}
	}
	b.mu.Lock()
	parting := b.handbacks.parting.Snapshot() // after the turns, in which names may be lost
	b.mu.Unlock()
	for _, w := range parting {
		ending.Go(func() { _ = end(w) })
	}
	ending.Wait()
	b.waitHandbacks()
	return slices.DeleteFunc(undelivered, func(u *UndeliveredError) bool { return u.Err == nil })
}

// leaveCluster closes the Relay, if there is one, within the bound of ctx. It returns nil, or a
// *ShutdownError.
func (b *Broker) leaveCluster(ctx context.Context, undelivered []*UndeliveredError) error {
	var err error
	if b.cluster != nil {
		err = b.closeTransport(ctx)
		b.waitHandbacks()
	}
	if len(undelivered) == 0 && err == nil {
		return nil
	}
	return &ShutdownError{undelivered, err}
}
