package natsrelay

import (
	"context"
	"fmt"
	"iter"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/relay"
)

// A simProcess is a node of a simulated cluster, from its start to its end. A machine runs one
// process at a time.
type simProcess struct {
	sim     *simulation
	machine int
	id      string
	relay   *Relay
	broker  *sendq.Broker
	started time.Time

	messages, registry *simNATS // the connections of relay
	view               simView

	mu         sync.Mutex
	frozen     chan struct{} // closed when the process goes on; nil if it runs
	hasBroker  bool
	dead       bool
	leaving    time.Time // when it began to shut down
	died       time.Time
	killed     bool
	refuses    bool // Publish fails, as without a connection to NATS
	conns      map[*simConn]bool
	missed     map[string]int       // messages missed, by the node they came from, as observers see it
	unknown    map[string]time.Time // the last gap of unknown size
	sees       map[string]map[string]bool
	eventsDone chan struct{}
}

// startProcess starts a process on a machine. It returns nil if the process cannot reach the bucket.
func (s *simulation) startProcess(machine, incarnation int) *simProcess {
	p := &simProcess{
		sim:     s,
		machine: machine,
		id:      fmt.Sprintf("%c%d", 'a'+machine, incarnation),
		started: time.Now(),
		view: simView{
			names: make(map[string]map[string]uint64), moved: make(map[string]uint64), changed: make(map[string]time.Time), met: make(map[string]time.Time),
		},
		conns:      make(map[*simConn]bool),
		missed:     make(map[string]int),
		unknown:    make(map[string]time.Time),
		sees:       make(map[string]map[string]bool),
		eventsDone: make(chan struct{}),
	}
	r, err := newRelay(s.relayOptions)
	if err != nil {
		panic(err)
	}
	r.id = p.id
	p.messages = &simNATS{process: p, reconnected: r.retryPublishing, server: machine % s.servers.n}
	p.registry = &simNATS{process: p, reconnected: func() {}, server: p.messages.server}
	r.nc, r.registry.nc = p.messages, p.registry
	r.registry.bucket = &simStore{process: p}
	p.relay = r
	s.setRunning(p, true)
	ctx, cancel := context.WithTimeout(r.ctx, r.opts.Timeout)
	defer cancel()
	for try := 1; ; try++ { // as in connect
		if r.registry.renew(ctx) == nil {
			break
		}
		if backOff(ctx, try) != nil {
			s.setRunning(p, false)
			r.stop()
			return nil
		}
	}
	p.broker = sendq.NewBroker(&sendq.BrokerOptions{
		NamePolicy:    s.policy,
		OnUndelivered: p.onUndelivered,
		Linger:        s.linger,
		Relay:         simTransport{r, p},
	})
	go p.observe()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hasBroker = true
	return p
}

// onUndelivered records messages that are handed back.
func (p *simProcess) onUndelivered(name string, messages iter.Seq[[]byte], cause error) {
	if p.isDead() {
		return
	}
	for m := range messages {
		if !isAnswer(string(m)) {
			p.sim.ledger.handedBack(name, m, p, cause)
		}
	}
}

// observe follows the events of the Broker.
func (p *simProcess) observe() {
	defer close(p.eventsDone)
	for e := range p.broker.Events(p.relay.ctx) {
		p.mu.Lock()
		switch e.Kind {
		case sendq.EventJoined:
			p.sim.ledger.check(p.sees[e.Name] == nil, "%s: %s joins twice", p.id, e.Name)
			p.sees[e.Name] = make(map[string]bool)
		case sendq.EventLeft:
			p.sim.ledger.check(p.sees[e.Name] != nil, "%s: %s leaves without having joined", p.id, e.Name)
			delete(p.sees, e.Name)
		case sendq.EventRoomJoined:
			p.sees[e.Name][e.Room] = true
		case sendq.EventRoomLeft:
			delete(p.sees[e.Name], e.Room)
		case sendq.EventGap:
			p.missed[e.Node] += max(0, e.Missed)
			if e.Missed < 0 { // unknown
				p.unknown[e.Node] = time.Now()
			}
		}
		p.mu.Unlock()
	}
}

