package natsrelay

import (
	"context"
	"slices"
)

// An eviction takes a name away from its Writer for another node.
type eviction struct {
	name     string
	token    uint64
	cancel   context.CancelFunc
	response response // of an older eviction, passed on to this one
	done     chan struct{}
}

// evict takes a name away from its Writer, because the node by has been granted it with that token.
// If this node is claiming the name and has the newer token, it waits for the node by. So the
// eviction must not wait for the claim: an earlier Writer of the name has already left.
//
// If several nodes wait for the name, the newest gets it. It has asked the others before, so they
// have given up.
func (g *registry) evict(ctx context.Context, name, by string, token uint64) response {
	if !g.isInForce(ctx, name, by, token) {
		return response{refused: true}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	e := &eviction{name: name, token: token, cancel: cancel, done: make(chan struct{})}
	defer close(e.done)
	g.mu.Lock()
	own := g.names[name]
	g.evictions = append(g.evictions, e)
	g.mu.Unlock()
	var a response
	if !own.claiming || own.revision < token {
		h, found := g.relay.node.Evict(ctx, name, by, token)
		a = response{
			found: found, messages: h.Undelivered, rooms: h.Rooms, heard: h.Heard, since: h.Since,
			hasCount: h.HasCount, kept: h.Kept,
			written: uint64(h.Written), most: uint64(h.Most), apart: h.Apart,
			resumedAt: uint64(h.ResumedAt), missed: h.Missed,
		}
		g.waitForOlder(ctx, e)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.evictions = slices.DeleteFunc(g.evictions, func(other *eviction) bool { return other == e })
	if older := e.response; older.found {
		older.append(a)
		a = older
	}
	for _, other := range g.evictions {
		if a.found && other.name == name && other.token > token {
			other.response, a = a, response{}
		}
	}
	return a
}

// isInForce reports whether a node was granted a name with that token and has not given up. Another node
// may have taken the name over from it since.
func (g *registry) isInForce(ctx context.Context, name, node string, token uint64) bool {
	for try := 0; backOff(ctx, try) == nil; try++ {
		if owners, revision, err := g.readOwners(ctx, nameKey(name)); err == nil {
			i := slices.Index(owners, node)
			return i > 0 || i == 0 && revision == token
		}
	}
	return false
}

// waitForOlder waits until earlier evictions of the name have ended.
func (g *registry) waitForOlder(ctx context.Context, e *eviction) {
	g.mu.Lock()
	evictions := slices.Clone(g.evictions)
	g.mu.Unlock()
	for _, other := range evictions {
		if other.name == e.name && other.token < e.token {
			select {
			case <-other.done:
			case <-ctx.Done():
			}
		}
	}
}

// cancelEvictions ends evictions with older tokens. mu is held.
func (g *registry) cancelEvictions(name string, token uint64) {
	for _, e := range g.evictions {
		if e.name == name && e.token < token {
			e.cancel()
		}
	}
}
