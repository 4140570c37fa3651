package natsrelay

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/sendq-go/sendq/relay"
)

// A response is the answer of another node to a request: the undelivered messages and the rooms of
// a name that has moved, or the history of a room.
type response struct {
	found    bool
	refused  bool // the name is not given up
	messages [][]byte
	rooms    []string

	// As in relay.Handover.
	hasCount, apart          bool
	kept                     int
	written, most, resumedAt uint64
	missed                   int64
	heard                    map[string]uint64
	since                    uint64
}

func appendResponse(b []byte, a response) []byte {
	b = appendBool(appendBool(b, a.found), a.refused)
	b = appendList(b, a.messages, appendBytes)
	b = appendList(b, a.rooms, appendBytes)
	b = appendUint(appendBool(appendBool(b, a.hasCount), a.apart), a.kept)
	b = appendUint(appendUint(b, a.written), a.most)
	b = appendUint(appendUint(b, a.resumedAt), uint64(a.missed+1))
	return appendUint(appendHeard(b, a.heard), a.since)
}

func (p *parser) response() (a response) {
	a.found, a.refused = p.bool(), p.bool()
	a.messages = list(p, p.bytes)
	a.rooms = list(p, p.string)
	a.hasCount, a.apart, a.kept = p.bool(), p.bool(), p.int()
	a.written, a.most = p.uint(), p.uint()
	a.resumedAt, a.missed = p.uint(), int64(p.uint())-1
	a.heard, a.since = p.heard(), p.uint()
	if a.kept > len(a.messages) || max(a.written, a.most, a.resumedAt) > math.MaxInt64 || a.missed < -1 {
		p.fail()
	}
	return a
}

// handover returns the response about a name that is given up.
func (a *response) handover() relay.Handover {
	return relay.Handover{
		Undelivered: a.messages, Kept: a.kept,
		Written: int64(a.written), Most: int64(a.most), Apart: a.apart, HasCount: a.hasCount,
		ResumedAt: int64(a.resumedAt), Missed: a.missed, Rooms: a.rooms, Heard: a.heard, Since: a.since,
	}
}

// append adds what a later Writer has left, if the name was registered again in between. The count of
// a peer that comes back may belong to either, so written messages are left out.
func (a *response) append(later response) {
	if later.found {
		messages := slices.Concat(a.messages[a.kept:], later.messages[later.kept:])
		*a = response{found: true, messages: messages, rooms: later.rooms, heard: later.heard, since: later.since}
	}
}

// request sends a request to the peer and waits for the response. The request is about a name and
// its token, or about a room and a number of messages.
func (p *peer) request(ctx context.Context, kind byte, name string, n uint64) (response, error) {
	c := make(chan response, 1)
	p.mu.Lock()
	if !p.state.isReachable() {
		p.mu.Unlock()
		return response{}, fmt.Errorf("%w: %s", ErrNodeLost, p.id)
	}
	p.lastID++
	id := p.lastID
	p.requests[id] = c
	p.enqueue(appendUint(appendBytes(appendUint([]byte{kind}, id), name), n), 0)
	p.mu.Unlock()
	select {
	case a, ok := <-c:
		if !ok {
			return a, fmt.Errorf("%w: %s", ErrNodeLost, p.id)
		}
		return a, nil
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.requests, id)
	select {
	case a, ok := <-c: // it arrived at the last moment
		if ok {
			return a, nil
		}
	default:
	}
	return response{}, fmt.Errorf("no answer from node %s: %w", p.id, context.Cause(ctx))
}

// handleRequest responds to the peer. It does so in a goroutine, because that may take a moment. After
// Timeout the peer no longer waits for a name, so the name must stay here.
func (p *peer) handleRequest(in *parser, kind byte) {
	id, name, n := in.uint(), in.string(), in.uint()
	if in.bad {
		return
	}
	p.relay.goroutines.Go(func() {
		item := appendBytes(appendUint([]byte{kind + 1}, id), name)
		if kind == itemReplay {
			kept := p.relay.node.Replay(name, int(min(n, math.MaxInt32)))
			p.sendItem(appendResponse(item, response{messages: kept}))
			return
		}
		ctx, cancel := p.relay.bound(p.relay.ctx)
		defer cancel()
		a := p.relay.registry.evict(ctx, name, p.id, n)
		p.sendHandover(handover{name: name, undelivered: a.messages}, appendResponse(item, a))
	})
}

// handleResponse passes a response to the waiting request. If that has given up, the undelivered
// messages of a name are handed back.
func (p *peer) handleResponse(in *parser, kind byte) {
	id, name, a := in.uint(), in.string(), in.response()
	if in.bad {
		return
	}
	p.mu.Lock()
	c := p.requests[id]
	delete(p.requests, id)
	if c != nil {
		c <- a
	}
	p.mu.Unlock()
	if c == nil && kind == itemHandover && len(a.messages) > 0 {
		p.relay.node.HandBack(name, a.messages)
	}
}

// A handover holds the undelivered messages of a name that the peer takes over, until the peer has
// acknowledged them.
type handover struct {
	name        string
	undelivered [][]byte
	piece       uint64 // number of the piece with the end of the response
}

// sendHandover enqueues the response that contains h. If the peer becomes unreachable before it
// acknowledges the response, the messages are handed back.
func (p *peer) sendHandover(h handover, item []byte) {
	p.mu.Lock()
	isReachable := p.state.isReachable() && len(item) <= maxItem
	if isReachable {
		p.enqueue(item, 0)
		h.piece = p.outbox.newest()
		p.handovers = append(p.handovers, h)
	}
	p.mu.Unlock()
	if !isReachable {
		p.relay.node.HandBack(h.name, h.undelivered)
	}
}
