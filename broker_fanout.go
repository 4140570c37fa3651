package sendq

import (
	"iter"
	"sync"

	"github.com/sendq-go/sendq/internal/queue"
	"github.com/sendq-go/sendq/internal/set"
	"github.com/sendq-go/sendq/relay"
)

// A target identifies the recipients of a message.
type target struct {
	relay.Target
	here   bool    // only those on this node
	origin string  // the node that sends it, if it is here only
	number uint64  // of the fan-out on that node
	key    *string // of PublishLatest, or nil
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

// group returns the group of t, or nil. mu is held.
func (b *Broker) group(t target) *group {
	if t.Kind == relay.TargetRoom {
		return b.rooms.Get(t.Name)
	}
	return b.all
}

// namesIn yields the names of t on all nodes at the start of the iteration. mu is not held.
func (b *Broker) namesIn(t target) iter.Seq[string] {
	return func(yield func(string) bool) {
		b.mu.Lock()
		names := b.snapshot(t)
		b.mu.Unlock()
		names(yield)
	}
}

// snapshot yields the names of t on all nodes at the time of the call. mu is held then.
func (b *Broker) snapshot(t target) iter.Seq[string] {
	if b.cluster != nil {
		return b.cluster.directory.Members(t.Target)
	}
	var members []*member
	if g := b.group(t); g != nil {
		members = g.Snapshot()
	}
	return func(yield func(string) bool) {
		for _, n := range members {
			if !yield(n.name) {
				return
			}
		}
	}
}

// count returns the number of names of t on all nodes. mu is not held.
func (b *Broker) count(t target) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cluster != nil {
		return b.cluster.directory.Len(t.Target)
	}
	if g := b.group(t); g != nil {
		return g.Len()
	}
	return 0
}

// latest returns t for the newest message of key.
func (t target) latest(key string) target {
	t.key = &key
	return t
}

// use returns the group of t, or nil, and keeps it until done. mu is not held.
func (b *Broker) use(t target) *group {
	b.mu.Lock()
	defer b.mu.Unlock()
	g := b.group(t)
	if g == nil && b.cluster.hasRecipients(t) {
		g = b.makeRoom(t.Name) // for its order
	}
	if g != nil {
		g.users++
	}
	return g
}

// recipients returns the members of g and the members to leave out, and counts a fan-out. It sends the
// messages to the other nodes with recipients. mu is not held.
func (b *Broker) recipients(g *group, t target, runs []queue.Run) (members []*member, except exception) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if t.Except {
		if sender := b.names.Get(t.Sender); g.Has(sender) {
			except.sender = sender
		}
	}
	recipients, messages := g.Len(), 0
	if except.sender != nil {
		recipients--
	}
	for _, r := range runs {
		messages += r.Len()
	}
	b.fanOuts.count(messages, recipients)
	switch {
	case b.cluster == nil:
	case t.here:
		except.behind = b.cluster.hear(t)
	default:
		b.postAll(g, t, runs)
	}
	return g.Snapshot(), except
}

// An exception is the members of a group that a fan-out leaves out.
type exception struct {
	sender *member
	behind map[*member]bool // another node will catch them up
}

func (e *exception) has(n *member) bool { return n == e.sender || e.behind != nil && e.behind[n] }

// done ends what use began. It forgets a room without members. That must not happen while a
// message is under way: a member that comes back could make a new room, and see the next
// message before this one.
func (b *Broker) done(g *group) {
	b.mu.Lock()
	defer b.mu.Unlock()
	g.users--
	b.forgetIfEmpty(g)
}

// forgetIfEmpty forgets a room without members and users. mu is held.
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
// this node. If refused is not nil, it gets the others. Idle Writers go to idle; the caller must
// wake them.
//
// A message is copied once, and queued without Broker.mu: a large fan-out delays neither joins
// and leaves nor messages to one name.
func (b *Broker) publish(t target, messages [][]byte, idle *wakeList, refused *[]Refusal) (accepted int) {
	g := b.use(t)
	if g == nil {
		return 0
	}
	defer b.done(g)
	g.order.Lock()
	defer g.order.Unlock()
	var few [1]queue.Run
	runs := few[:0]
	for len(messages) > 0 {
		runs = append(runs, g.copyOf(messages, t.key))
		messages = messages[runs[len(runs)-1].Len():]
	}
	members, except := b.recipients(g, t, runs)
	for _, r := range runs {
		m := payload{run: r, key: t.key}
		for _, n := range members {
			if except.has(n) {
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

// copyOf returns copies of the first of the messages in one block. A message with a key gets its own
// block, because a Writer that keeps it long should not keep others.
func (g *group) copyOf(messages [][]byte, key *string) queue.Run {
	if key != nil {
		return queue.Shared(messages[0])
	}
	return g.log.Append(messages)
}

// postAll sends the messages to other nodes with recipients. mu is held, so that the numbers of fan-outs
// increase, and no member moves in between.
func (b *Broker) postAll(g *group, t target, runs []queue.Run) {
	c := b.cluster
	nodes := c.nodesOf(t)
	if g.isJoined {
		g.isJoined, nodes = false, c.directory.Nodes()
	}
	for _, r := range runs {
		c.sent.number++
		if !c.directory.IsAlone() {
			c.sent.add(loggedFanOut{to: t.Target, run: r})
		}
		if len(nodes) == 0 {
			continue
		}
		d := relay.Delivery{To: t.Target, Messages: r.Messages(), Number: c.sent.number}
		for _, node := range nodes {
			c.transport.Post(node, d, nil)
		}
	}
}

// A group holds the recipients of a fan-out: the members of a room, or all names of a Broker.
type group struct {
	room string // the room's name

	// order is held while messages are published to the group, so that all members get them
	// in the same order. It is taken before Broker.mu. It guards log and kept.
	order sync.Mutex
	log   queue.Log
	kept  queue.History

	// Guarded by Broker.mu.
	set.Set[*member]
	users int32 // calls that publish or are about to

	// isJoined is true if nothing was published here since a name joined the room. The next
	// message, often about that, goes to all nodes: names that join elsewhere at the same time
	// are not known yet.
	isJoined bool

	fetched bool // kept includes the history of another node; guarded by order
}
