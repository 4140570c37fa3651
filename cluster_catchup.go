package sendq

import (
	"maps"
	"math"
	"slices"
	"time"

	"github.com/sendq-go/sendq/internal/directory"
	"github.com/sendq-go/sendq/internal/queue"
	"github.com/sendq-go/sendq/internal/set"
	"github.com/sendq-go/sendq/relay"
)

// A name that moves between nodes gets each fan-out once, and those of one node in order. Each node
// numbers its fan-outs. The old node notes how many it has heard of each node when the name leaves its
// groups. The new node announces that with the name. Each other node then sends the name what follows,
// from its log: it catches the name up. Until then, the new node leaves the name out of the fan-outs of
// that node.
//
// Messages that are for a name alone wait instead; see route.

// fanOutLog holds the last fan-outs of this node, and the names that it has learned to be new in a
// room since. Broker.mu guards it.
type fanOutLog struct {
	number  uint64 // of the last fan-out
	entries []loggedFanOut
	bytes   int
	lost    uint64 // number of the newest fan-out that left the log too early
}

// A loggedFanOut is messages for to. If joined is not empty, it is the fact that this name is new among
// the recipients of to.
type loggedFanOut struct {
	number uint64
	at     time.Duration
	to     relay.Target
	run    queue.Run
	joined string
}

// maxLog bounds the bytes that a fanOutLog holds. Its entries leave after maxMove, because by then each
// node that has the name has got them.
const maxLog = 4 << 20

func (l *fanOutLog) add(e loggedFanOut) {
	e.number, e.at = l.number, queue.Now()
	l.entries = append(l.entries, e)
	l.bytes += e.size()
	old := 0
	for ; old < len(l.entries) && (l.entries[old].at < e.at-maxMove || l.bytes > maxLog); old++ {
		first := &l.entries[old]
		l.bytes -= first.size()
		if first.at >= e.at-maxMove && first.joined == "" {
			l.lost = first.number
		}
		*first = loggedFanOut{}
	}
	l.entries = l.entries[old:]
}

func (e *loggedFanOut) size() int {
	if e.run.Block == nil {
		return messageOverhead
	}
	return e.run.Size() + messageOverhead*e.run.Len()
}

// after returns the messages of the fan-outs after number for the name, which is in these rooms, and
// reports whether some may be missing.
func (l *fanOutLog) after(number uint64, name string, rooms map[string]bool) (messages [][]byte, hasGap bool) {
	var found []loggedFanOut
	for _, e := range l.entries {
		switch {
		case e.number <= number || e.to.Kind == relay.TargetRoom && !rooms[e.to.Name] || e.to.Except && e.to.Sender == name:
		case e.joined == "":
			found = append(found, e)
		case e.joined == name: // what came before was not for it
			kept := found[:0]
			for _, f := range found {
				if f.to.Kind != e.to.Kind || f.to.Name != e.to.Name {
					kept = append(kept, f)
				}
			}
			found = kept
		}
	}
	for _, f := range found {
		messages = append(messages, f.run.Messages()...)
	}
	return messages, l.lost > number
}

// addJoins notes the rooms in which the name is new. mu is held, here and below unless stated otherwise.
func (l *fanOutLog) addJoins(name string, changes []directory.Change) {
	for _, change := range changes {
		switch {
		case len(l.entries) == 0:
		case change.Kind == relay.EventJoined:
			l.add(loggedFanOut{joined: name, to: relay.Target{Kind: relay.TargetAll}})
		case change.Kind == relay.EventRoomJoined:
			l.add(loggedFanOut{joined: name, to: relay.Target{Kind: relay.TargetRoom, Name: change.Room}})
		}
	}
}

// hear notes the number of a fan-out of another node, and returns the names that this node still has to
// catch up.
func (c *cluster) hear(t target) (behind map[*member]bool) {
	c.heard[t.origin] = max(c.heard[t.origin], t.number)
	for n := range c.behind[t.origin] {
		if behind == nil {
			behind = make(map[*member]bool)
		}
		behind[n] = true
	}
	return behind
}

// heardBy returns what a name has heard of the nodes that still have to catch it up, or nil.
func (c *cluster) heardBy(n *member) (heard map[string]uint64) {
	for node, names := range c.behind {
		if number, isBehind := names[n]; isBehind {
			if heard == nil {
				heard = make(map[string]uint64)
			}
			heard[node] = number
		}
	}
	return heard
}

// forgetBehind forgets that a name is behind.
func (c *cluster) forgetBehind(n *member) {
	for _, names := range c.behind {
		delete(names, n)
	}
}