// gate waits while the process is frozen.
func (p *simProcess) gate() {
	for {
		p.mu.Lock()
		c := p.frozen
		p.mu.Unlock()
		if c == nil {
			return
		}
		<-c
	}
}

// freeze stops the process until the returned function is called. Timers that run out in that time
// have their effect at once; a real process would notice them later.
func (p *simProcess) freeze() (thaw func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.frozen != nil || p.dead {
		return func() {}
	}
	c := make(chan struct{})
	p.frozen = c
	return sync.OnceFunc(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.frozen == c {
			p.frozen = nil
			close(c)
		}
	})
}

func (p *simProcess) isDead() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dead
}

// isUp reports whether clients can use the process.
func (p *simProcess) isUp() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.hasBroker && !p.dead
}

// kill ends the process without a word to the others.
func (p *simProcess) kill() {
	p.mu.Lock()
	p.dead, p.killed, p.died = true, true, time.Now()
	if p.frozen != nil {
		close(p.frozen)
		p.frozen = nil
	}
	conns := p.conns
	p.conns = nil
	p.mu.Unlock()
	p.sim.ledger.letGo(p, "")
	for c := range conns {
		c.breakOff()
	}
	p.sim.setRunning(p, false)
	if p.hasBroker {
		_ = p.broker.CloseNow()
	}
	p.relay.stop()
}

// shutDown ends the process in an orderly way.
func (p *simProcess) shutDown(timeout time.Duration) error {
	p.mu.Lock()
	p.leaving = time.Now()
	p.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	err := p.broker.Shutdown(ctx)
	p.mu.Lock()
	p.dead, p.died = true, time.Now()
	p.killed = err != nil // what was left is lost
	p.mu.Unlock()
	p.sim.setRunning(p, false)
	return err
}

// receive takes an envelope from NATS.
func (p *simProcess) receive(envelope []byte) {
	if p.isDead() {
		return
	}
	select {
	case p.relay.inbound <- &nats.Msg{Data: envelope}:
	default: // NATS drops it
	}
}

// A simTransport is a Relay whose goroutines stand still while their process is frozen.
type simTransport struct {
	*Relay
	process *simProcess
}

// Start starts the goroutines that Relay.Start starts.
func (t simTransport) Start(node relay.Node) string {
	r := t.Relay
	r.node = simBroker{node, t.process}
	r.goroutines.Go(t.serve)
	r.goroutines.Go(r.beat)
	r.goroutines.Go(r.registry.renewLoop)
	r.goroutines.Go(r.registry.discover)
	return r.id
}

// Announce lets the ledger know which names the node has.
func (t simTransport) Announce(events []relay.Event) {
	p := t.process
	for _, e := range events {
		switch e.Kind {
		case relay.EventJoined:
			p.sim.ledger.hold(p, e.Name, e.Token)
		case relay.EventLeft, relay.EventMoved:
			p.sim.ledger.letGo(p, e.Name)
		}
		if e.Kind == relay.EventMoved {
			p.sim.checkMove(p, e.Name, e.To)
		}
	}
	t.Relay.Announce(events)
}

// Claim lets the ledger know how it ends.
func (t simTransport) Claim(ctx context.Context, name string, takeover bool) (uint64, relay.Handover, error) {
	began := time.Now()
	token, h, err := t.Relay.Claim(ctx, name, takeover)
	t.process.sim.ledger.claimed(&simClaim{
		process: t.process, name: name, token: token, began: began, ended: time.Now(), err: err,
		isEmpty: isEmpty(h),
	})
	return token, h, err
}

// isEmpty reports whether nothing comes with a name, except for a peer that resumes.
func isEmpty(h relay.Handover) bool { return len(h.Rooms) == 0 && len(h.Undelivered) == h.Kept }

// Post checks that a message to a name goes to the node with the newest token.
func (t simTransport) Post(node string, d relay.Delivery, outcome func(relay.Outcome)) {
	if d.To.Kind == relay.TargetName {
		t.process.view.check(t.process, node, d.To.Name)
	}
	t.Relay.Post(node, d, outcome)
}

