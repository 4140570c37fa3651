package natsrelay

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Connect returns a Relay connected to the NATS servers at url, a list of one or more URLs separated
// by commas. The servers need JetStream. opts may be nil. natsOptions configure both connections of
// the Relay: credentials, TLS, a name, handlers. Options that limit reconnecting have no effect.
//
// Connect fails if an option is invalid, or if NATS or JetStream does not answer within
// Options.Timeout. Later the Relay reconnects by itself, however long NATS is away.
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
		opts:      opts,
		pieceSize: maxPiece,
		inbound:   make(chan *nats.Msg, 1<<14),
		drained:   make(chan struct{}, 1),
		peers:     make(map[string]*peer),
	}
	if err := r.opts.setDefaults(); err != nil {
		return nil, err
	}
	r.id = newNodeID(r.opts.Node)
	r.registry = &registry{relay: r, names: make(map[string]holding)}
	r.ctx, r.cancel = context.WithCancelCause(context.Background())
	r.closing, r.beginClose = context.WithCancelCause(r.ctx)
	return r, nil
}

func (r *Relay) connect(url string, natsOptions []nats.Option) (err error) {
	g := r.registry
	nc, err := r.dial(url, natsOptions, r.retryPublishing)
	if err != nil {
		return err
	}
	r.nc = nc
	if g.nc, err = r.dial(url, natsOptions, func() {}); err != nil {
		return err
	}
	r.pieceSize = min(maxPiece, int(nc.MaxPayload())-headerSize(len(r.id)))
	for _, kind := range []string{"all", "to." + r.id} {
		// One channel for both subscriptions keeps messages in order; two callbacks would not.
		if _, err := nc.ChanSubscribe(r.subject(kind), r.inbound); err != nil {
			return fmt.Errorf("natsrelay: %w", err)
		}
	}
	js, err := jetstream.New(g.nc)
	if err != nil {
		return fmt.Errorf("natsrelay: %w", err)
	}
	g.bucket = &bucket{js: js, name: r.opts.Cluster, replicas: r.opts.Replicas}
	ctx, cancel := context.WithTimeout(r.ctx, r.opts.Timeout)
	defer cancel()
	for try := 1; ; try++ { // a cluster that has just started may not answer yet
		if err = g.renew(ctx); err == nil {
			return nil
		}
		if backOff(ctx, try) != nil {
			return fmt.Errorf("natsrelay: %w", err)
		}
	}
}

// dial connects to NATS. The connection reconnects for ever, and buffers nothing while it is down,
// because the Relay has its own queues. All its bounds follow from the Lease.
func (r *Relay) dial(servers string, natsOptions []nats.Option, reconnected func()) (*nats.Conn, error) {
	defaults := []nats.Option{
		nats.Name("sendq"),
		nats.PingInterval(r.opts.pingInterval()),
		nats.MaxPingsOutstanding(2),
		nats.Timeout(r.opts.netTimeout()),
		nats.FlusherTimeout(r.opts.netTimeout()),
		nats.ReconnectWait(r.opts.pingInterval() / 4), // after all servers were tried
		nats.ReconnectJitter(100*time.Millisecond, 100*time.Millisecond),
		nats.ReconnectOnFlusherError(),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}), // nats.go would print them
	}
	needed := func(o *nats.Options) error {
		o.AllowReconnect, o.MaxReconnect, o.ReconnectBufSize = true, -1, -1
		o.RetryOnFailedConnect = false // Connect needs the server for its limits
		o.IgnoreAuthErrorAbort = true  // otherwise the connection would close for good
		theirs := o.ReconnectedCB
		o.ReconnectedCB = func(nc *nats.Conn) {
			reconnected()
			if theirs != nil {
				theirs(nc)
			}
		}
		return nil
	}
	nc, err := nats.Connect(servers, append(append(defaults, natsOptions...), needed)...)
	if bad, ok := errors.AsType[*url.Error](err); ok {
		err = bad.Err // without the URL, which may contain a password
	}
	if err != nil {
		return nil, fmt.Errorf("natsrelay: connect to %s: %w", redactURLs(servers), err)
	}
	return nc, nil
}

// redactURLs returns URLs without users and passwords. A user name may be a token.
func redactURLs(servers string) string {
	urls := strings.Split(servers, ",")
	for i, s := range urls {
		if s = strings.TrimSpace(s); !strings.Contains(s, "://") {
			s = "nats://" + s // as nats.go does
		}
		if u, err := url.Parse(s); err == nil {
			u.User = nil
			urls[i] = u.String()
		} else {
			urls[i] = "(malformed URL)"
		}
	}
	return strings.Join(urls, ",")
}

// retryPublishing makes all peers publish again after a reconnect.
func (r *Relay) retryPublishing() {
	for _, p := range r.allPeers() {
		p.retry()
	}
}
