package sendq

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sendq-go/sendq/relay"
)

// maxMove is how long a message waits for a name that another node is taking over.
const maxMove = 5 * time.Second

// route returns who has the name here, or which other node has it. It waits while the name
// is on its way; before that, it wakes the Writers in idle, if that is not nil: perhaps the name
// waits for one of them.
func (b *Broker) route(name string, idle *wakeList) (n *named, node string) {
	for {
		b.mu.Lock()
		n = b.names.Get(name)
		var wait <-chan struct{}
		if n == nil {
			node, wait = b.cluster.where(name)
		}
		b.mu.Unlock()
		if wait == nil {
			return n, node
		}
		if idle != nil {
			idle.wake()
		}
		select {
		case <-wait:
		case <-time.After(maxMove):
			return nil, ""
		}
	}
}

// post delivers m to the name if it is here, or returns the other node that has it. If idle is
// not nil, a Writer that has been idle goes there.
func (b *Broker) post(name string, m *payload, idle *wakeList) (accepted int, node string, err error) {
	for {
		n, node := b.route(name, idle)
		switch {
		case node != "":
			return 0, node, nil
		case n == nil:
			return 0, "", fmt.Errorf("%w: %q", ErrUnknownName, name)
		}
		accepted, err = n.deliver(m, idle)
		if b.cluster == nil || !errors.Is(err, ErrUnknownName) {
			return accepted, "", err
		}
		// It has left, or another node has taken it over.
	}
}

// sendAll delivers messages to the name, wherever it is. It adds to r what became of them, or
// to away those of which that is not known yet.
func (b *Broker) sendAll(name string, messages [][]byte, idle *wakeList, r *Report, away *errands) {
	for i, p := range messages {
		m := copyOf(p)
		accepted, node, err := b.post(name, &m, idle)
		if node != "" {
			away.add(b.dispatch(name, node, messages[i:]), r)
			return
		}
		r.Accepted += accepted
		if err != nil {
			r.Refused = append(r.Refused, Refusal{name, 1, false, err})
		}
	}
}

// An errand is messages to a name on another node, whose answer is yet to come.
type errand struct {
	name, node string
	messages   [][]byte
	outcome    chan relay.Outcome
	retry      bool // may be sent again, without a change in the order of messages
	refusal    int  // where in Report.Refused it has its place
}

// dispatch sends messages to a name on another node.
func (b *Broker) dispatch(name, node string, messages [][]byte) *errand {
	e := &errand{name: name, node: node, messages: messages, outcome: make(chan relay.Outcome, 1)}
	d := relay.Delivery{To: relay.Target{Kind: relay.TargetName, Name: name}, Messages: messages}
	b.cluster.transport.Post(node, d, func(o relay.Outcome) { e.outcome <- o })
	return e
}

// await waits for the answer. If the name has moved, which is known when the answer comes, it
// tries once more.
func (b *Broker) await(e *errand) relay.Outcome {
	o := <-e.outcome
	if !e.retry || o.Accepted > 0 || !errors.Is(o.Err, ErrUnknownName) {
		return o
	}
	if n, node := b.route(e.name, nil); node == e.node || n == nil && node == "" {
		return o
	}
	var r Report
	var away errands
	b.sendAll(e.name, e.messages, nil, &r, &away)
	b.settle(away, &r)
	o = relay.Outcome{Accepted: r.Accepted}
	if len(r.Refused) > 0 {
		o.Err = r.Refused[0].Err
	}
	return o
}

// errands are those that were sent together.
type errands []*errand

// add adds e, and keeps a place in the report for it.
func (es *errands) add(e *errand, r *Report) {
	e.refusal = len(r.Refused)
	r.Refused = append(r.Refused, Refusal{Name: e.name, Messages: len(e.messages)})
	*es = append(*es, e)
}

// settle waits for all answers and completes the report.
func (b *Broker) settle(es errands, r *Report) {
	if len(es) == 0 {
		return
	}
	for _, e := range es {
		o := b.await(e)
		r.Accepted += o.Accepted
		r.Refused[e.refusal].Messages -= o.Accepted
		r.Refused[e.refusal].Err = o.Err
	}
	r.Refused = slices.DeleteFunc(r.Refused, func(f Refusal) bool { return f.Err == nil })
	if len(r.Refused) == 0 {
		r.Refused = nil
	}
}

// Deliver implements [relay.Node]. Deliveries in a row to the same room are one pass.
func (b node) Deliver(ds []relay.Delivery) []relay.Outcome {
	outcomes := make([]relay.Outcome, len(ds))
	idle := newWakeList()
	defer idle.done()
	var row [][]byte
	for i := 0; i < len(ds); {
		to := ds[i].To
		if to.Kind == relay.TargetName {
			outcomes[i] = b.handOverTo(to.Name, ds[i].Messages, idle)
			i++
			continue
		}
		row = row[:0]
		for ; i < len(ds) && ds[i].To == to; i++ {
			row = append(row, ds[i].Messages...)
		}
		b.publish(target{to, true}, row, idle, nil)
	}
	return outcomes
}

func (b *Broker) handOverTo(name string, messages [][]byte, idle *wakeList) (o relay.Outcome) {
	b.mu.Lock()
	n := b.names.Get(name)
	b.mu.Unlock()
	if n == nil {
		return relay.Outcome{Err: fmt.Errorf("%w: %q", ErrUnknownName, name)}
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
