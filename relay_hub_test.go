package sendq_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/relay"
)

// A hub is a network and a registry of names in this process. Its ports are the transports of
// several Brokers. Every link from one node to another can wait, be slow and lose things. The
// registry never does.
//
// It holds no lock during a call of a Node.
type hub struct {
	slow    atomic.Bool  // everything takes some milliseconds
	timeout atomic.Int64 // for claims and outcomes, a time.Duration

	mu       sync.Mutex
	together bool // a name was claimed on a node while it was being claimed there already
	ports    map[string]*port
	names    map[string]entry
	token    uint64 // the last one
	links    map[[2]string]*link
}

// An entry of a name has its owner first, and then the nodes that may still have it, the last
// first.
type entry struct {
	token  uint64
	owners []string
}

func newHub() *hub {
	h := &hub{ports: make(map[string]*port), names: make(map[string]entry), links: make(map[[2]string]*link)}
	h.timeout.Store(int64(5 * time.Second))
	return h
}

// newBroker returns a Broker on a node with that name.
func (h *hub) newBroker(name string, opts sendq.BrokerOptions) *sendq.Broker {
	opts.Relay = &port{hub: h, name: name, left: make(chan struct{}), busy: make(map[string]uint64), has: make(map[string]bool)}
	return sendq.NewBroker(&opts)
}

// newBrokers returns n Brokers on nodes a, b, c and so on. They know each other. It must be called
// in a bubble.
func (h *hub) newBrokers(n int, opts sendq.BrokerOptions) (bs []*sendq.Broker) {
	for i := range n {
		bs = append(bs, h.newBroker(nodeName(i), opts))
	}
	settle()
	return bs
}

func nodeName(i int) string { return string(rune('a' + i)) }

// inCluster calls test in a bubble with n such Brokers, and checks the invariants.
func inCluster(t *testing.T, n int, opts sendq.BrokerOptions, test func(t *testing.T, h *hub, bs []*sendq.Broker)) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub()
		bs := h.newBrokers(n, opts)
		ports := maps.Clone(h.ports)
		defer func() {
			for _, b := range bs {
				b.CloseNow()
			}
			settle()
			for _, p := range ports {
				require.Equal(t, 1, p.closes)
			}
			require.False(t, h.together)
		}()
		test(t, h, bs)
	})
}

// A link carries things from one node to another, one after the other.
type link struct {
	hub      *hub
	from, to string

	mu      sync.Mutex
	things  []thing
	running bool
	held    bool
	losing  bool
	lost    int // messages
}

// A thing is a call of a method of the other Node. Deliveries in a row are one.
type thing struct {
	call     func(relay.Node)
	delivery *relay.Delivery
	outcome  func(relay.Outcome) // of the delivery, or nil
	lost     func()              // called instead of call if the thing is lost, or nil
}

func (h *hub) link(from, to string) *link {
	h.mu.Lock()
	defer h.mu.Unlock()
	l := h.links[[2]string{from, to}]
	if l == nil {
		l = &link{hub: h, from: from, to: to}
		h.links[[2]string{from, to}] = l
	}
	return l
}

func (h *hub) port(name string) *port {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ports[name]
}

func (h *hub) others(than string) (names []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for name := range h.ports {
		if name != than {
			names = append(names, name)
		}
	}
	return names
}

func (l *link) add(th thing) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.losing {
		if th.delivery != nil {
			l.lost += len(th.delivery.Messages)
		}
		if th.lost != nil {
			go th.lost()
		}
		return
	}
	l.things = append(l.things, th)
	l.start()
}

func (l *link) start() {
	if !l.running && !l.held && len(l.things) > 0 {
		l.running = true
		go l.run()
	}
}

func (l *link) run() {
	for {
		l.hub.dawdle()
		l.mu.Lock()
		if len(l.things) == 0 || l.held {
			l.running = false
			l.mu.Unlock()
			return
		}
		n := 1
		for l.things[0].delivery != nil && n < len(l.things) && l.things[n].delivery != nil {
			n++
		}
		things := slices.Clone(l.things[:n])
		l.things = l.things[n:]
		l.mu.Unlock()
		if p := l.hub.port(l.to); p != nil {
			l.carry(p.node, things)
		} else if things[0].lost != nil {
			things[0].lost()
		}
	}
}

func (l *link) carry(to relay.Node, things []thing) {
	if things[0].call != nil {
		things[0].call(to)
		return
	}
	var ds []relay.Delivery
	for _, th := range things {
		ds = append(ds, *th.delivery)
	}
	outcomes := to.Deliver(l.from, ds)
	for _, d := range ds {
		for _, p := range d.Messages {
			clear(p) // it may be reused
		}
	}
	for i, th := range things {
		if th.outcome != nil {
			l.hub.link(l.to, l.from).add(thing{call: func(relay.Node) { th.outcome(outcomes[i]) }})
		}
	}
}

// hold makes everything on a link wait until release is called.
func (h *hub) hold(from, to string) (release func()) {
	l := h.link(from, to)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = true
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.held = false
		l.start()
	}
}

