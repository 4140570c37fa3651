package sendq

import "context"

// A turn lets one goroutine at a time register, take over or evict a name. A name may become free
// at any time, whoever has the turn. A free name of a Broker without a cluster is registered
// without a turn.
type turn struct {
	name string
	busy chan struct{} // has a value while somebody has the turn

	// Guarded by Broker.mu.
	users  int  // callers that have the turn or wait for it
	isLost bool // since the last call of Transport.Claim, another node has been granted the name
}

// takeTurn waits for the turn of name until ctx is done. The caller must end the turn. mu is
// not held.
func (b *Broker) takeTurn(ctx context.Context, name string) (*turn, error) {
	done := ctx.Done()
	b.mu.Lock()
	t := b.turns.Get(name)
	if t == nil {
		t = &turn{name: name, busy: make(chan struct{}, 1)}
		b.turns.Put(name, t)
	}
	t.users++
	b.mu.Unlock()
	select {
	case t.busy <- struct{}{}:
		return t, nil
	default: // a context that is done matters only here
	}
	select {
	case t.busy <- struct{}{}:
		return t, nil
	case <-done:
		b.leaveTurn(t)
		return nil, contextCause(ctx)
	}
}

func (b *Broker) endTurn(t *turn) {
	<-t.busy
	b.leaveTurn(t)
}

func (b *Broker) leaveTurn(t *turn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if t.users--; t.users == 0 {
		b.turns.Remove(t.name)
	}
}
