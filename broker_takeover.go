package sendq

import (
	"fmt"

	"github.com/sendq-go/sendq/internal/queue"
	"github.com/sendq-go/sendq/relay"
)

// replace gives the name to s instead of old and pauses s: new messages wait until takeOver has
// inserted the backlog of old. If the name is free, old is nil. In that case s has the name,
// unless there is a cluster; then the name must be claimed.
func (b *Broker) replace(name string, s *successor) (n *member, old *Writer, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n = b.names.Get(name)
	switch {
	case b.closed:
		return nil, nil, errShutDown(name)
	case n == nil && b.cluster == nil:
		return nil, nil, b.addSuccessor(name, s)
	case n == nil:
		return nil, nil, nil
	case !s.takesOver || n.first.writer == s.Writer:
		return nil, nil, fmt.Errorf("%w: %q", ErrNameTaken, name)
	}
	if err := s.mayResume(n.first.writer); err != nil {
		return nil, nil, failed(err, "resume %q", name)
	}
	if !s.pause() { // before follow, because a Writer that is refused does not count
		return nil, nil, errWriterClosed(name)
	}
	h, err := b.follow(n, s.Writer)
	if err != nil {
		s.resume()
		return nil, nil, err
	}
	b.handbacks.expected++
	if old = n.first.writer; old.isHeir() {
		b.announce(relay.Event{Kind: relay.EventBack, Name: name})
	}
	n.remove(n.first)
	n.add(h)
	n.changed() // once, or a message could go to both or to none
	b.pressedBy(n, s.Writer)
	b.pressedBy(n, old)
	return n, old, nil
}

// addSuccessor gives a free name to s. If s resumes, it is paused then. mu is held.
func (b *Broker) addSuccessor(name string, s *successor) error {
	if s.resumes && !s.pause() {
		return errWriterClosed(name)
	}
	err := b.add(nil, name, s.Writer)
	if s.resumes && err != nil {
		s.resume()
	}
	return err
}

// takeOver ends old and gives s its backlog. b.mu is not held.
func (b *Broker) takeOver(n *member, old *Writer, s *successor) {
	defer b.handbackSettled()
	defer s.resume()
	isTaken := old.takeLeftovers() // before its end, which other names of old hear of too
	_ = old.abort(ErrTakenOver)
	estate := new(queue.Queue)
	if isTaken {
		estate = s.estateOf(old.settle(ErrTakenOver))
	} else { // another Broker passes the messages on
		s.resumed.Missed = -1
	}
	defer func() { // also if the program's function panics
		if !s.inherit(estate) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.handBackEstate(n.name, estate)
		}
	}()
	s.prepare()
}
