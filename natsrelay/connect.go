package natsrelay

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Connect returns a Relay connected to the NATS servers at url, a list of one or more URLs separated
// by commas. The servers need JetStream. opts may be nil. natsOptions configure both connections of
// the Relay: credentials, TLS, a name, handlers. Options that limit reconnecting have no effect.
//
// Connect fails if an option is invalid, if no NATS server answers, if JetStream does not answer within
// Options.Timeout, or if NATS refuses a right that the node needs. Each server has a fifth of the Lease
// to answer, at least 1 s and at most 5 s. So Connect takes 6 s by default if three servers do not
// answer. Later the Relay reconnects by itself, however long NATS is away.
func Connect(url string, opts *Options, natsOptions ...nats.Option) (*Relay, error) {
	if opts == nil {
		opts = &Options{}
	}
	r, err := newRelay(*opts)
	if err != nil {
		return nil, err
	}
	if err := r.connect(url, natsOptions); err != nil {
		r.stop()
		return nil, err
	}
	return r, nil
}

// newRelay returns a Relay that is not connected.
func newRelay(opts Options) (*Relay, error) {
	r := &Relay{
		opts:    opts,
		inbound: make(chan *nats.Msg, 1<<14),
		drained: make(chan struct{}, 1),
		peers:   make(map[string]*peer),
	}
	if err := r.opts.setDefaults(); err != nil {
		return nil, err
	}
	r.id = newNodeID(r.opts.Node)
	r.pieceSize.Store(maxPiece)
	r.registry = &registry{relay: r, names: make(map[string]holding)}
	r.ctx, r.cancel = context.WithCancelCause(context.Background())
	r.closing, r.beginClose = context.WithCancelCause(r.ctx)
	return r, nil
}

func (r *Relay) connect(url string, natsOptions []nats.Option) (err error) {
	g := r.registry
	nc, err := r.dial(url, "messages", natsOptions, func(nc *nats.Conn) {
		r.adoptPayload(nc.MaxPayload())
		r.retryPublishing()
	})
	if err != nil {
		return err
	}
	r.nc = nc
	registryNC, err := r.dial(url, "registry", natsOptions, func(*nats.Conn) {})
	if err != nil {
		return err
	}
	g.nc = registryNC
	if err := r.adoptPayload(nc.MaxPayload()); err != nil {
		return err
	}
	for _, kind := range []string{"all", "to." + r.id} {
		// One channel for both subscriptions keeps messages in order; two callbacks would not.
		if _, err := nc.ChanSubscribe(r.subject(kind), r.inbound); err != nil {
			return fmt.Errorf("natsrelay: %w", err)
		}
	}
	js, err := jetstream.New(registryNC)
	if err != nil {
		return fmt.Errorf("natsrelay: %w", err)
	}
	g.bucket = &bucket{
		js: js, name: r.opts.Cluster, replicas: r.opts.Replicas, timeout: r.opts.attemptTimeout(), log: r.opts.Log,
	}
	ctx, cancel := context.WithTimeout(r.ctx, r.opts.Timeout)
	defer cancel()
	if err := r.checkSubjects(ctx, nc); err != nil {
		return err
	}
	return r.checkBucket(ctx, registryNC)
}

// minPayload is the lowest limit on the size of a NATS message that a Relay works with.
const minPayload = 1 << 10

// adoptPayload adopts the server's limit on the size of a message, which may be another one after each
// reconnect. It returns an error if the limit is too low for a Relay.
func (r *Relay) adoptPayload(limit int64) error {
	r.pieceSize.Store(min(maxPiece, max(limit, minPayload)-int64(headerSize(len(r.id)))))
	if limit >= minPayload {
		return nil
	}
	err := fmt.Errorf("natsrelay: max_payload of the NATS server is %d bytes, want at least %d", limit, minPayload)
	r.opts.Log.Error("NATS", "node", r.id, "error", err)
	return err
}

// retryPublishing makes all peers publish again after a reconnect.
func (r *Relay) retryPublishing() {
	for _, p := range r.allPeers() {
		p.retry()
	}
}
