package sendq

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sendq-go/sendq/relay"
)

// maxMove is how long a name arrives at a node, and messages to it wait, until it is given up.
const maxMove = 5 * time.Second

// route returns the name if it is here, and otherwise the node of the name. It waits while the
// name moves, until ctx is done. Before that it wakes the Writers in idle, which may be nil:
// perhaps the name waits for one of them.
func (b *Broker) route(ctx context.Context, name string, idle *wakeList) (n *member, node string, err error) {
	for {
		b.mu.Lock()
		n = b.names.Get(name)
		var wait <-chan struct{}
		if n == nil {
			node, wait = b.cluster.where(name)
		}
		b.mu.Unlock()
		if wait == nil {
			return n, node, nil
		}
		if idle != nil {
			idle.wake()
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, "", failed(contextCause(ctx), "%q moves between nodes", name)
		}
	}
}

// deliver delivers m to the name if it is here, and otherwise returns the node of the name. If
// idle is not nil, it collects the Writers to wake.
func (b *Broker) deliver(ctx context.Context, name string, m *payload, idle *wakeList) (accepted int, node string, err error) {
	for {
		n, node, err := b.route(ctx, name, idle)
		switch {
		case err != nil || node != "":
			return 0, node, err
		case n == nil:
			return 0, "", errUnknownName(name)
		}
		accepted, err = n.deliver(m, idle)
		if b.cluster == nil || !errors.Is(err, ErrUnknownName) {
			return accepted, "", err
		}
		// It has left, or another node has taken it over.
	}
}

func errUnknownName(name string) error { return fmt.Errorf("%w: %q", ErrUnknownName, name) }

// sendAll delivers messages to the name on any node. It adds the outcomes to r, or a request to
// pending if another node has the name.
func (b *Broker) sendAll(ctx context.Context, name string, messages [][]byte, idle *wakeList, r *Report, pending *requests) {
	for i, p := range messages {
		m := copyOf(p)
		accepted, node, err := b.deliver(ctx, name, &m, idle)
		if node != "" {
			pending.add(b.request(name, node, messages[i:]), r)
			return
		}
		r.Accepted += accepted
		if errors.Is(err, ErrUnknownName) { // perhaps after maxMove; the others must not wait as long again
			for range messages[i:] {
				r.Refused = append(r.Refused, Refusal{name, 1, false, err})
			}
			return
		}
		if err != nil {
			r.Refused = append(r.Refused, Refusal{name, 1, false, err})
		}
	}
}

// A request holds messages to a name on another node until the reply comes.
type request struct {
	name, node string
	messages   [][]byte
	reply      chan relay.Outcome
	retry      bool // may be sent again without changing the order of messages
	refusal    int  // index of its place in Report.Refused
}

// request sends messages to a name on another node.
func (b *Broker) request(name, node string, messages [][]byte) *request {
	q := &request{name: name, node: node, messages: messages, reply: make(chan relay.Outcome, 1)}
	d := relay.Delivery{To: toName(name).Target, Messages: messages}
	b.cluster.transport.Post(node, d, func(o relay.Outcome) { q.reply <- o })
	return q
}

// wait returns the reply, or ErrUnconfirmed if there is none when ctx is done.
func (q *request) wait(ctx context.Context) relay.Outcome {
	select {
	case o := <-q.reply:
		return o
	default:
	}
	select {
	case o := <-q.reply:
		return o
	case <-ctx.Done():
		return relay.Outcome{Err: fmt.Errorf("%w: node %s: %w", ErrUnconfirmed, q.node, contextCause(ctx))}
	}
}

// await waits for the reply. If the reply says that the name has moved, await sends the messages
// once more.
func (b *Broker) await(ctx context.Context, q *request) relay.Outcome {
	o := q.wait(ctx)
	if !q.retry || o.Accepted > 0 || !errors.Is(o.Err, ErrUnknownName) {
		return o
	}
	switch n, node, err := b.route(ctx, q.name, nil); {
	case err != nil:
		return relay.Outcome{Err: err}
	case node == q.node || n == nil && node == "":
		return o
	}
	var r Report
	var pending requests
	b.sendAll(ctx, q.name, q.messages, nil, &r, &pending)
	b.awaitAll(ctx, pending, &r)
	o = relay.Outcome{Accepted: r.Accepted}
	if len(r.Refused) > 0 {
		o.Err = r.Refused[0].Err
	}
	return o
}

// requests are several requests of one call.
type requests []*request

// add adds q, and keeps a place in the report for it.
func (qs *requests) add(q *request, r *Report) {
	q.refusal = len(r.Refused)
	r.Refused = append(r.Refused, Refusal{Name: q.name, Messages: len(q.messages)})
	*qs = append(*qs, q)
}

// awaitAll waits for all replies and completes the report.
func (b *Broker) awaitAll(ctx context.Context, qs requests, r *Report) {
	if len(qs) == 0 {
		return
	}
	for _, q := range qs {
		o := b.await(ctx, q)
		r.Accepted += o.Accepted
		r.Refused[q.refusal].Messages -= o.Accepted
		r.Refused[q.refusal].Err = o.Err
	}
	r.Refused = slices.DeleteFunc(r.Refused, func(f Refusal) bool { return f.Err == nil })
	if len(r.Refused) == 0 {
		r.Refused = nil
	}
}

// Deliver implements [relay.Node]. Deliveries in a row to the same room are one pass.
func (b node) Deliver(node string, ds []relay.Delivery) []relay.Outcome {
	outcomes := make([]relay.Outcome, len(ds))
	idle := newWakeList()
	defer idle.done()
	var row [][]byte
	for i := 0; i < len(ds); {
		to := ds[i].To
		switch {
		case ds[i].CatchUp != 0:
			b.catchUp(node, ds[i], idle)
			i++
			continue
		case to.Kind == relay.TargetName:
			outcomes[i] = b.deliverHere(to.Name, ds[i].Messages, idle)
			i++
			continue
		}
		row = row[:0]
		for ; i < len(ds) && ds[i].To == to; i++ {
			row = append(row, ds[i].Messages...)
		}
		b.publish(target{Target: to, here: true, origin: node, number: ds[i-1].Number}, row, idle, nil)
	}
	return outcomes
}

// deliverHere delivers messages from another node to a name on this one.
func (b *Broker) deliverHere(name string, messages [][]byte, idle *wakeList) (o relay.Outcome) {
	b.mu.Lock()
	n := b.names.Get(name)
	b.mu.Unlock()
	if n == nil {
		return relay.Outcome{Err: errUnknownName(name)}
	}
	for _, p := range messages {
		m := copyOf(p)
		accepted, err := n.deliver(&m, idle)
		o.Accepted += accepted
		if err != nil {
			o.Err = err
		}
	}
	return o
}
