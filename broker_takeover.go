package sendq

import (
	"fmt"
)

// takeOver gives the name to w, and to w what the Writer that had it has not written. It
// fails with errChanged if none has it any more. b.mu is not held.
func (b *Broker) takeOver(n *named, w *Writer) error {
	n.taking.Lock()
	defer n.taking.Unlock()
	old, err := b.replace(n, w)
	if err != nil {
		return err
	}
	defer b.handbackSettled()
	defer w.resume()
	claimed := old.takeLeftovers() // before its end, which other names of old hear of too
	_ = old.abort(ErrTakenOver)
	if claimed && !w.inherit(&old.queue) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.handBackOf(n.name, old)
	}
	return nil
}

// replace makes w the one that has the name, and holds it: what is sent to the name from
// now on waits behind what old has not written.
func (b *Broker) replace(n *named, w *Writer) (old *Writer, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.closed:
		return nil, errShutDown(n.name)
	case n.first == nil:
		return nil, errChanged
	case n.first.writer == w:
		return nil, fmt.Errorf("%w: %q", ErrNameTaken, n.name)
	case !w.pause(): // before follow, because a Writer that is refused does not count
		return nil, fmt.Errorf("sendq: register %q: Writer is closing or has ended: %w", n.name, ErrClosed)
	}
	h, err := b.follow(n, w)
	if err != nil {
		w.resume()
		return nil, err
	}
	b.handbacks.expected++
	old = n.first.writer
	n.remove(n.first)
	n.add(h)
	n.changed() // once, or a message could go to both or to none
	return old, nil
}
