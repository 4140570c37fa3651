package sendq

import (
	"time"

	"github.com/sendq-go/sendq/relay"
)

// linger lets the heir of a failed Writer have the name. It reports whether the name is dealt with,
// because it lingers or because the heir had no room. mu is held.
func (b *Broker) linger(n *member, w *Writer) bool {
	heir := w.currentHeir()
	h := n.holder(w)
	if heir == nil || h == nil || b.opts.Linger == 0 {
		return false
	}
	if !heir.hasAdopted() && !w.takeLeftovers() { // a takeover or another Broker has the messages
		return false
	}
	heir.adoptWithin()
	next, err := b.follow(n, heir)
	if err != nil { // it had no room for what it has adopted
		if b.remove(n, w, heir.Err()) && b.takeLeftovers(heir) {
			b.handBackOf(n.name, heir)
		}
		return true
	}
	n.remove(h)
	n.add(next)
	n.changed()
	b.pressedBy(n, heir)
	b.pressedBy(n, w)
	b.announce(relay.Event{Kind: relay.EventAway, Name: n.name, Cause: w.Err()})
	if b.closed {
		b.handbacks.expected++
		go func() {
			defer b.handbackSettled()
			_ = heir.abort(failed(w.Err(), "the peer is away"))
		}()
		return true
	}
	cause := failed(w.Err(), "not back within Linger of %v", b.opts.Linger)
	timer := time.AfterFunc(b.opts.Linger, func() { _ = heir.abort(cause) })
	if !heir.addEndHooks(&endHook{ended: func() { timer.Stop() }}) {
		timer.Stop()
	}
	return true
}

// isAway reports whether the name waits for its peer to come back. mu is held.
func (n *member) isAway() bool { return n.first != nil && n.first.writer.isHeir() }
