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
	"github.com/sendq-go/sendq/relay"
)

// A Relay connects a Broker to the Brokers of other processes over NATS. Connect returns one. It
// belongs to the Broker with the Relay in its BrokerOptions, and ends with that Broker.
type Relay struct {
	opts      Options
	id        string       // of this node
	pieceSize atomic.Int64 // bytes in a piece, at most; NATS decides
	node      relay.Node
	nc        conn // for messages; the registry has its own

	inbound    chan *nats.Msg
	registry   *registry
	closing    context.Context // done when Close is called
	beginClose context.CancelCauseFunc
	ctx        context.Context // done when the goroutines must end
	cancel     context.CancelCauseFunc
	drained    chan struct{} // receives a value when an outbox may have become empty
	goroutines sync.WaitGroup

	mu      sync.RWMutex     // a peer's mu may be taken while it is held, but not the other way round
	peers   map[string]*peer // by id
	removed MessageStats     // of peers removed

	clock     atomic.Int64 // ticks so far
	lastEcho  atomic.Int64 // tick when a heartbeat of this node last came back
	unprobed  atomic.Int64 // 1 and own heartbeats that came back since a probe, until it comes too
	malformed atomic.Int64
}

var _ relay.Transport = (*Relay)(nil)

// A conn carries envelopes to other nodes. It is a nats.Conn, except in the simulation.
type conn interface {
	Publish(subject string, envelope []byte) error
	MaxPayload() int64
	ForceReconnect() error // to another server, if there are several
	Close()
}

// subject returns a subject of the cluster.
func (r *Relay) subject(kind string) string { return r.opts.Cluster + "." + kind }

// newNodeID returns a unique id.
func newNodeID(label string) string {
	id := strings.ToLower(rand.Text()[:10])
	if label != "" {
		id = label + "-" + id
	}
	return id
}

// Start implements [relay.Transport].
func (r *Relay) Start(node relay.Node) string {
	r.node = node
	r.goroutines.Go(r.serve)
	r.goroutines.Go(r.beat)
	r.goroutines.Go(r.registry.renewLoop)
	r.goroutines.Go(r.registry.discover)
	return r.id
}

// serve handles everything from other nodes. One goroutine keeps it in order.
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

// beat publishes heartbeats. They show other nodes that this node is alive. They also come back
// to this node itself, and show that it can reach NATS. A node that did not know this one answers
// with a ping.
func (r *Relay) beat() {
	b := r.signal(flagBeat)
	ticker := time.NewTicker(r.opts.tickInterval())
	defer ticker.Stop()
	for {
		_ = r.nc.Publish(r.subject("all"), b) // a lost heartbeat does not matter: the next one follows
		select {
		case <-ticker.C:
		case <-r.ctx.Done():
			return
		}
	}
}

// signal returns an envelope that consists of flags.
func (r *Relay) signal(flags byte) []byte {
	h := header{flags: flags, from: r.id}
	b := make([]byte, headerSize(len(r.id)))
	h.put(b)
	return b
}

// allPeers returns the known peers.
func (r *Relay) allPeers() []*peer {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return slices.Collect(maps.Values(r.peers))
}

// peer returns the peer with that id, or nil if it is not known.
func (r *Relay) peer(id string) *peer {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.peers[id]
}

// Announce implements [relay.Transport].
func (r *Relay) Announce(events []relay.Event) {
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

// Post implements [relay.Transport].
func (r *Relay) Post(node string, d relay.Delivery, outcome func(relay.Outcome)) {
	err := context.Cause(r.closing)
	switch p := r.peer(node); {
	case err != nil:
	case p == nil:
		err = fmt.Errorf("%w: no node %s", sendq.ErrUnknownName, node)
	default:
		err = p.send(d, outcome)
	}
	if err != nil && outcome != nil {
		go outcome(relay.Outcome{Err: err}) // in a goroutine, because the caller may hold locks
	}
}

// Claim implements [relay.Transport].
func (r *Relay) Claim(ctx context.Context, name string, takeover bool) (token uint64, h relay.Handover, err error) {
	ctx, cancel := r.bound(ctx)
	defer cancel()
	return r.registry.claim(ctx, name, takeover)
}

// Release implements [relay.Transport].
func (r *Relay) Release(name string) {
	if r.closing.Err() == nil {
		r.registry.release(name)
	}
}

// Replay implements [relay.Transport].
func (r *Relay) Replay(ctx context.Context, node, room string, n int) ([][]byte, error) {
	p := r.peer(node)
	if p == nil {
		return nil, fmt.Errorf("natsrelay: no node %s", node)
	}
	ctx, cancel := r.bound(ctx)
	defer cancel()
	a, err := p.request(ctx, itemReplay, room, uint64(n))
	if err != nil {
		return nil, failed(err, "replay %q", room)
	}
	return a.messages, nil
}

// bound returns a copy of ctx that is also done when Close is called or Timeout has passed.
func (r *Relay) bound(ctx context.Context) (bounded context.Context, cancel func()) {
	ctx, cancelCause := context.WithCancelCause(ctx)
	stop := context.AfterFunc(r.closing, func() { cancelCause(context.Cause(r.closing)) })
	ctx, cancelTimeout := context.WithTimeout(ctx, r.opts.Timeout)
	return ctx, func() {
		cancelTimeout()
		stop()
		cancelCause(nil)
	}
}

// isCutOff reports whether no heartbeat of this node has come back for a Lease.
func (r *Relay) isCutOff() bool {
	return r.clock.Load()-r.lastEcho.Load() > int64(r.opts.ticksIn(r.opts.Lease))
}

// Close implements [relay.Transport]. Call it only if no Broker has the Relay.
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
	case <-ctx.Done(): // a stuck connection may close later
	}
	return err
}

// stop closes the connections and waits until all goroutines have ended.
func (r *Relay) stop() {
	r.cancel(sendq.ErrClosed)
	if r.nc != nil {
		r.nc.Close()
	}
	if r.registry.nc != nil {
		r.registry.nc.Close()
	}
	for _, p := range r.allPeers() {
		r.removePeer(p, errors.New("this node is shutting down"))
	}
	r.goroutines.Wait()
}

// drain waits until the peers have acknowledged everything.
func (r *Relay) drain(ctx context.Context, peers []*peer) error {
	for {
		nodes, messages := 0, 0
		for _, p := range peers {
			if n, done := p.unacknowledged(); !done {
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
			return fmt.Errorf("natsrelay: %d messages not confirmed by %d nodes: %w", messages, nodes, context.Cause(ctx))
		}
	}
}

// wakeDrain makes drain check again.
func (r *Relay) wakeDrain() {
	select {
	case r.drained <- struct{}{}:
	default:
	}
}
