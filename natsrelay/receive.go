package natsrelay

import (
	"github.com/sendq-go/sendq"
)

// receive takes an envelope. It is called by the serving goroutine, as all below.
func (r *Relay) receive(b []byte) {
	h, b, err := parseEnvelope(b)
	switch {
	case err != nil:
		r.malformed.Add(1)
		return
	case h.from == r.id:
		r.echo()
		return
	}
	p := r.meet(h.from)
	if p == nil {
		return
	}
	p.silent = 0
	p.beats.Store(0)
	p.comeBack()
	if h.flags&flagBeat == 0 {
		p.answer(&h)
		p.accept(&h, b)
	}
}

// echo notes that a beat of this node itself has come back: it reaches NATS, and who was
// not heard of for enough of them has died, or does not.
func (r *Relay) echo() {
	r.heard.Store(r.clock.Load())
	hasDied := false
	for _, p := range r.others() {
		hasDied = p.beats.Add(1) == r.enough() || hasDied
	}
	if hasDied {
		go r.registry.tidy()
	}
}

// enough returns how many beats last longer than a lease.
func (r *Relay) enough() int64 { return int64(r.opts.ticks(r.opts.Lease)) + 1 }

// answer does what the header asks for.
func (p *peer) answer(h *header) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.out.received(h.received)
	for len(p.estates) > 0 && p.estates[0].number <= h.received {
		p.estates = p.estates[1:]
	}
	if h.flags&flagMissing != 0 && p.rewound != h.received+1 {
		p.rewound = h.received + 1
		p.out.rewind(p.rewound)
	}
	if h.flags&flagStranger != 0 && p.shown <= h.received && p.state == current {
		p.state = stale
	}
	p.work.Signal()
	if len(p.out.pieces) == 0 {
		p.relay.settle()
	}
}

// accept hands on what is in an envelope, if it is its turn, and what is known to be lost.
func (p *peer) accept(h *header, b []byte) {
	isMissing := p.in.missing
	isNext, missed, broken := p.in.arrive(h, len(b) == 0)
	if broken {
		p.hasSnapshot = false
	}
	if missed > 0 {
		p.relay.node.Missed(p.id, int(missed))
	}
	received := p.in.messages
	if isNext && len(b) > 0 {
		p.in.unpack(h.torn, b, p.item)
		p.deliver()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.counts.Received += int64(p.in.messages - received)
	p.counts.Missed += int64(missed)
	p.header.received = p.in.number
	p.header.flags = 0
	if !p.hasSnapshot && p.state < departed {
		p.header.flags |= flagStranger
	}
	if p.in.missing {
		p.header.flags |= flagMissing
	}
	if p.in.missing && !isMissing || p.in.number-p.answered >= window/4 || p.state == departed {
		p.pingDue = true
		p.work.Signal()
	}
}

// item takes an item, and returns how many messages were in it.
func (p *peer) item(b []byte) (messages int) {
	in := parser{b: b}
	kind := in.byte()
	if kind == itemPost {
		id, d := in.uint(), in.delivery()
		if in.bad {
			p.relay.malformed.Add(1)
			return 0
		}
		p.posts, p.ids = append(p.posts, d), append(p.ids, id)
		return len(d.Messages)
	}
	p.deliver() // in order
	switch kind {
	case itemOutcome:
		p.outcome(&in)
	case itemEvents, itemSnapshot:
		p.learn(&in, kind == itemSnapshot)
	case itemEvict, itemReplay:
		p.question(&in, kind)
	case itemEstate, itemKept:
		p.reply(&in, kind)
	case itemBye:
		p.bye()
	default:
		in.fail()
	}
	if in.bad {
		p.relay.malformed.Add(1)
	}
	return 0
}

// deliver delivers the posts that have come together, and answers those who wait.
func (p *peer) deliver() {
	if len(p.posts) == 0 {
		return
	}
	outcomes := p.relay.node.Deliver(p.posts)
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, id := range p.ids {
		if id != 0 && p.state.isReachable() {
			item := appendUint(appendUint([]byte{itemOutcome}, id), outcomes[i].Accepted)
			p.add(appendError(item, outcomes[i].Err), 0)
		}
	}
	clear(p.posts)
	p.posts, p.ids = p.posts[:0], p.ids[:0]
}

// outcome tells who waits for it what became of a post. There is an outcome for each, in order.
func (p *peer) outcome(in *parser) {
	id, o := in.uint(), sendq.Outcome{Accepted: in.int(), Err: in.error()}
	p.mu.Lock()
	n := 0
	for n < len(p.waiting) && p.waiting[n].id <= id {
		n++
	}
	ws := p.waiting[:n:n]
	p.waiting = p.waiting[n:]
	p.mu.Unlock()
	if n > 0 && ws[n-1].id == id {
		n--
		ws[n].outcome(o)
	}
	p.unconfirmed(ws[:n], "the answer is lost")
}

// learn hands on events. Without a snapshot to begin with they make no sense.
func (p *peer) learn(in *parser, isSnapshot bool) {
	events := list(in, in.event)
	if in.bad || !isSnapshot && !p.hasSnapshot || p.hasLeft() {
		return
	}
	p.hasSnapshot = true
	p.relay.node.Learn(p.id, events, isSnapshot)
	for _, e := range events {
		if e.Kind == sendq.Joined {
			p.relay.registry.doubt(e.Name)
		}
	}
}
