package sendq

import (
	"sync"

	"github.com/sendq-go/sendq/internal/queue"
	"github.com/sendq-go/sendq/internal/set"
	"github.com/sendq-go/sendq/relay"
)

// A target identifies the recipients of a message.
type target struct {
	relay.Target
	here bool // only those on this node
}

func toName(name string) target { return target{Target: relay.Target{Name: name}} }

func toRoom(name string) target {
	return target{Target: relay.Target{Kind: relay.TargetRoom, Name: name}}
}

var toAll = target{Target: relay.Target{Kind: relay.TargetAll}}

// from returns t without the sender.
func (t target) from(sender string) target {
	t.Except, t.Sender = true, sender
	return t
}

// use returns the group that t means, or nil, and keeps it until done. mu is not held.
func (b *Broker) use(t target) *group {
	b.mu.Lock()
	defer b.mu.Unlock()
	g := b.all
	if t.Kind == relay.TargetRoom {
		if g = b.rooms.Get(t.Name); g == nil && b.cluster.nodesOf(t) != nil {
			g = b.makeRoom(t.Name) // for its order
		}
	}
	if g != nil {
		g.users++
	}
	return g
}

// recipients returns the members of g but the one that t excepts, and the other nodes that
// have some. mu is not held.
func (b *Broker) recipients(g *group, t target) (members []*named, except *named, nodes []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if t.Except {
		if except = b.names.Get(t.Sender); !g.Has(except) {
			except = nil
		}
	}
	return g.Snapshot(), except, b.cluster.nodesOf(t)
}

// done ends what use began. A room that its last member has left is forgotten then, and not
// while a message is under way: otherwise those who come back meanwhile could make the room
// anew, and see the next message before this one.
func (b *Broker) done(g *group) {
	b.mu.Lock()
	defer b.mu.Unlock()
	g.users--
	b.forgetIfEmpty(g)
}

// forgetIfEmpty forgets a room without members that nobody uses. mu is held.
func (b *Broker) forgetIfEmpty(g *group) {
	if g.Len() == 0 && g.users == 0 && b.rooms.Get(g.room) == g {
		b.rooms.Remove(g.room)
	}
}

// publishOne is publish of one message.
func (b *Broker) publishOne(t target, p []byte) int {
	idle := newWakeList()
	defer idle.done()
	return b.publish(t, [][]byte{p}, idle, nil)
}

// publish queues messages for the members of a group and returns how often one was accepted on
// this node. If refused is not nil, it gets the others. The Writers that have been idle go to
// idle, which must be started.
//
// A message is copied once, and queued without Broker.mu: a large fan-out holds up
// neither those who join and leave nor messages to one name.
func (b *Broker) publish(t target, messages [][]byte, idle *wakeList, refused *[]Refusal) (accepted int) {
	g := b.use(t)
	if g == nil {
		return 0
	}
	defer b.done(g)
	g.order.Lock()
	defer g.order.Unlock()
	members, except, nodes := b.recipients(g, t)
	b.fanOuts.count(len(messages), len(members), except)
	for len(messages) > 0 {
		m := payload{run: g.log.Append(messages)}
		messages = messages[m.len():]
		if len(nodes) > 0 { // before a member here can move there
			b.postAll(nodes, t, m.run)
		}
		for _, n := range members {
			if n == except {
				continue
			}
			took, err := n.deliver(&m, idle)
			accepted += took
			if err != nil && refused != nil {
				*refused = append(*refused, Refusal{n.name, m.len() - took, true, err})
			}
		}
		g.kept.Add(m.run)
	}
	return accepted
}

// postAll sends r, which is for t, to other nodes.
func (b *Broker) postAll(nodes []string, t target, r queue.Run) {
	d := relay.Delivery{To: t.Target, Messages: r.Messages()}
	for _, node := range nodes {
		b.cluster.transport.Post(node, d, nil)
	}
}

// A group is whom a message fans out to: the members of a room, or all of a Broker.
type group struct {
	room string // the room's name

	// order is held by whoever publishes to the group, so that all members get
	// its messages in one same order. It is taken before Broker.mu. It guards the
	// log and what is kept of it.
	order sync.Mutex
	log   queue.Log
	kept  queue.History

	// Guarded by Broker.mu.
	set.Set[*named]
	users int32 // who publish, or are about to

	fetched bool // kept has what another node had kept; guarded by order
}