// lose loses everything on a link until heal is called. Then the receiver hears of it.
func (h *hub) lose(from, to string) (heal func()) {
	l := h.link(from, to)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.losing = true
	return func() {
		l.mu.Lock()
		lost := l.lost
		l.losing, l.lost = false, 0
		l.mu.Unlock()
		l.add(thing{call: func(n relay.Node) { n.MessagesLost(from, lost) }})
		h.port(from).introduce(to)
	}
}

// kill ends a node without a word. The others notice.
func (h *hub) kill(node string) {
	h.mu.Lock()
	delete(h.ports, node)
	h.forget(node)
	h.mu.Unlock()
	for _, other := range h.others(node) {
		h.port(other).node.NodeGone(node, errKilled)
	}
}

var errKilled = fmt.Errorf("node is gone")

// forgetOwner lets another node claim a name although it is taken, as in a partition.
func (h *hub) forgetOwner(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.names, name)
}

// settle waits until everything has arrived and been handled.
func settle() { time.Sleep(time.Second / 2) }

// settleMoves also waits until names that arrive nowhere have been given up.
func settleMoves() { time.Sleep(6 * time.Second) }

// newest is a token for Node.Evict, newer than all of a hub.
const newest = math.MaxUint64

// A port is the transport of one Broker.
type port struct {
	hub    *hub
	name   string
	node   relay.Node
	busy   map[string]uint64 // tokens of the claims under way; 0 until they are granted
	has    map[string]bool   // names that were claimed and not released
	evicts []*eviction       // waiting for the Node
	closed bool
	closes int
	left   chan struct{} // closed by Close
}

func (p *port) Start(node relay.Node) string {
	p.node = node
	p.hub.mu.Lock()
	p.hub.ports[p.name] = p
	p.hub.mu.Unlock()
	go func() { // not before Start returns
		for _, other := range p.hub.others(p.name) {
			p.introduce(other)
			p.hub.port(other).introduce(p.name)
		}
	}()
	return p.name
}

// introduce sends another node a snapshot.
func (p *port) introduce(to string) {
	p.node.Snapshot(func(events []relay.Event) {
		p.hub.link(p.name, to).add(thing{call: func(n relay.Node) { n.Apply(p.name, events, true) }})
	})
}

