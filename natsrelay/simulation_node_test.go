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

	mu         sync.Mutex
	frozen     chan struct{} // closed when the process goes on; nil if it runs
	hasBroker  bool
	dead       bool
	died       time.Time
	killed     bool
	refuses    bool // Publish fails, as without a connection to NATS
	conns      map[*simConn]bool
	missed     map[string]int // messages missed, by the node they came from, as observers see it
	sees       map[string]map[string]bool
	eventsDone chan struct{}
}

// startProcess starts a process on a machine. It returns nil if the process cannot reach the bucket.
func (s *simulation) startProcess(machine, incarnation int) *simProcess {
	p := &simProcess{
		sim:        s,
		machine:    machine,
		id:         fmt.Sprintf("%c%d", 'a'+machine, incarnation),
		started:    time.Now(),
		conns:      make(map[*simConn]bool),
		missed:     make(map[string]int),
		sees:       make(map[string]map[string]bool),
		eventsDone: make(chan struct{}),
	}
	r, err := newRelay(s.relayOptions)
	if err != nil {
		panic(err)
	}
	r.id = p.id
	r.nc, r.registry.nc = simNATS{p}, simNATS{p}
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
		p.sim.ledger.handedBack(name, m, p, cause)
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
			p.missed[e.Node] += max(0, e.Missed) // negative: unknown
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

// simNATS is the connection of a process to NATS.
type simNATS struct{ process *simProcess }

func (c simNATS) Publish(subject string, envelope []byte) error {
	p := c.process
	p.gate()
	p.mu.Lock()
	isDead, refuses := p.dead, p.refuses
	p.mu.Unlock()
	switch {
	case refuses:
		return nats.ErrReconnectBufExceeded
	case !isDead:
		p.sim.publish(p, subject, append([]byte(nil), envelope...))
	}
	return nil
}

func (simNATS) MaxPayload() int64 { return 1 << 20 }

func (simNATS) ForceReconnect() error { return nil }

func (simNATS) Close() {}

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
	random := s.network.draw(simRoute{b.process.machine, b.process.machine}, "evict "+name)
	time.Sleep(time.Duration(random.Int64N(int64(s.network.delay))))
	b.process.gate()
	return b.Node.Evict(ctx, name, by, token)
}
