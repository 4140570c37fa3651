package sendq

import "github.com/sendq-go/sendq/relay"

// A Batch collects messages that are at hand together, such as those that one read has
// brought, and queues them all on Flush: in the order of the calls, those in a row to the
// same room in one pass, and each recipient is woken once, at the end. That takes a
// fraction of the time of so many single calls, and the recipients get the messages in
// fewer pieces.
//
// Nothing is accepted before Flush. A message may be reused when the call that added it
// returns. A Batch may be used again after Flush, and keeps no memory in between. It must
// not be used by several goroutines at once.
type Batch struct {
	broker *Broker
	buf    []byte // the messages, one behind the other
	posts  []post
}

// A post is a message of a Batch.
type post struct {
	to  target
	end int // of the message in buf
}

// NewBatch returns an empty Batch.
func (b *Broker) NewBatch() *Batch { return &Batch{broker: b} }

// Send adds what Broker.Send would send.
func (t *Batch) Send(name string, p []byte) { t.add(toName(name), p) }

// Broadcast adds what Broker.Broadcast would send.
func (t *Batch) Broadcast(p []byte) { t.add(toAll, p) }

// BroadcastFrom adds what Broker.BroadcastFrom would send.
func (t *Batch) BroadcastFrom(sender string, p []byte) { t.add(toAll.from(sender), p) }

// Publish adds what Room.Publish would send in the room of that name.
func (t *Batch) Publish(room string, p []byte) { t.add(toRoom(room), p) }

// PublishFrom adds what Room.PublishFrom would send in the room of that name.
func (t *Batch) PublishFrom(room, sender string, p []byte) {
	t.add(toRoom(room).from(sender), p)
}

func (t *Batch) add(to target, p []byte) {
	t.buf = append(t.buf, p...)
	t.posts = append(t.posts, post{to, len(t.buf)})
}

// Len returns how many messages the Batch has.
func (t *Batch) Len() int { return len(t.posts) }

// Flush queues the messages and tells what became of them, in the order in which they were
// added. The Batch is empty then.
//
// Those to names on other nodes are sent there; when all messages are on their way, Flush
// waits for the answers. Of fan-outs the Report tells about members on this node.
func (t *Batch) Flush() (r Report) {
	away, ends := t.queueAll(&r)
	t.allowRetries(away, ends)
	t.broker.settle(away, &r)
	t.buf, t.posts = nil, nil
	return r
}

// queueAll queues the messages. It returns the errands whose answers are yet to come, and for
// each the number of posts up to its end.
func (t *Batch) queueAll(r *Report) (away errands, ends []int) {
	messages := make([][]byte, len(t.posts))
	start := 0
	for i, p := range t.posts {
		messages[i] = t.buf[start:p.end]
		start = p.end
	}
	idle := newWakeList()
	defer idle.done() // also if a Relay panics
	for i := 0; i < len(messages); {
		first, to := i, t.posts[i].to
		for i < len(messages) && t.posts[i].to == to {
			i++
		}
		if to.Kind != relay.TargetName {
			r.Accepted += t.broker.publish(to, messages[first:i], idle, &r.Refused)
			continue
		}
		t.broker.sendAll(to.Name, messages[first:i], idle, r, &away)
		if len(away) > len(ends) {
			ends = append(ends, i)
		}
	}
	return away, ends
}

// allowRetries says which errands, each with the number of posts up to its end, may be sent again
// if the name has moved: those behind which nothing in the Batch may have reached the name.
func (t *Batch) allowRetries(away errands, ends []int) {
	if len(away) == 0 {
		return
	}
	fannedOut, sentTo := 0, make(map[string]int) // the number of posts up to the last one
	for i, p := range t.posts {
		if p.to.Kind == relay.TargetName {
			sentTo[p.to.Name] = i + 1
		} else {
			fannedOut = i + 1
		}
	}
	for i, e := range away {
		e.retry = ends[i] > fannedOut && ends[i] == sentTo[e.name]
	}
}
