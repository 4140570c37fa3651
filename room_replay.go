package sendq

import (
	"bytes"
	"fmt"
	"iter"
	"slices"
)

// JoinReplay is like Join, and queues for name the last messages that the room has kept: at
// most the given number of messages, none if that is negative. What is published later
// follows them: there is no gap, and no message comes twice. JoinReplay returns how many were
// accepted; 0 if name is a member already. It waits for what is being published to the room.
//
// A Writer accepts these messages whatever its MaxPending, as it does in a takeover. They end
// no Writer: if the Budget has no room for all of them, the newest are accepted.
//
// What rooms keep is up to BrokerOptions. A node keeps the messages of a room while it has
// members there. Who becomes the first one gets what another node has kept, for which
// JoinReplay waits, within the bound of the Relay, and nothing if no answer comes; of the
// messages that are being published meanwhile some may come twice then.
func (r *Room) JoinReplay(name string, messages int) (replayed int, err error) {
	b := r.broker
	b.mu.Lock()
	n := b.names.Get(name)
	if n == nil {
		b.mu.Unlock()
		return 0, fmt.Errorf("%w: %q", ErrUnknownName, name)
	}
	g := b.makeRoom(r.name)
	g.users++
	b.mu.Unlock()
	defer b.done(g)
	var nodes []string
	if messages > 0 {
		nodes = b.keepers(g, n)
	}
	older := b.fetch(nodes, r.name, messages)
	idle := newCrew()
	defer idle.start() // after the lock is released
	g.order.Lock()
	defer g.order.Unlock()

	joined, err := b.joinIfHere(n, g)
	if joined {
		if len(older) > 0 && !g.fetched {
			g.fetched = true
			g.kept.precede(older, &b.opts)
		}
		replayed = g.kept.replay(n, messages, idle)
	}
	return replayed, err
}

// joinIfHere is join unless the name has become free.
func (b *Broker) joinIfHere(n *named, g *group) (joined bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n.first == nil {
		return false, fmt.Errorf("%w: %q", ErrUnknownName, n.name)
	}
	return b.join(n, g), nil
}

// keepers returns the nodes that may keep messages of a room of which this one keeps none,
// for it has no member here yet. They are told of n, which is about to become one: what is
// published to the room from now on is kept here as well.
func (b *Broker) keepers(g *group, n *named) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.opts.ReplayMessages == 0 || g.Len() > 0 || n.first == nil {
		return nil
	}
	nodes := b.cluster.nodesOf(target{kind: toRoom, name: g.room})
	if len(nodes) > 0 {
		b.cluster.relay.Tell([]Event{{Kind: RoomJoined, Name: n.name, Room: g.room}})
	}
	return nodes
}

// fetch returns what the first of the nodes that answers has kept.
func (b *Broker) fetch(nodes []string, room string, messages int) [][]byte {
	for _, node := range nodes {
		if kept, err := b.cluster.relay.Replay(node, room, messages); err == nil {
			return kept
		}
	}
	return nil
}

// replayFor is Node.Replay.
func (b *Broker) replayFor(room string, messages int) (kept [][]byte) {
	b.mu.Lock()
	g := b.rooms.Get(room)
	if g == nil {
		b.mu.Unlock()
		return nil
	}
	g.users++
	b.mu.Unlock()
	defer b.done(g)
	g.order.Lock()
	defer g.order.Unlock()
	for p := range g.kept.last(messages) {
		kept = append(kept, bytes.Clone(p))
	}
	return kept
}

// A history is what a room keeps of its last messages: copies, but of long ones, for the
// blocks of the room's log may be much larger than what is to be kept.
type history struct {
	queue    queue
	messages int
}

// add keeps m, and of the last messages as many as the options allow.
func (h *history) add(m *mail, opts *BrokerOptions) {
	if opts.ReplayMessages == 0 {
		return
	}
	for i := m.first; i < m.last; i++ {
		h.keep(m.block.message(i), opts)
	}
}

func (h *history) keep(p []byte, opts *BrokerOptions) {
	h.queue.keep(p)
	h.messages++
	for h.messages > opts.ReplayMessages || opts.ReplayBytes > 0 && h.queue.bytes > int64(opts.ReplayBytes) {
		h.queue.dropOldest()
		h.messages--
	}
}

// precede puts messages that are older in front of what is kept.
func (h *history) precede(older [][]byte, opts *BrokerOptions) {
	newer := slices.Collect(h.queue.all())
	*h = history{}
	for _, p := range slices.Concat(older, newer) {
		h.keep(p, opts)
	}
}

// keep queues p, or a copy of it unless it is long.
func (q *queue) keep(p []byte) {
	if len(p) > maxCopied {
		q.push(newLone(p), 0, 1)
	} else {
		q.copyIn(p)
	}
}

// last yields the last messages, at most the given number.
func (h *history) last(messages int) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		skip := max(0, h.messages-max(0, messages))
		for p := range h.queue.all() {
			if skip--; skip < 0 && !yield(p) {
				return
			}
		}
	}
}

// replay delivers the last messages to n, at most so many, and returns how many it
// accepted. What n has not room for is the oldest part.
func (h *history) replay(n *named, messages int, idle *crew) (replayed int) {
	last := slices.Collect(h.last(messages))
	for {
		writers := n.current()
		for _, w := range *writers {
			replayed = max(replayed, w.give(last, idle))
		}
		if replayed > 0 || n.writers.Load() == writers {
			return replayed
		}
		// Another Writer has the name since.
	}
}
