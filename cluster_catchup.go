package sendq

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/sendq-go/sendq/internal/directory"
	"github.com/sendq-go/sendq/internal/queue"
	"github.com/sendq-go/sendq/internal/set"
	"github.com/sendq-go/sendq/relay"
)

// A moving name gets each fan-out once, and the fan-outs of one node in order. Each node numbers its
// fan-outs. When the name leaves the groups of its old node, that node notes the last numbers of all
// nodes. The new node announces them with the name. Each other node then catches the name up: it sends
// the later fan-outs from its log. Until then, the new node leaves the name out of its fan-outs.
//
// Messages for the name alone wait instead; see route.

// A fanOutLog holds the last fan-outs of this node, and the names that came to the recipients in between.
// Broker.mu guards it.
type fanOutLog struct {
	number  uint64 // of the last fan-out
	entries []loggedFanOut
	bare    int           // the number of first entries without their messages
	bytes   int           // of the messages of the others
	lost    uint64        // number of the newest fan-out to leave the log too early
	lostAt  time.Duration // when it was sent
}

// A loggedFanOut is messages for to. If joined is not empty, it says instead that this name is a new
// recipient of to.
type loggedFanOut struct {
	number uint64
	at     time.Duration
	to     relay.Target
	run    queue.Run // Block is nil if the log was too long
	joined string
}

// maxLog bounds the bytes of a fanOutLog, and maxLogged its entries. Entries leave after maxLate, because
// by then they have arrived, or the other node has given this one up.
const (
	maxLog    = 4 << 20
	maxLogged = 1 << 15
	maxLate   = 30 * time.Second
)

func (l *fanOutLog) add(e loggedFanOut) {
	e.number, e.at = l.number, queue.Now()
	l.entries = append(l.entries, e)
	l.bytes += e.size()
	for l.bytes > maxLog {
		l.bytes -= l.entries[l.bare].size()
		l.entries[l.bare].run = queue.Run{}
		l.bare++
	}
	for len(l.entries) > maxLogged || l.entries[0].at < e.at-maxLate {
		first := &l.entries[0]
		if first.at >= e.at-maxLate && first.joined == "" {
			l.lost, l.lostAt = first.number, first.at
		}
		l.bytes -= first.size()
		l.bare = max(l.bare-1, 0)
		*first = loggedFanOut{}
		l.entries = l.entries[1:]
	}
}

func (e *loggedFanOut) size() int {
	if e.run.Block == nil {
		return 0
	}
	return e.run.Size() + messageOverhead*e.run.Len()
}

// after returns the messages of the fan-outs after number for a name in these rooms, and reports whether
// some may be missing.
func (l *fanOutLog) after(number uint64, name string, rooms map[string]bool) (messages [][]byte, hasGap bool) {
	var found []loggedFanOut
	first, _ := slices.BinarySearchFunc(l.entries, number+1, func(e loggedFanOut, n uint64) int { return cmp.Compare(e.number, n) })
	for _, e := range l.entries[first:] {
		switch {
		case e.to.Kind == relay.TargetRoom && !rooms[e.to.Name] || e.to.Except && e.to.Sender == name:
		case e.joined == "":
			found = append(found, e)
		case e.joined == name: // earlier messages were not for it
			kept := found[:0]
			for _, f := range found {
				if f.to.Kind != e.to.Kind || f.to.Name != e.to.Name {
					kept = append(kept, f)
				}
			}
			found = kept
		}
	}
	hasGap = l.lost > number && l.lostAt >= queue.Now()-maxLate
	for _, f := range found {
		if f.run.Block == nil {
			hasGap = true
			continue
		}
		messages = append(messages, f.run.Messages()...)
	}
	return messages, hasGap
}

// addJoins notes the new rooms of the name. mu is held, here and below unless stated otherwise.
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

// hear notes the number of a fan-out of another node, and returns the names it still has to catch up.
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

// heardBy returns the last numbers of the nodes that still have to catch the name up, or nil.
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

// leaveGroups takes a name out of its groups, because it moves to another node, and returns the last number
// that it has heard of each node. It waits until fan-outs under way have reached the name. mu is not held.
func (b *Broker) leaveGroups(name string, token uint64) (heard map[string]uint64, since uint64) {
	b.mu.Lock()
	n := b.names.Get(name)
	if _, newer, _ := b.cluster.directory.Where(name); n == nil || newer > token {
		b.mu.Unlock()
		return nil, 0
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
	return heard, n.since
}

func (g *group) waitForFanOut() {
	g.order.Lock()
	defer g.order.Unlock()
}

// arrive makes the other nodes catch the name up, and adds the fan-outs of this one to its estate. The
// handover may include a node unknown here.
func (b *Broker) arrive(c *claim) {
	cl, n := b.cluster, c.holder.member
	for _, node := range cl.directory.Nodes() {
		cl.expectCatchUp(n, node, c.heard[node])
	}
	for node, number := range c.heard {
		if node != cl.directory.Self && !slices.Contains(cl.directory.Nodes(), node) {
			cl.expectCatchUp(n, node, number)
			time.AfterFunc(maxMove, func() { b.giveUpCatchUp(n, node) })
		}
	}
	messages, hasGap := cl.sent.after(c.heard[cl.directory.Self], n.name, roomSet(c.rooms))
	if hasGap {
		b.missed(n, cl.directory.Self)
	}
	addAfter(c.estate, queue.Of(messages), 0)
}

func (c *cluster) expectCatchUp(n *member, node string, number uint64) {
	if c.behind[node] == nil {
		c.behind[node] = make(map[*member]uint64)
	}
	c.behind[node][n] = number
}

// giveUpCatchUp no longer expects a node to catch the name up unless the node is known by now. mu is
// not held.
func (b *Broker) giveUpCatchUp(n *member, node string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.cluster
	if _, isBehind := c.behind[node][n]; isBehind && !slices.Contains(c.directory.Nodes(), node) {
		delete(c.behind[node], n)
		b.missed(n, node)
	}
}

// missed tells the peer of a name and observers that messages of a node are missing.
func (b *Broker) missed(n *member, node string) {
	n.missed()
	b.notify(Event{Kind: EventGap, Node: node, Missed: -1})
}

func roomSet(rooms []string) map[string]bool {
	s := make(map[string]bool)
	for _, room := range rooms {
		s[room] = true
	}
	return s
}

// sendCatchUp catches up a name at another node.
func (b *Broker) sendCatchUp(node string, e relay.Event) {
	c, name := b.cluster, e.Name
	number, isBehind := e.Heard[c.directory.Self]
	if !isBehind {
		return
	}
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

// catchUp delivers the later fan-outs of another node to a name here. It holds the order of all names, so
// leaveGroups waits for it. mu is not held.
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
		b.missed(n, node)
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

// missed lets the next Resume of the name say that the number of missing messages is unknown. Broker.mu is
// held.
func (n *member) missed() {
	for h := n.first; h != nil; h = h.next {
		h.writer.missed()
	}
}

// unknownLoss is still to be told to a peer.
var unknownLoss = resumption{math.MaxInt64, -1}

func (w *Writer) missed() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if k := w.keeper(); k != nil {
		k.resumed = unknownLoss
	}
}
