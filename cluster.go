package sendq

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/sendq-go/sendq/internal/directory"
	"github.com/sendq-go/sendq/internal/set"
	"github.com/sendq-go/sendq/relay"
)

// A cluster holds what a Broker with a transport has besides its own names. Broker.mu guards it.
type cluster struct {
	transport relay.Transport
	directory *directory.Directory
	moves     set.Map[string, *move] // of the names that are arriving
	learned   uint                   // for Broker.learn
	claims    sync.WaitGroup         // calls of Transport.Claim; none begins once the Broker is closed
	sent      fanOutLog
	heard     map[string]uint64             // the number of the last fan-out of each other node
	behind    map[string]map[*member]uint64 // the names that each other node has to catch up, and what they have heard of it

	// For Broker.closeTransport.
	closing atomic.Bool
	bound   context.Context
	cancel  context.CancelCauseFunc
	closed  bool // nothing is learned any longer
	err     error
	done    chan struct{} // closed when the transport is closed
}

func newCluster(t relay.Transport) *cluster {
	bound, cancel := context.WithCancelCause(context.Background())
	return &cluster{
		transport: t,
		directory: directory.New(),
		heard:     make(map[string]uint64),
		behind:    make(map[string]map[*member]uint64),
		bound:     bound,
		cancel:    cancel,
		done:      make(chan struct{}),
	}
}

// applyOwn applies events about a name of this node. mu is held, here and below.
func (b *Broker) applyOwn(events []relay.Event) {
	b.cluster.directory.Apply(b.cluster.directory.Self, events, false, b.report)
}

// where returns the node that has the name, or a channel to wait for if the name is moving. A
// nil cluster knows no names.
func (c *cluster) where(name string) (node string, wait <-chan struct{}) {
	if c == nil {
		return "", nil
	}
	if m := c.moves.Get(name); m != nil {
		return "", m.settled
	}
	node, _, _ = c.directory.Where(name)
	return node, nil
}

// isAway reports whether another node waits for the peer of a name. A nil cluster knows no names.
func (c *cluster) isAway(name string) bool { return c != nil && c.directory.IsAway(name) }

// nodesOf returns the other nodes that have recipients of t.
func (c *cluster) nodesOf(t target) []string {
	if c == nil || t.here {
		return nil
	}
	return c.directory.NodesOf(t.Target)
}

// hasRecipients reports whether t has recipients on other nodes, or names that arrive here.
func (c *cluster) hasRecipients(t target) bool {
	return c != nil && !t.here && (len(c.nodesOf(t)) > 0 || c.directory.Len(t.Target) > 0)
}

// closeTransport leaves the cluster. Afterwards no other node is known, and nobody waits for one.
// If there are several calls, the earliest end of a ctx counts. mu is not held.
func (b *Broker) closeTransport(ctx context.Context) error {
	c := b.cluster
	if ctx.Err() != nil {
		c.cancel(contextCause(ctx))
	}
	stop := context.AfterFunc(ctx, func() { c.cancel(contextCause(ctx)) })
	defer stop()
	if c.closing.Swap(true) {
		<-c.done
		return c.err
	}
	defer close(c.done)
	b.awaitMoves()
	if err := c.transport.Close(c.bound); err != nil {
		c.err = failed(err, "closing the Relay")
	}
	c.claims.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	c.closed = true
	for _, node := range c.directory.Nodes() {
		c.directory.Drop(node, ErrClosed, b.learn)
	}
	return c.err
}

// awaitMoves waits until no name is arriving at a node. By then this node has caught up its former names.
// mu is not held.
func (b *Broker) awaitMoves() {
	for {
		b.mu.Lock()
		var settled <-chan struct{}
		for _, m := range b.cluster.moves.All() {
			settled = m.settled
			break
		}
		b.mu.Unlock()
		if settled == nil {
			return
		}
		select {
		case <-settled:
		case <-b.cluster.bound.Done():
			return
		}
	}
}
