package natsrelay

import (
	"context"
	"fmt"
)

// An answer is what another node replies to a question: what a name has left there, or what a
// room keeps.
type answer struct {
	ok       bool
	messages [][]byte
	rooms    []string
}

func appendAnswer(b []byte, a answer) []byte {
	b = appendBool(b, a.ok)
	b = appendList(b, a.messages, appendBytes)
	return appendList(b, a.rooms, appendBytes)
}

func (p *parser) answer() (a answer) {
	a.ok = p.bool()
	a.messages = list(p, p.bytes)
	a.rooms = list(p, p.string)
	return a
}

// ask asks the peer about a name or a room, and waits for the answer.
func (p *peer) ask(ctx context.Context, kind byte, name string, messages int) (answer, error) {
	c := make(chan answer, 1)
	p.mu.Lock()
	if !p.state.isReachable() {
		p.mu.Unlock()
		return answer{}, fmt.Errorf("%w: %s", ErrNodeLost, p.id)
	}
	p.last++
	id := p.last
	p.questions[id] = c
	p.add(appendUint(appendBytes(appendUint([]byte{kind}, id), name), messages), 0)
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
	delete(p.questions, id)
	select {
	case a, ok := <-c: // at the last moment
		if ok {
			return a, nil
		}
	default:
	}
	return answer{}, fmt.Errorf("natsrelay: no answer of node %s: %w", p.id, context.Cause(ctx))
}

// question answers a question of the peer, in a goroutine, for that may take a moment.
func (p *peer) question(in *parser, kind byte) {
	id, name, messages := in.uint(), in.string(), in.int()
	if in.bad {
		return
	}
	p.relay.running.Go(func() {
		item := appendBytes(appendUint([]byte{kind + 1}, id), name)
		if kind == itemReplay {
			kept := p.relay.node.Replay(name, messages)
			p.send(appendAnswer(item, answer{messages: kept}))
			return
		}
		e, ok := p.relay.node.Evict(name, p.id)
		p.give(estate{name: name, undelivered: e.Undelivered}, appendAnswer(item, answer{ok, e.Undelivered, e.Rooms}))
	})
}

// reply gives an answer of the peer to the one who waits for it. What a name has left is
// handed back if nobody does any more.
func (p *peer) reply(in *parser, kind byte) {
	id, name, a := in.uint(), in.string(), in.answer()
	if in.bad {
		return
	}
	p.mu.Lock()
	c := p.questions[id]
	delete(p.questions, id)
	if c != nil {
		c <- a
	}
	p.mu.Unlock()
	if c == nil && kind == itemEstate && len(a.messages) > 0 {
		p.relay.node.HandBack(name, a.messages)
	}
}

// An estate is what this node has given away with a name, kept until the peer has it.
type estate struct {
	name        string
	undelivered [][]byte
	number      uint64 // of the piece that it ends in
}

// give adds the answer that has e in it. If the peer is lost before it has that, e is handed back.
func (p *peer) give(e estate, item []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state.isReachable() {
		p.add(item, 0)
		e.number = p.out.last()
		p.estates = append(p.estates, e)
		return
	}
	p.mu.Unlock()
	p.relay.node.HandBack(e.name, e.undelivered)
	p.mu.Lock()
}
