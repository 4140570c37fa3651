package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/sendq-go/sendq"
)

// A sequence numbers the messages of one sender.
type sequence struct {
	sender int
	last   uint32
}

// next appends the next message to p. Most messages are short.
func (n *sequence) next(p []byte, rng *rand.Rand) []byte {
	n.last++
	body := 0
	switch rng.Uint32() % 256 {
	case 0:
		body = 8 + rng.IntN(8000)
	case 1, 2, 3:
		body = 8 + rng.IntN(200)
	}
	return appendMessage(p, n.sender, n.last, body)
}

// publish sends a batch of messages, most of them to the room.
func (e *episode) publish(ctx context.Context, rng *rand.Rand, n *sequence) {
	e.throttle(ctx, rng)
	batch := e.broker.NewBatch()
	var p [8192]byte
	for range 1 + rng.IntN(512) {
		message := n.next(p[:0], rng)
		switch rng.Uint32() % 64 {
		case 0:
			batch.Broadcast(message)
		case 1:
			batch.Send(pick(rng, e.members...).name, message)
		default:
			batch.Publish(memberRoom, message)
		}
	}
	e.count(batch.Flush())
}

// count adds a Report to the figures.
func (e *episode) count(r sendq.Report) {
	e.accepted.Add(int64(r.Accepted))
	e.delivered.Add(int64(r.Accepted))
	for _, refusal := range r.Refused {
		e.maybeDropped.Add(int64(refusal.Messages))
	}
}

// countOne adds the result of sending one message to the figures.
func (e *episode) countOne(err error) {
	switch {
	case err == nil:
		e.count(sendq.Report{Accepted: 1})
	case errors.Is(err, sendq.ErrDropped):
		e.maybeDropped.Add(1)
	}
}

// sendToNames sends a few messages to names.
func (e *episode) sendToNames(ctx context.Context, rng *rand.Rand, n *sequence) {
	e.throttle(ctx, rng)
	for range 100 {
		i, p := rng.IntN(len(e.members)), n.next(nil, rng)
		name, neighbour := e.members[i].name, e.members[(i+1)%len(e.members)].name
		switch rng.IntN(8) {
		case 0:
			e.count(e.broker.SendTo([]string{name, neighbour}, p))
		case 1:
			e.count(sendq.Report{Accepted: e.room.Publish(p)})
			e.maybeDropped.Add(int64(len(e.members))) // Publish returns only a count
		default:
			e.countOne(e.broker.Send(name, p))
		}
		clear(p)
	}
}

// sendToWriters sends a few messages to Writers.
func (e *episode) sendToWriters(ctx context.Context, rng *rand.Rand, n *sequence) {
	e.throttle(ctx, rng)
	ctx, cancel := context.WithTimeout(ctx, 10*time.Millisecond) // Block may make a write wait
	defer cancel()
	for range 100 {
		w, ok := e.broker.Lookup(pick(rng, e.members...).name)
		if !ok {
			continue
		}
		for range 1 + rng.IntN(4) {
			if p := n.next(nil, rng); rng.IntN(2) == 0 && e.opts.Overflow != sendq.Block {
				e.countOne(w.Send(p))
			} else {
				_, err := w.WriteContext(ctx, p)
				e.countOne(err)
				clear(p)
			}
		}
	}
}

// throttle usually waits until the members that read have little pending.
func (e *episode) throttle(ctx context.Context, rng *rand.Rand) {
	if rng.IntN(50) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	limit := 32 << 10
	if e.opts.MaxPending > 0 {
		limit = min(limit, e.opts.MaxPending/4)
	}
	for _, m := range e.members {
		if at := m.current(); !at.isStalled() && at.w.Err() == nil {
			_ = at.w.WaitPending(ctx, limit)
		}
	}
}
