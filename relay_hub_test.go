package sendq_test

import (
	"context"
	"fmt"
	"maps"
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
// several Brokers. Every link from one node to another can wait, be slow and lose things.
//
// It holds no lock during a call of a Node.
type hub struct {
	slow    atomic.Bool  // everything takes some milliseconds
	timeout atomic.Int64 // for claims and outcomes, a time.Duration

	mu       sync.Mutex
	together bool // a name was claimed on a node while it was being claimed there already
	ports    map[string]*port
	owners   map[string]string
	links    map[[2]string]*link
}

func newHub() *hub {
	h := &hub{ports: make(map[string]*port), owners: make(map[string]string), links: make(map[[2]string]*link)}
	h.timeout.Store(int64(5 * time.Second))
	return h
}

// newBroker returns a Broker on a node with that name.
func (h *hub) newBroker(name string, opts sendq.BrokerOptions) *sendq.Broker {
	opts.Relay = &port{hub: h, name: name, left: make(chan struct{}), busy: make(map[string]bool)}
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
	outcomes := to.Deliver(ds)
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
	maps.DeleteFunc(h.owners, func(_, o string) bool { return o == node })
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
	delete(h.owners, name)
}

// settle waits until everything has arrived and been handled.
func settle() { time.Sleep(time.Second / 2) }

// A port is the transport of one Broker.
type port struct {
	hub    *hub
	name   string
	node   relay.Node
	busy   map[string]bool // claims under way
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

// Claim enters the name, once its owner has given it up.
func (p *port) Claim(ctx context.Context, name string, takeover bool) (e relay.Handover, err error) {
	h := p.hub
	h.mu.Lock()
	h.together = h.together || p.busy[name]
	p.busy[name] = true
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(p.busy, name)
	}()
	late := time.After(h.bound())
	for {
		h.dawdle()
		old, err := p.enter(name, takeover)
		if err != nil || old == "" {
			return e, err
		}
		left, err := p.evict(ctx, name, old, late)
		e.Undelivered = append(e.Undelivered, left.Undelivered...)
		e.Rooms = append(e.Rooms, left.Rooms...)
		if err != nil {
			p.node.HandBack(name, e.Undelivered)
			return relay.Handover{}, err
		}
	}
}

// enter makes this node the owner of a name, or returns the other owner.
func (p *port) enter(name string, takeover bool) (old string, err error) {
	h := p.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	old, taken := h.owners[name]
	switch {
	case p.closed:
		return old, sendq.ErrClosed
	case !taken || old == p.name:
		h.owners[name] = p.name
		return "", nil
	case !takeover:
		return old, fmt.Errorf("%w: %q", sendq.ErrNameTaken, name)
	}
	return old, nil
}

// evict asks the owner of a name to give it up, and waits for the answer. If that comes late, the
// handover goes back.
func (p *port) evict(ctx context.Context, name string, old string, late <-chan time.Time) (e relay.Handover, err error) {
	h := p.hub
	answer := make(chan relay.Handover)
	over := make(chan struct{})
	defer close(over)
	h.link(p.name, old).add(thing{call: func(n relay.Node) {
		go func() { // for it may wait
			left, _ := n.Evict(context.Background(), name, p.name)
			undo := func() { n.HandBack(name, left.Undelivered) }
			h.link(old, p.name).add(thing{lost: undo, call: func(relay.Node) {
				select {
				case <-over:
					undo()
				case answer <- left:
				}
			}})
		}()
	}})
	select {
	case e = <-answer:
		return e, nil
	case <-p.left:
		return e, sendq.ErrClosed
	case <-ctx.Done():
		return e, context.Cause(ctx)
	case <-late:
		return e, fmt.Errorf("no answer from %s", old)
	}
}

func (p *port) Release(name string) {
	p.hub.mu.Lock()
	defer p.hub.mu.Unlock()
	if p.hub.owners[name] == p.name {
		delete(p.hub.owners, name)
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
	maps.DeleteFunc(h.owners, func(_, o string) bool { return o == p.name })
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
