package sendq

import "fmt"

// replace gives the name to w instead of old and pauses w: new messages wait until takeOver has
// inserted the backlog of old. If the name is free, old is nil. In that case w has the name,
// unless there is a cluster; then the name must be claimed.
func (b *Broker) replace(name string, w *Writer) (n *member, old *Writer, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n = b.names.Get(name)
	switch {
	case b.closed:
		return nil, nil, errShutDown(name)
	case n == nil && b.cluster == nil:
		return nil, nil, b.add(nil, name, w)
	case n == nil:
		return nil, nil, nil
	case b.opts.NamePolicy != NameTakeover || n.first.writer == w:
		return nil, nil, fmt.Errorf("%w: %q", ErrNameTaken, name)
	case !w.pause(): // before follow, because a Writer that is refused does not count
		return nil, nil, errWriterClosed(name)
	}
	h, err := b.follow(n, w)
	if err != nil {
		w.resume()
		return nil, nil, err
	}
	b.handbacks.expected++
	old = n.first.writer
	n.remove(n.first)
	n.add(h)
	n.changed() // once, or a message could go to both or to none
	b.pressedBy(n, w)
	b.pressedBy(n, old)
	return n, old, nil
}

// takeOver ends old and gives w its backlog. b.mu is not held.
func (b *Broker) takeOver(n *member, old, w *Writer) {
	defer b.handbackSettled()
	defer w.resume()
	isTaken := old.takeLeftovers() // before its end, which other names of old hear of too
	_ = old.abort(ErrTakenOver)
	if isTaken && !w.inherit(old.queue.Portable()) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.handBackOf(n.name, old)
	}
}
