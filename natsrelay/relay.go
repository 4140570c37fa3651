package natsrelay

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/sendq-go/sendq"
)

// ErrNodeLost is why names leave, and what was asked of their node fails, when that has not
// been heard of for a Lease: it has died, or one of the two cannot reach the other.
var ErrNodeLost = errors.New("natsrelay: node is not heard of any more")

// A Relay connects a Broker with those of other processes over NATS. It must be made by
// Connect, and belongs to the Broker that gets it as BrokerOptions.Relay, whose Shutdown or
// Close ends it.
type Relay struct {
	opts      Options
	id        string // of this node
	pieceSize int    // of a piece, at most
	node      node
	nc        *nats.Conn // carries the streams, and registry.nc what must not wait for them

	inbound    chan *nats.Msg
	registry   *registry
	closing    context.Context // until Close is called
	beginClose context.CancelCauseFunc
	ctx        context.Context // until the end
	cancel     context.CancelCauseFunc
	drained    chan struct{} // has a value when an outbox may have become empty
	goroutines sync.WaitGroup

	mu    sync.RWMutex
	peers map[string]*peer // those that have been heard of and not left

	clock     atomic.Int64 // ticks so far
	lastEcho  atomic.Int64 // the tick at which a beat of this node itself last came back
	malformed atomic.Int64
}

// A node is what a Relay needs of a sendq.Node.
type node interface {
	Deliver(ds []sendq.Delivery) []sendq.Outcome
	Learn(node string, events []sendq.Event, snapshot bool)
	Forget(node string, cause error)
	Snapshot(f func(events []sendq.Event))
	Missed(node string, messages int)
	Evict(name, by string) (sendq.Estate, bool)
	HandBack(name string, undelivered [][]byte)
	Lose(name string)
	Replay(room string, messages int) [][]byte
}

var _ node = (*sendq.Node)(nil)
var _ sendq.Relay = (*Relay)(nil)

// subject returns the subject of that kind.
func (r *Relay) subject(kind string) string { return r.opts.Cluster + "." + kind }

// newNodeID returns an id that no other node has.
func newNodeID(label string) string {
	id := strings.ToLower(rand.Text()[:10])
	if label != "" {
		id = label + "-" + id
	}
	return id
}

// Start is for the Broker.
func (r *Relay) Start(n *sendq.Node) string {
	r.start(n)
	return r.id
}

func (r *Relay) start(n node) {
	r.node = n
	r.goroutines.Go(r.serve)
	r.goroutines.Go(r.beat)
	r.goroutines.Go(r.registry.renewLoop)
}

// serve hands on what comes from the others, all in one goroutine, so that it stays in order.
func (r *Relay) serve() {
	ticker := time.NewTicker(r.opts.tickInterval())
	defer ticker.Stop()
	for {
		select {
		case m := <-r.inbound:
			r.receive(m.Data)
		case <-ticker.C:
			r.tick()
		case <-r.ctx.Done():
			return
		}
	}
}

// beat tells all that this node lives, and itself that it can reach NATS. Those who did not
// know it answer with a ping.
func (r *Relay) beat() {
	h := header{flags: flagBeat, from: r.id}
	b := make([]byte, headerSize(len(r.id)))
	h.put(b)
	ticker := time.NewTicker(r.opts.tickInterval())
	defer ticker.Stop()
	for {
		_ = r.nc.Publish(r.subject("all"), b) // if it is lost, the next one is not
		select {
		case <-ticker.C:
		case <-r.ctx.Done():
			return
		}
	}
}

// allPeers returns the nodes that are known.
func (r *Relay) allPeers() []*peer {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return slices.Collect(maps.Values(r.peers))
}

func (r *Relay) peer(id string) *peer {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.peers[id]
}

// Tell is for the Broker.
func (r *Relay) Tell(events []sendq.Event) {
	if r.closing.Err() != nil {
		return
	}
	item := appendList([]byte{itemEvents}, events, appendEvent)
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, p := range r.peers {
		p.announce(item)
	}
}

// Post is for the Broker.
func (r *Relay) Post(node string, d sendq.Delivery, outcome func(sendq.Outcome)) {
	err := context.Cause(r.closing)
	switch p := r.peer(node); {
	case err != nil:
	case p == nil:
		err = fmt.Errorf("%w: no such node: %s", sendq.ErrUnknownName, node)
	default:
		err = p.send(d, outcome)
	}
	if err != nil && outcome != nil {
		go outcome(sendq.Outcome{Err: err}) // not here, where locks are held
	}
}

// Claim is for the Broker.
func (r *Relay) Claim(name string, takeover bool) (sendq.Estate, error) {
	ctx, cancel := context.WithTimeout(r.closing, r.opts.Timeout)
	defer cancel()
	return r.registry.claim(ctx, name, takeover)
}

// Release is for the Broker.
func (r *Relay) Release(name string) {
	if r.closing.Err() == nil {
		r.registry.release(name)
	}
}

// Replay is for the Broker.
func (r *Relay) Replay(node, room string, messages int) ([][]byte, error) {
	p := r.peer(node)
	if p == nil {
		return nil, fmt.Errorf("natsrelay: no such node: %s", node)
	}
	ctx, cancel := context.WithTimeout(r.closing, r.opts.Timeout)
	defer cancel()
	a, err := p.request(ctx, itemReplay, room, messages)
	return a.messages, err
}

// isCutOff tells whether this node has not even heard of itself for a Lease.
func (r *Relay) isCutOff() bool {
	return r.clock.Load()-r.lastEcho.Load() > int64(r.opts.ticksIn(r.opts.Lease))
}

// Close is for the Broker.
func (r *Relay) Close(ctx context.Context) error {
	r.beginClose(sendq.ErrClosed)
	peers := r.allPeers()
	for _, p := range peers {
		p.sendItem([]byte{itemBye})
	}
	err := errors.Join(r.drain(ctx, peers), r.registry.close(ctx))
	ended := make(chan struct{})
	go func() {
		r.stop()
		close(ended)
	}()
	select {
	case <-ended:
	case <-ctx.Done(): // a connection that is stuck may need a moment more
	}
	return err
}

// stop closes the connections and ends all goroutines.
func (r *Relay) stop() {
	r.cancel(sendq.ErrClosed)
	for _, nc := range []*nats.Conn{r.nc, r.registry.nc} {
		if nc != nil {
			nc.Close()
		}
	}
	for _, p := range r.allPeers() {
		r.removePeer(p)
	}
	r.goroutines.Wait()
}

// drain waits until the peers have everything that is for them.
func (r *Relay) drain(ctx context.Context, peers []*peer) error {
	for {
		nodes, messages := 0, 0
		for _, p := range peers {
			if n, isAll := p.unacknowledged(); !isAll {
				nodes++
				messages += n
			}
		}
		if nodes == 0 {
			return nil
		}
		select {
		case <-r.drained:
		case <-ctx.Done():
			return fmt.Errorf("natsrelay: %d nodes have not confirmed %d messages: %w", nodes, messages, context.Cause(ctx))
		}
	}
}

// wakeDrain wakes drain.
func (r *Relay) wakeDrain() {
	select {
	case r.drained <- struct{}{}:
	default:
	}
}
