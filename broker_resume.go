package sendq

import (
	"context"
	"errors"
	"fmt"

	"github.com/sendq-go/sendq/internal/queue"
	"github.com/sendq-go/sendq/relay"
)

// Resumed says what became of the messages that a peer had not received when its connection broke.
type Resumed struct {
	Messages int   // the new Writer writes them first
	Missed   int64 // messages that are gone, or -1 if it is unknown how many
}

// Resume gives name to w, because the peer of the Writer that has the name is back on another
// connection. The old Writer ends with ErrTakenOver. w first writes everything after the first
// received messages, written or not, in order and once. So a peer that counts what it receives gets
// each message once, although the kernel may have discarded some. It may count from the first
// message after Register, and never start again: Resume and Acknowledge count on from received.
//
// The program must know that the peer is the one that had the name, for example by a key. Resume
// does the same with NameReject and NameTakeover. With NameAttach it fails, because one count cannot
// stand for several devices.
//
// How much comes again depends on WriterOptions.Keep of the old Writer, and on BrokerOptions.Linger
// once it has ended. Resumed says how many messages w writes, and how many are gone. If no Writer has
// the name, it is free, and w gets it as by Register. Then it is unknown what is gone, as it is if
// another node had the name and has died.
//
// If answer is not nil, Resume calls it with its result, and w writes what it returns before all
// that, for example to tell the peer how much follows. That is no message for the count of the peer.
// answer must not wait for w.
//
// w must have Keep, and nothing may have been sent through it. If the peer cannot have received that
// many messages, the error wraps ErrWrongCount, and the old Writer lives on. Otherwise errors and
// waiting are those of RegisterContext. Resume panics if ctx is nil.
func (b *Broker) Resume(ctx context.Context, name string, w *Writer, received int64, answer func(Resumed) []byte) (Resumed, error) {
	requireContext(ctx)
	s := &successor{Writer: w, takesOver: true, resumes: true, received: received, answer: answer}
	if b.opts.NamePolicy == NameAttach {
		return Resumed{}, errors.New("sendq: Resume and NameAttach exclude each other")
	}
	if err := w.startAt(received); err != nil {
		return Resumed{}, failed(err, "resume %q", name)
	}
	t, err := b.takeTurn(ctx, name)
	if err != nil {
		return Resumed{}, failed(err, "resume %q", name)
	}
	defer b.endTurn(t)
	if err := b.register(ctx, t, s); err != nil {
		return Resumed{}, err
	}
	return s.resumed, nil
}

// startAt makes w count on from what its peer has received before.
func (w *Writer) startAt(received int64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.limits == nil || w.limits.keeper == nil:
		return errors.New("the Writer has no Keep")
	case received < 0:
		return fmt.Errorf("%w: %d", ErrWrongCount, received)
	case w.accepted > 0 || w.limits.keeper.before > 0:
		return errors.New("something was sent through the Writer before")
	}
	w.limits.keeper.before, w.limits.keeper.acknowledged = received, received
	return nil
}

// A successor is a Writer that gets a name, and perhaps the messages of the Writer that had it.
type successor struct {
	*Writer
	takesOver bool // the name, if another Writer has it
	resumes   bool // the connection of that Writer
	received  int64
	answer    func(Resumed) []byte
	resumed   Resumed
	reply     []byte // by answer
}

// mayResume returns an error if the peer cannot have received so much from old. mu is not held, here
// and below.
func (s *successor) mayResume(old *Writer) error {
	if !s.resumes {
		return nil
	}
	old.mu.Lock()
	defer old.mu.Unlock()
	return old.checkReceived(s.received)
}

// estateOf returns the messages of old, which has ended, for s.
func (s *successor) estateOf(old *Writer) *queue.Queue {
	if !s.resumes {
		estate, _, _ := old.estate(old.currentPosition())
		return estate
	}
	estate, _, gone := old.estate(s.received)
	s.resumed = Resumed{Messages: estate.Len(), Missed: gone}
	return estate
}

// estateFrom returns the messages for s of a Writer on another node.
func (s *successor) estateFrom(h relay.Handover) *queue.Queue {
	kept := int64(min(h.Kept, len(h.Undelivered)))
	if !s.resumes || !h.HasCount || s.received > h.Written {
		s.resumed.Missed = -1
		return queue.Of(h.Undelivered[kept:])
	}
	first := h.Written - kept
	estate := queue.Of(h.Undelivered[max(0, s.received-first):])
	s.resumed = Resumed{Messages: estate.Len(), Missed: max(0, first-s.received)}
	return estate
}

// inherit makes the estate the first messages of s, behind the answer to its peer. If s has ended, it
// returns false.
func (s *successor) inherit(estate *queue.Queue) bool {
	return s.Writer.inherit(estate, s.reply)
}

// prepare lets the program make the answer to the peer. No lock is held.
func (s *successor) prepare() {
	if s.answer != nil {
		s.reply = s.answer(s.resumed)
	}
}

// greet lets the Writer of a name that was free write the answer to its peer.
func (s *successor) greet() {
	defer s.resume()
	s.resumed.Missed = -1
	s.prepare()
	s.inherit(new(queue.Queue))
}

// currentPosition returns the Writer's position. It may be a later one by now.
func (w *Writer) currentPosition() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.position()
}
