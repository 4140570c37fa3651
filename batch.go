package sendq

import (
	"context"

	"github.com/sendq-go/sendq/relay"
)

// A Batch collects messages, such as all messages of one read, and queues them on Flush, in the
// order of the calls. Messages in a row to the same room are one pass over its members, and
// each recipient is woken once, at the end. That takes a fraction of the time of single calls,
// and the recipients get the messages in fewer pieces.
//
// Nothing is accepted before Flush. The methods copy the messages. A Batch may be used again
// after Flush, and keeps no memory in between. It must not be used by several goroutines at
// once.
type Batch struct {
	broker  *Broker
	buf     []byte // the messages, one after the other
	entries []entry
}

// An entry is a message of a Batch.
type entry struct {
	to  target
	end int // of the message in buf
}

// NewBatch returns an empty Batch.
func (b *Broker) NewBatch() *Batch { return &Batch{broker: b} }

// Send adds p as Broker.Send sends it.
func (t *Batch) Send(name string, p []byte) { t.add(toName(name), p) }

// Broadcast adds p as Broker.Broadcast sends it.
func (t *Batch) Broadcast(p []byte) { t.add(toAll, p) }

// BroadcastFrom adds p as Broker.BroadcastFrom sends it.
func (t *Batch) BroadcastFrom(sender string, p []byte) { t.add(toAll.from(sender), p) }

// Publish adds p for the members of room, as Room.Publish sends it.
func (t *Batch) Publish(room string, p []byte) { t.add(toRoom(room), p) }

// PublishFrom adds p for the members of room except sender, as Room.PublishFrom sends it.
func (t *Batch) PublishFrom(room, sender string, p []byte) {
	t.add(toRoom(room).from(sender), p)
}

func (t *Batch) add(to target, p []byte) {
	t.buf = append(t.buf, p...)
	t.entries = append(t.entries, entry{to, len(t.buf)})
}

// Len returns the number of messages in the Batch.
func (t *Batch) Len() int { return len(t.entries) }

// Flush queues the messages in the order of the calls and reports the outcome. The Batch is
// empty afterwards.
//
// When all messages are on their way, Flush waits for the replies of other nodes. For fan-outs
// the Report covers the members on this node.
func (t *Batch) Flush() Report { return t.FlushContext(context.Background()) }

// FlushContext is Flush, but stops waiting for other nodes when ctx is done. All messages are
// sent even so, except to a name that is moving between nodes. Report.Refused has the names
// without a reply, with errors like those of Broker.SendContext. FlushContext panics if ctx is
// nil.
func (t *Batch) FlushContext(ctx context.Context) (r Report) {
	requireContext(ctx)
	pending, upTo := t.queueAll(ctx, &r)
	t.allowRetries(pending, upTo)
	t.broker.awaitAll(ctx, pending, &r)
	t.buf, t.entries = nil, nil
	return r
}

// queueAll queues the messages. It returns the requests to other nodes, and for each the number of
// entries up to its last one.
func (t *Batch) queueAll(ctx context.Context, r *Report) (pending requests, upTo []int) {
	messages := make([][]byte, len(t.entries))
	start := 0
	for i, p := range t.entries {
		messages[i] = t.buf[start:p.end]
		start = p.end
	}
	idle := newWakeList()
	defer idle.done() // also if a Relay panics
	for i := 0; i < len(messages); {
		first, to := i, t.entries[i].to
		for i < len(messages) && t.entries[i].to == to {
			i++
		}
		if to.Kind != relay.TargetName {
			r.Accepted += t.broker.publish(to, messages[first:i], idle, &r.Refused)
			continue
		}
		t.broker.sendAll(ctx, to.Name, messages[first:i], idle, r, &pending)
		if len(pending) > len(upTo) {
			upTo = append(upTo, i)
		}
	}
	return pending, upTo
}

// allowRetries sets retry for a request if no later message of the Batch may have reached the
// name. upTo has the number of entries up to the last one of each request.
func (t *Batch) allowRetries(pending requests, upTo []int) {
	if len(pending) == 0 {
		return
	}
	fannedOut, sentTo := 0, make(map[string]int) // the number of entries up to the last one
	for i, p := range t.entries {
		if p.to.Kind == relay.TargetName {
			sentTo[p.to.Name] = i + 1
		} else {
			fannedOut = i + 1
		}
	}
	for i, q := range pending {
		q.retry = upTo[i] > fannedOut && upTo[i] == sentTo[q.name]
	}
}
