package sendq

import (
	"bytes"
	"context"
	"slices"

	"github.com/sendq-go/sendq/relay"
)

// JoinReplay is Join, and also queues the last messages of the room for name: at most the given
// number, and none if the number is negative. Messages published later follow them, without a gap
// or a duplicate. JoinReplay returns the number of messages accepted, and 0 if name is a member
// already. It waits for messages being published to the room.
//
// A Writer accepts these messages whatever its MaxPending. As after a takeover, they then count
// toward it, except with Disconnect. But while messages of an earlier replay or takeover are
// pending, MaxPending holds for a replay too. The messages end no Writer: if there is no room for
// all of them, the newest are accepted.
//
// BrokerOptions.ReplayMessages and ReplayBytes determine how much a room keeps; by default it keeps
// nothing. A node keeps the messages of a room while the room has members there. The first member
// on a node gets the history of another node. JoinReplay asks the nodes with members one after the
// other until one replies, and waits up to the Relay's timeout for each. If none replies, it
// replays nothing of theirs. Messages published during that wait may be delivered twice. For a moment
// after name has come here from another node, messages from other nodes may be missing in a room that it
// joins.
func (r *Room) JoinReplay(name string, messages int) (replayed int, err error) {
	return r.JoinReplayContext(context.Background(), name, messages)
}

// JoinReplayContext is JoinReplay, but stops waiting for other nodes when ctx is done. Then name
// joins without their history, and that is no error. JoinReplayContext panics if ctx is nil.
func (r *Room) JoinReplayContext(ctx context.Context, name string, messages int) (replayed int, err error) {
	requireContext(ctx)
	b := r.broker
	b.mu.Lock()
	n := b.names.Get(name)
	if n == nil {
		b.mu.Unlock()
		return 0, errUnknownName(name)
	}
	g := b.makeRoom(r.name)
	g.users++
	b.mu.Unlock()
	defer b.done(g)
	var nodes []string
	if messages > 0 {
		nodes = b.keepers(g, n)
	}
	older := b.fetch(ctx, nodes, r.name, messages)
	idle := newWakeList()
	defer idle.done() // after the lock is released
	g.order.Lock()
	defer g.order.Unlock()

	joined, err := b.joinIfHere(n, g)
	if joined {
		if len(older) > 0 && !g.fetched {
			g.fetched = true
			g.kept.Precede(older)
		}
		replayed = g.replay(n, messages, idle)
	}
	return replayed, err
}

// joinIfHere is join unless the name has become free.
func (b *Broker) joinIfHere(n *member, g *group) (joined bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n.first == nil || n.isMoving {
		return false, errUnknownName(n.name)
	}
	return b.join(n, g), nil
}

// keepers returns the nodes that may keep messages of a room while this node keeps none, because
// the room has no members here. It announces n to them as a member, so this node keeps the
// messages published from now on.
func (b *Broker) keepers(g *group, n *member) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.opts.ReplayMessages == 0 || g.Len() > 0 || n.first == nil {
		return nil
	}
	nodes := b.cluster.nodesOf(toRoom(g.room))
	if len(nodes) > 0 {
		b.cluster.transport.Announce([]relay.Event{{Kind: relay.EventRoomJoined, Name: n.name, Room: g.room}})
	}
	return nodes
}

// fetch returns the kept messages of the first node to reply.
func (b *Broker) fetch(ctx context.Context, nodes []string, room string, messages int) [][]byte {
	for _, node := range nodes {
		if kept, err := b.cluster.transport.Replay(ctx, node, room, messages); err == nil {
			return kept
		}
	}
	return nil
}

// Replay implements [relay.Node].
func (b node) Replay(room string, messages int) (kept [][]byte) {
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
	for p := range g.kept.Last(messages) {
		kept = append(kept, bytes.Clone(p))
	}
	return kept
}

// replay delivers at most the given number of last messages to n and returns the number accepted.
// If n has no room for all of them, it accepts the newest.
func (g *group) replay(n *member, messages int, idle *wakeList) (replayed int) {
	last := slices.Collect(g.kept.Last(messages))
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
