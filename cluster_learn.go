package sendq

import (
	"time"

	"github.com/sendq-go/sendq/internal/directory"
	"github.com/sendq-go/sendq/relay"
)

// A node is the side of a Broker that its transport calls.
type node struct{ *Broker }

// Apply implements [relay.Node].
func (b node) Apply(node string, events []relay.Event, snapshot bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cluster.closed {
		return
	}
	var moved map[string]relay.Event
	for _, e := range events {
		if e.Heard == nil {
			continue
		}
		if moved == nil {
			moved = make(map[string]relay.Event)
		}
		if _, token, isKnown := b.cluster.directory.Where(e.Name); !isKnown || token < e.Since {
			e.Heard = map[string]uint64{b.cluster.directory.Self: b.cluster.sent.number} // nothing was for it
		}
		moved[e.Name] = e
	}
	b.cluster.directory.Apply(node, events, snapshot, func(name string, changes []directory.Change) {
		b.cluster.sent.addJoins(name, changes)
		if e, hasMoved := moved[name]; hasMoved {
			b.sendCatchUp(node, e)
		}
		b.learn(name, changes)
	})
}

// NodeGone implements [relay.Node].
func (b node) NodeGone(node string, cause error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cluster.directory.Drop(node, cause, b.learn)
	for n := range b.cluster.behind[node] { // now, because a name may have arrived during Drop
		n.missed()
	}
	delete(b.cluster.behind, node)
}

// Snapshot implements [relay.Node].
func (b node) Snapshot(f func(events []relay.Event)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	events := b.cluster.directory.Snapshot()
	for i, e := range events {
		if e.Kind == relay.EventJoined {
			n := b.names.Get(e.Name)
			events[i].Heard, events[i].Since = b.cluster.heardBy(n), n.since
		}
	}
	f(events)
}

// MessagesLost implements [relay.Node].
func (b node) MessagesLost(node string, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.notify(Event{Kind: EventGap, Node: node, Missed: n})
}

// learn is report of something about another node. Now and then it lets others have mu, because a
// node may have a million names. mu is held, here and below unless stated otherwise.
func (b *Broker) learn(name string, changes []directory.Change) {
	b.report(name, changes)
	if b.cluster.learned++; b.cluster.learned%256 == 0 {
		b.mu.Unlock()
		b.mu.Lock()
	}
}

// report reports changes of a name to observers, and to senders that wait while it is arriving.
func (b *Broker) report(name string, changes []directory.Change) {
	for _, change := range changes {
		b.notify(eventOf(change.Event, change.Node))
	}
	c := b.cluster
	token, isArriving := c.directory.Arrival(name)
	m := c.moves.Get(name)
	if m != nil && isArriving && m.token == token {
		return
	}
	if m != nil {
		close(m.settled)
		m.expiry.Stop()
		c.moves.Remove(name)
	}
	if isArriving {
		expiry := time.AfterFunc(maxMove, func() { b.expire(name, token) })
		c.moves.Put(name, &move{token, make(chan struct{}), expiry})
	}
}

// A move is the time in which a name arrives at a node.
type move struct {
	token   uint64
	settled chan struct{} // closed at the end; messages to the name wait for that
	expiry  *time.Timer
}

// expire ends a move. mu is not held.
func (b *Broker) expire(name string, token uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.report(name, b.cluster.directory.Expire(name, token))
}
