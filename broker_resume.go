package sendq

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/sendq-go/sendq/internal/queue"
	"github.com/sendq-go/sendq/relay"
)

// Resumed is the result of Resume.
type Resumed struct {
	Messages int   // the new Writer writes them first
	Missed   int64 // messages that are gone; -1 if their number is unknown
}

// Resume gives name to w, because its peer is back on another connection. The old Writer of the name
// ends with ErrTakenOver. w first writes everything after the first received messages, written or
// not, in order and once. So a peer that counts gets each message once, although the kernel may
// have discarded some. The peer counts the messages of all its connections together, and never
// starts again: Resume and Acknowledge count on from received.
//
// The program must know that it is the same peer, for example by a key. Resume does the same with
// NameReject and NameTakeover. With NameAttach it fails, because one count cannot stand for several
// devices.
//
// WriterOptions.Keep of the old Writer decides how much comes again. BrokerOptions.Linger keeps the
// name after the old Writer has failed. If no Writer has the name, it is free, and w gets it as by
// Register. Then Missed is -1, as it is after the death of another node with the name.
//
// If the peer comes back and has received no message since, Missed includes what was gone before,
// because the peer may not have got the answer.
//
// If answer is not nil, Resume calls it with the result, and w writes what it returns before
// everything else. So the peer can be told how much follows. The peer must not count the answer.
// answer must not wait for w.
//
// w must have Keep, and nothing may have been sent through it. If the peer cannot have received that
// many messages, the error wraps ErrWrongCount, and the old Writer lives on. If another node has the
// name, Missed is -1 instead, because that node has already given the name up. All other errors are
// those of RegisterContext. If Resume fails, w lives on without the name.
// Resume panics if ctx is nil.
func (b *Broker) Resume(ctx context.Context, name string, w *Writer, received int64, answer func(Resumed) []byte) (Resumed, error) {
	requireContext(ctx)
	s := &successor{Writer: w, takesOver: true, resumes: true, received: received, answer: answer}
	if b.opts.NamePolicy == NameAttach {
		return Resumed{}, errors.New("sendq: Resume and NameAttach exclude each other")
	}
	if err := w.startAt(received); err != nil {
		return Resumed{}, failed(err, "resume %q", name)
	}
	if err := b.resume(ctx, name, s); err != nil {
		w.startAgain()
		return Resumed{}, err
	}
	return s.resumed, nil
}

func (b *Broker) resume(ctx context.Context, name string, s *successor) error {
	t, err := b.takeTurn(ctx, name)
	if err != nil {
		return failed(err, "resume %q", name)
	}
	defer b.endTurn(t)
	return b.register(ctx, t, s)
}

// startAt makes w count on from what its peer has received before. mu is not held, here and below.
func (w *Writer) startAt(received int64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	k := w.keeper()
	switch {
	case k == nil:
		return errors.New("the Writer has no Keep")
	case received < 0:
		return fmt.Errorf("%w: %d", ErrWrongCount, received)
	case w.accepted > 0 || k.before > 0:
		return errors.New("something was sent through the Writer before")
	}
	k.before, k.acknowledged = received, received
	return nil
}

// startAgain undoes startAt.
func (w *Writer) startAgain() {
	w.mu.Lock()
	defer w.mu.Unlock()
	k := w.keeper()
	k.before, k.acknowledged, k.most = 0, 0, 0
}

// A resumption is what a Writer has told its peer by Resume. The peer knows that once it has received
// more messages. If it comes back with no more, Resume tells it again.
type resumption struct{ at, gone int64 }

// missed returns how many messages a peer has missed if this many more are gone.
func (r resumption) missed(gone, received int64) int64 {
	switch {
	case received > r.at:
		return gone
	case gone < 0 || r.gone < 0:
		return -1
	}
	return gone + r.gone
}

// resumption returns what the peer was told. mu is held.
func (w *Writer) resumption() (r resumption) {
	if k := w.keeper(); k != nil {
		r = k.resumed
	}
	return r
}

// setResumption notes what the peer is told, and how many messages it can have received before. w may
// have failed, and its heir may have adopted. mu is not held.
func (w *Writer) setResumption(r resumption, most int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	k := w.keeper()
	if k.most = max(k.most, most); k.resumed != unknownLoss { // noted since r was computed
		k.resumed = r
	}
	if k.heir != nil {
		k.heir.setResumption(r, most)
	}
}

// A successor is a Writer that gets a name, perhaps with the messages of its predecessor.
type successor struct {
	*Writer
	takesOver bool // the name, if another Writer has it
	resumes   bool // the connection of that Writer
	received  int64
	answer    func(Resumed) []byte
	resumed   Resumed
	reply     []byte // by answer

	// most is how many messages the Writer before may have brought the peer, and s has not written
	// yet. The Resume of s may be late, after that of a later connection. It is 0 if messages are
	// gone, because then the numbers of s differ.
	most int64
}

// mayResume returns an error if the peer cannot have received so much from old.
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
	if gone == 0 {
		s.most = old.currentMost()
	}
	s.resumed = Resumed{Messages: estate.Len(), Missed: gone}
	return estate
}

// estateFrom returns the messages for s of a Writer on another node.
func (s *successor) estateFrom(h relay.Handover) *queue.Queue {
	kept := int64(max(0, min(h.Kept, len(h.Undelivered))))
	if !s.resumes || !h.HasCount || s.received > h.Most {
		s.resumed = Resumed{Messages: len(h.Undelivered) - int(kept), Missed: -1}
		return queue.Of(h.Undelivered[kept:])
	}
	received, first := s.received, h.Written-kept
	if h.Apart {
		received = min(received, h.Written)
	}
	estate := queue.Of(h.Undelivered[min(max(0, received-first), int64(len(h.Undelivered))):])
	if first <= received {
		s.most = h.Most
	}
	before := resumption{h.ResumedAt, h.Missed}
	s.resumed = Resumed{Messages: estate.Len(), Missed: before.missed(max(0, first-received), received)}
	return estate
}

// inherit makes the estate the first messages of s, behind the answer to its peer. If s has ended, it
// returns false.
func (s *successor) inherit(estate *queue.Queue) bool {
	ok := s.Writer.inherit(estate, s.reply)
	if !ok && s.resumes { // another Resume may come before s has ended
		s.setResumption(resumption{s.received, -1}, 0)
	}
	return ok
}

// prepare lets the program make the answer to the peer. No lock is held.
func (s *successor) prepare() {
	if s.resumes {
		s.setResumption(resumption{s.received, s.resumed.Missed}, s.most)
	}
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

// currentMost is mostReceived while mu is not held.
func (w *Writer) currentMost() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.mostReceived()
}

// currentPosition returns the Writer's position. It may be a later one by now.
func (w *Writer) currentPosition() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.position()
}

// handover returns what w leaves to a Writer on another node. w has ended. mu is not held.
func (w *Writer) handover() (h relay.Handover) {
	w.mu.Lock()
	h.HasCount, h.Written, h.Most = true, w.position(), w.mostReceived()
	acknowledged := int64(0)
	if k := w.keeper(); k != nil {
		acknowledged, h.ResumedAt, h.Missed = k.acknowledged, k.resumed.at, k.resumed.gone
		h.Written = max(h.Written, acknowledged) // more is acknowledged before the answer of Resume is written
		h.Apart = w.isApart(h.Written)
	}
	w.mu.Unlock()
	estate, kept, _ := w.estate(acknowledged)
	h.Undelivered, h.Kept = slices.Collect(estate.All()), kept
	return h
}
