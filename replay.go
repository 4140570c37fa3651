package sendq

import "fmt"

// JoinReplay is like Join, and queues for name the last messages that the room has kept, at
// most so many. What is published later comes behind them: there is no gap, and none comes
// twice. It returns how many were accepted; 0 if name is a member already. It waits for
// what is being published to the room.
//
// What rooms keep is up to BrokerOptions.
func (r *Room) JoinReplay(name string, messages int) (replayed int, err error) {
	b := r.broker
	b.mu.Lock()
	n := b.names[name]
	if n == nil {
		b.mu.Unlock()
		return 0, fmt.Errorf("%w: %q", ErrUnknownName, name)
	}
	g := b.makeRoom(r.name)
	g.users++
	b.mu.Unlock()
	defer b.done(g)
	idle := newCrew()
	defer idle.start() // after the lock is released
	g.order.Lock()
	defer g.order.Unlock()

	b.mu.Lock()
	isFree := b.names[name] != n
	joined := !isFree && b.join(n, g)
	b.mu.Unlock()
	switch {
	case isFree:
		return 0, fmt.Errorf("%w: %q", ErrUnknownName, name)
	case joined:
		replayed = g.kept.replay(n, messages, idle)
	}
	return replayed, nil
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
		if p := m.block.message(i); len(p) > maxCopied {
			h.queue.push(m.block, i, i+1)
		} else {
			h.queue.copyIn(p)
		}
		h.messages++
		for h.messages > opts.ReplayMessages || opts.ReplayBytes > 0 && h.queue.bytes > opts.ReplayBytes {
			h.queue.dropOldest()
			h.messages--
		}
	}
}

// replay delivers the last messages to n, at most so many, and returns how many it
// accepted.
func (h *history) replay(n *named, messages int, idle *crew) (replayed int) {
	skip := max(0, h.messages-messages)
	for p := range h.queue.all() {
		if skip > 0 {
			skip--
			continue
		}
		m := letter(p)
		m.idle = idle
		accepted, _ := n.deliver(&m)
		replayed += accepted
	}
	return replayed
}