// Claim enters the name, and then takes it away from its owner.
func (p *port) Claim(ctx context.Context, name string, takeover bool) (token uint64, left relay.Handover, err error) {
	h := p.hub
	h.mu.Lock()
	_, isBusy := p.busy[name]
	h.together = h.together || isBusy
	p.busy[name] = 0
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(p.busy, name)
	}()
	late := time.After(h.bound())
	var e entry
	for err = errRefused; errors.Is(err, errRefused); {
		h.dawdle()
		if e, err = p.enter(name, takeover); err == nil {
			left, err = p.collect(ctx, name, e, late)
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil {
		if now := h.names[name].owners; e.token != 0 && len(now) > 0 && now[0] == p.name {
			h.passOn(name, e.owners[1:]) // perhaps another node has passed it on to this one
		}
		return e.token, relay.Handover{}, err
	}
	p.has[name] = true
	return e.token, left, nil
}

var errRefused = errors.New("another node has the name")

// collect takes the name away from the nodes that may have it, until one had it.
func (p *port) collect(ctx context.Context, name string, e entry, late <-chan time.Time) (left relay.Handover, err error) {
	for _, node := range e.owners[1:] {
		p.hub.dawdle()
		if old := p.hub.port(node); old != nil {
			found := false
			if left, found, err = p.evict(ctx, name, e.token, old, late); found || err != nil {
				return left, err
			}
		}
	}
	return left, nil
}

// enter makes this node the owner of a name, and returns its entry.
func (p *port) enter(name string, takeover bool) (entry, error) {
	h := p.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	before := slices.DeleteFunc(slices.Clone(h.names[name].owners), func(node string) bool { return node == p.name })
	switch {
	case p.closed:
		return entry{}, sendq.ErrClosed
	case len(before) > 0 && !takeover:
		return entry{}, fmt.Errorf("%w: %q", sendq.ErrNameTaken, name)
	}
	e := h.write(name, append([]string{p.name}, before...))
	p.busy[name] = e.token
	for _, v := range p.evicts {
		if v.name == name && v.token < e.token {
			v.cancel()
		}
	}
	return e, nil
}

// write enters the owners of a name. mu is held, here and below.
func (h *hub) write(name string, owners []string) entry {
	h.token++
	h.names[name] = entry{h.token, owners}
	return h.names[name]
}

// passOn makes the first node that may have the name its owner.
func (h *hub) passOn(name string, owners []string) {
	for ; len(owners) > 0; owners = owners[1:] {
		if p := h.ports[owners[0]]; p != nil {
			if _, isBusy := p.busy[name]; isBusy || p.has[name] {
				h.write(name, owners)
				return
			}
		}
	}
	delete(h.names, name)
}

// forget passes on the names of a node that is gone.
func (h *hub) forget(node string) {
	for name, e := range h.names {
		if e.owners[0] == node {
			h.passOn(name, e.owners[1:])
		}
	}
}

// An eviction waits until a Node has ended a Writer.
type eviction struct {
	name   string
	token  uint64
	cancel func()
}

// An answer is that of a node that is asked for a name.
type answer struct {
	relay.Handover
	found bool
	err   error
}

// evict takes the name away from another node. If the answer comes late, the handover goes back.
func (p *port) evict(ctx context.Context, name string, token uint64, old *port, late <-chan time.Time) (left relay.Handover, found bool, err error) {
	h := p.hub
	answers := make(chan answer)
	over := make(chan struct{})
	defer close(over)
	h.link(p.name, old.name).add(thing{call: func(n relay.Node) {
		go func() { // for it may wait
			a := old.obey(name, p.name, token)
			undo := func() { n.HandBack(name, a.Undelivered) }
			h.link(old.name, p.name).add(thing{lost: undo, call: func(relay.Node) {
				select {
				case <-over:
					undo()
				case answers <- a:
				}
			}})
		}()
	}})
	select {
	case a := <-answers:
		return a.Handover, a.found, a.err
	case <-p.left:
		return left, false, sendq.ErrClosed
	case <-ctx.Done():
		return left, false, context.Cause(ctx)
	case <-late:
		return left, false, fmt.Errorf("no answer from %s", old.name)
	}
}

// obey gives a name up for another node, unless that has given up.
func (p *port) obey(name, by string, token uint64) (a answer) {
	h := p.hub
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	h.mu.Lock()
	e := h.names[name]
	isNewer := p.busy[name] > token // that claim must not wait for this one
	isInForce := e.token == token || len(e.owners) > 0 && slices.Contains(e.owners[1:], by)
	v := &eviction{name, token, cancel}
	p.evicts = append(p.evicts, v)
	h.mu.Unlock()
	switch {
	case isNewer:
	case isInForce:
		a.Handover, a.found = p.node.Evict(ctx, name, by, token)
	default:
		a.err = errRefused
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	p.evicts = slices.DeleteFunc(p.evicts, func(other *eviction) bool { return other == v })
	return a
}

func (p *port) Release(name string) {
	p.hub.mu.Lock()
	defer p.hub.mu.Unlock()
	delete(p.has, name)
	if e := p.hub.names[name]; len(e.owners) > 0 && e.owners[0] == p.name {
		delete(p.hub.names, name)
	}
}

func (p *port) Announce(events []relay.Event) {
	for _, other := range p.hub.others(p.name) {
		p.hub.link(p.name, other).add(thing{call: func(n relay.Node) { n.Apply(p.name, events, false) }})
	}
}

func (p *port) Post(node string, d relay.Delivery, outcome func(relay.Outcome)) {
	d.Messages = slices.Clone(d.Messages)
	for i, m := range d.Messages {
		d.Messages[i] = slices.Clone(m)
	}
	if tell := outcome; tell != nil {
		if p.isClosed() {
			tell(relay.Outcome{Err: sendq.ErrClosed})
			return
		}
		var once sync.Once
		outcome = func(o relay.Outcome) { once.Do(func() { tell(o) }) }
		time.AfterFunc(p.hub.bound(), func() { outcome(relay.Outcome{Err: sendq.ErrUnconfirmed}) })
	}
	p.hub.link(p.name, node).add(thing{delivery: &d, outcome: outcome})
}

func (p *port) Replay(ctx context.Context, node, room string, messages int) ([][]byte, error) {
	answer := make(chan [][]byte, 1)
	p.hub.link(p.name, node).add(thing{call: func(n relay.Node) {
		kept := n.Replay(room, messages)
		p.hub.link(node, p.name).add(thing{call: func(relay.Node) { answer <- kept }})
	}})
	select {
	case kept := <-answer:
		return kept, nil
	case <-time.After(p.hub.bound()):
		return nil, sendq.ErrUnconfirmed
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (p *port) isClosed() bool {
	p.hub.mu.Lock()
	defer p.hub.mu.Unlock()
	return p.closed
}

// Close waits until everything has been carried, and says goodbye.
func (p *port) Close(ctx context.Context) error {
	h := p.hub
	h.mu.Lock()
	p.closes++
	p.closed = true
	close(p.left)
	h.mu.Unlock()
	pending := 0
	for _, other := range h.others(p.name) {
		l := h.link(p.name, other)
		l.add(thing{call: func(n relay.Node) { n.NodeGone(p.name, sendq.ErrClosed) }})
		for ctx.Err() == nil && l.pending() > 0 {
			time.Sleep(time.Millisecond)
		}
		pending += l.pending()
	}
	h.mu.Lock()
	delete(h.ports, p.name)
	h.forget(p.name)
	h.mu.Unlock()
	if pending > 0 {
		return fmt.Errorf("not sent: %d: %w", pending, context.Cause(ctx))
	}
	return nil
}

// pending returns the number of waiting things.
func (l *link) pending() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.things)
}

func (h *hub) bound() time.Duration { return time.Duration(h.timeout.Load()) }

func (h *hub) dawdle() {
	if h.slow.Load() {
		time.Sleep(randomDelay())
	}
}

func randomDelay() time.Duration { return time.Duration(rand.IntN(20)) * time.Millisecond }
