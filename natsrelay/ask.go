package natsrelay

import (
	"context"
	"fmt"
)

// An answer is what another node replies to a question: what a name has left there, or what a
// room keeps.
type response struct {
	found    bool
	messages [][]byte
	rooms    []string
}

func appendResponse(b []byte, a response) []byte {
	b = appendBool(b, a.found)
	b = appendList(b, a.messages, appendBytes)
	return appendList(b, a.rooms, appendBytes)
}

func (p *parser) response() (a response) {
	a.found = p.bool()
	a.messages = list(p, p.bytes)
	a.rooms = list(p, p.string)
	return a
}

// request asks the peer about a name or a room, and waits for the answer.
func (p *peer) request(ctx context.Context, kind byte, name string, messages int) (response, error) {
	c := make(chan response, 1)
	p.mu.Lock()
	if !p.state.isReachable() {
		p.mu.Unlock()
		return response{}, fmt.Errorf("%w: %s", ErrNodeLost, p.id)
	}
	p.lastID++
	id := p.lastID
	p.requests[id] = c
	p.enqueue(appendUint(appendBytes(appendUint([]byte{kind}, id), name), messages), 0)
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
	case a, ok := <-c: // at the last moment
		if ok {
			return a, nil
		}
	default:
	}
	return response{}, fmt.Errorf("no answer from node %s: %w", p.id, context.Cause(ctx))
}

// handleRequest answers a question of the peer, in a goroutine, for that may take a moment.
func (p *peer) handleRequest(in *parser, kind byte) {
	id, name, messages := in.uint(), in.string(), in.int()
	if in.bad {
		return
	}
	p.relay.goroutines.Go(func() {
		item := appendBytes(appendUint([]byte{kind + 1}, id), name)
		if kind == itemReplay {
			kept := p.relay.node.Replay(name, messages)
			p.sendItem(appendResponse(item, response{messages: kept}))
			return
		}
		e, ok := p.relay.node.Evict(name, p.id)
		p.sendHandover(handover{name: name, undelivered: e.Undelivered}, appendResponse(item, response{ok, e.Undelivered, e.Rooms}))
	})
}

// handleResponse gives an answer of the peer to the one who waits for it. What a name has left is
// handed back if nobody does any more.
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

// An handover is what this node has given away with a name, kept until the peer has it.
type handover struct {
	name        string
	undelivered [][]byte
	piece       uint64 // of the piece that it ends in
}

// sendHandover adds the answer that has e in it. If the peer is lost before it has that, e is handed back.
func (p *peer) sendHandover(e handover, item []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state.isReachable() {
		p.enqueue(item, 0)
		e.piece = p.outbox.newest()
		p.handovers = append(p.handovers, e)
		return
	}
	p.mu.Unlock()
	p.relay.node.HandBack(e.name, e.undelivered)
	p.mu.Lock()
}