// serve is Relay.serve, except while the process is frozen.
func (t simTransport) serve() {
	r := t.Relay
	ticker := time.NewTicker(r.opts.tickInterval())
	defer ticker.Stop()
	for {
		t.process.gate()
		select {
		case m := <-r.inbound:
			t.process.gate()
			r.receive(m.Data)
		case <-ticker.C:
			t.process.gate()
			r.tick()
		case <-r.ctx.Done():
			return
		}
	}
}

// A simBroker is a Broker whose process may be slow.
type simBroker struct {
	relay.Node
	process *simProcess
}

// Evict begins a little later, as its goroutine may do.
func (b simBroker) Evict(ctx context.Context, name, by string, token uint64) (relay.Handover, bool) {
	s := b.process.sim
	s.ledger.asks(b.process, name, token)
	random := s.network.draw(simRoute{b.process.machine, b.process.machine}, "evict "+name)
	if s.weather == simStorm && random.IntN(4) == 0 {
		(&simChaos{s, random}).disturbTakeover(b.process.machine, int(by[0]-'a'))
	}
	time.Sleep(time.Duration(random.Int64N(int64(s.network.delay))))
	b.process.gate()
	h, ok := b.Node.Evict(ctx, name, by, token)
	if ok && !isEmpty(h) {
		s.ledger.inherits(&simEstate{from: b.process, to: by, name: name, token: token, at: time.Now()})
	}
	return h, ok
}

func (b simBroker) Apply(node string, events []relay.Event, snapshot bool) {
	b.process.view.apply(node, events, snapshot)
	b.Node.Apply(node, events, snapshot)
}

func (b simBroker) NodeGone(node string, cause error) {
	b.process.view.apply(node, nil, true)
	s := b.process.sim
	s.ledger.check(cause == nil || s.weather == simStorm || s.stopped(), "%s has lost %s: %v", b.process.id, node, cause)
	b.Node.NodeGone(node, cause)
}

// A simView is what other nodes have announced to a process.
type simView struct {
	mu      sync.Mutex
	names   map[string]map[string]uint64 // tokens by name and node
	moved   map[string]uint64            // newest token with which a name moved to a node, by name and node
	changed map[string]time.Time         // when a name changed last
	met     map[string]time.Time         // when each node announced something first
}

// apply learns announcements. A move to a node ends the older grants to it, although that node may
// announce their end, or even their beginning, later.
func (v *simView) apply(node string, events []relay.Event, snapshot bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.met[node].IsZero() {
		v.met[node] = time.Now()
	}
	if snapshot {
		for name, nodes := range v.names {
			if nodes[node] != 0 {
				delete(nodes, node)
				v.changed[name] = time.Now()
			}
		}
	}
	for _, e := range events {
		if v.names[e.Name] == nil {
			v.names[e.Name] = make(map[string]uint64)
		}
		switch e.Kind {
		case relay.EventJoined:
			if e.Token < v.moved[e.Name+" "+node] {
				delete(v.names[e.Name], node)
			} else {
				v.names[e.Name][node] = e.Token
			}
		case relay.EventLeft:
			delete(v.names[e.Name], node)
		case relay.EventMoved:
			delete(v.names[e.Name], node)
			k := e.Name + " " + e.To
			v.moved[k] = max(v.moved[k], e.Token)
			if v.names[e.Name][e.To] < e.Token {
				delete(v.names[e.Name], e.To)
			}
		default:
			continue
		}
		v.changed[e.Name] = time.Now()
	}
}

// hasMet reports whether another node had announced something by that time.
func (v *simView) hasMet(node string, at time.Time) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return !v.met[node].IsZero() && !v.met[node].After(at)
}

// check checks that no other node has announced the name with a newer token, unless that is being
// learned.
func (v *simView) check(p *simProcess, node, name string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	token := v.names[name][node]
	for other, newer := range v.names[name] {
		p.sim.ledger.check(newer <= token || token == 0 || !v.changed[name].Before(time.Now()),
			"%s sends to %s at %s with the token %d, and %s has announced it with %d", p.id, name, node, token, other, newer)
	}
}