// leaveGroups takes the name out of its groups, because it moves to another node, and returns what it has
// heard. It waits until fan-outs under way have reached the name. mu is not held.
func (b *Broker) leaveGroups(name string, token uint64) (heard map[string]uint64) {
	b.mu.Lock()
	n := b.names.Get(name)
	if _, newer, _ := b.cluster.directory.Where(name); n == nil || newer > token {
		b.mu.Unlock()
		return nil
	}
	c := b.cluster
	heard = make(map[string]uint64)
	for _, node := range c.directory.Nodes() {
		heard[node] = c.heard[node]
	}
	maps.Copy(heard, c.heardBy(n))
	c.forgetBehind(n) // the new node will be caught up instead
	heard[c.directory.Self] = c.sent.number
	n.isMoving = true
	groups := append(slices.Clone(n.rooms.Members()), b.all)
	n.rooms = set.Set[*group]{}
	for _, g := range groups {
		g.Remove(n)
		g.users++
	}
	b.mu.Unlock()
	for _, g := range groups {
		g.waitForFanOut() // one under way has the name among its members
		b.done(g)
	}
	return heard
}

func (g *group) waitForFanOut() {
	g.order.Lock()
	defer g.order.Unlock()
}

// arrive makes the other nodes catch the name up, and adds what it has missed of this one to its estate.
func (b *Broker) arrive(c *claim) {
	cl := b.cluster
	self := cl.directory.Self
	for _, node := range cl.directory.Nodes() {
		if cl.behind[node] == nil {
			cl.behind[node] = make(map[*member]uint64)
		}
		cl.behind[node][c.holder.member] = c.heard[node]
	}
	messages, _ := cl.sent.after(c.heard[self], c.holder.member.name, roomSet(c.rooms))
	addAfter(c.estate, queue.Of(messages), 0)
}

func roomSet(rooms []string) map[string]bool {
	s := make(map[string]bool)
	for _, room := range rooms {
		s[room] = true
	}
	return s
}

// sendCatchUp catches up the name of an EventJoined at another node.
func (b *Broker) sendCatchUp(node string, e relay.Event) {
	c, name := b.cluster, e.Name
	number := e.Heard[c.directory.Self]
	messages, hasGap := c.sent.after(number, name, roomSet(c.directory.RoomsOf(name)))
	d := relay.Delivery{To: toName(name).Target, Messages: messages, Number: c.sent.number, CatchUp: e.Token, HasGap: hasGap}
	c.transport.Post(node, d, func(o relay.Outcome) {
		if o.Err != nil {
			time.AfterFunc(catchUpRetry, func() { b.sendCatchUpAgain(node, e) })
		}
	})
}

// catchUpRetry is how long a node waits before it catches up a name once more. Until then the name gets
// nothing from that node.
const catchUpRetry = 100 * time.Millisecond

// sendCatchUpAgain is sendCatchUp if the name is still there. mu is not held.
func (b *Broker) sendCatchUpAgain(node string, e relay.Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	at, token, _ := b.cluster.directory.Where(e.Name)
	if at == node && token == e.Token && !b.cluster.closed {
		b.sendCatchUp(node, e)
	}
}

// catchUp is called when another node catches up a name of this one. It holds the order of all names, so
// that leaveGroups waits for it. mu is not held.
func (b *Broker) catchUp(node string, d relay.Delivery, idle *wakeList) {
	b.all.order.Lock()
	defer b.all.order.Unlock()
	b.mu.Lock()
	n := b.names.Get(d.To.Name)
	c := b.cluster
	c.heard[node] = max(c.heard[node], d.Number)
	_, isBehind := c.behind[node][n]
	_, token, _ := c.directory.Where(d.To.Name)
	if isBehind = isBehind && token == d.CatchUp; isBehind { // otherwise it is about an earlier stay here
		delete(c.behind[node], n)
	}
	if isBehind && d.HasGap {
		n.missed()
		b.notify(Event{Kind: EventGap, Node: node, Missed: -1})
	}
	b.mu.Unlock()
	if !isBehind {
		return
	}
	for _, p := range d.Messages {
		m := copyOf(p)
		_, _ = n.deliver(&m, idle)
	}
}

// missed makes the peer of a name learn, when it comes back, that it has missed an unknown number of
// messages. Broker.mu is held.
func (n *member) missed() {
	for h := n.first; h != nil; h = h.next {
		h.writer.missed()
	}
}

func (w *Writer) missed() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if k := w.keeper(); k != nil {
		k.resumed = resumption{math.MaxInt64, -1}
	}
}
