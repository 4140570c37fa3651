package sendq_test

import (
	"context"
	"errors"
	"slices"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
)

// A sender sends numbered messages and records the results. One goroutine at a time uses it, so its
// messages have an order.
type sender struct {
	*model
	id, number int
	results    []lineResults // by line
	accepted   int           // by all lines
}

// next returns the next message. Its length grows with the square of amount, at most 255. So there
// are many short messages, many that the kernel does not take at once, and a few too long to be
// copied together.
func (s *sender) next(amount int) []byte {
	s.number++
	length := amount * amount / 20
	if amount == 255 {
		length = 20_000
	}
	return frame(s.id, s.number, length)
}

// record records the outcome of the last message, for line i.
func (s *sender) record(i int, err error) {
	to := &s.results[i]
	switch {
	case err == nil:
		to.accepted.add(1, 1)
		to.numbers[s.number] = true
		s.accepted++
	case errors.Is(err, sendq.ErrDropped):
		to.dropped.add(1, 1)
	}
}

// send sends to line i, by its name or to the Writer at.
func (s *sender) send(i int, at *modelWriter, amount int) {
	if s.number%4 == 0 {
		s.sendNamed(i, amount)
	} else {
		s.sendDirect(i, at, amount)
	}
}

func (s *sender) sendNamed(i, amount int) {
	p := s.next(amount)
	s.record(i, s.broker.Send(s.lines[i].name, p))
	clear(p)
}

func (s *sender) sendDirect(i int, at *modelWriter, amount int) {
	p := s.next(amount)
	if s.opts.Overflow != sendq.Block || s.opts.MaxPending+s.opts.MaxMessages == 0 {
		s.record(i, send(at.w, s.number, p))
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.blockTimeout)
	defer cancel()
	_, err := at.w.WriteContext(ctx, p)
	clear(p)
	s.record(i, err)
}

// writeParts sends to the Writer at in 0 to 3 parts. Parts may be empty, and a message in 0 parts is.
func (s *sender) writeParts(i int, at *modelWriter, amount int) {
	if s.opts.Keep > 0 {
		amount |= 1 // in one part at least, because a peer cannot count messages without bytes
	}
	p := s.next(amount)
	rest := p
	var parts [][]byte
	for more := amount%4 - 1; more >= 0; more-- {
		end := len(rest)
		if more > 0 {
			end = end * (amount >> (2 * more) % 4) / 3
		}
		parts = append(parts, rest[:end])
		rest = rest[end:]
	}
	n, err := at.w.WriteParts(parts...)
	clear(p)
	s.record(i, err)
	if err == nil && n != len(p)-len(rest) {
		s.t.Errorf("wrote %d of %d", n, len(p)-len(rest))
	}
	if err == nil && len(parts) == 0 {
		s.lines[i].empty.Add(1)
	}
}

// sendAlways sends to the Writer at by WriteAlways.
func (s *sender) sendAlways(i int, at *modelWriter, amount int) {
	p := s.next(amount)
	err := second(at.w.WriteAlways(p))
	clear(p)
	s.recordKept(i, err)
}

// An urgentSend is an accepted message of WriteUrgent.
type urgentSend struct {
	id    messageID
	begun int // bytes passed to the connection before
}

// sendUrgent sends to the Writer at by WriteUrgent. In memory, the flusher must be stuck or idle.
func (s *sender) sendUrgent(i int, at *modelWriter, amount int) {
	p := s.next(amount)
	begun := 0
	if s.kind == inMemory {
		for _, n := range at.fault.Sizes() {
			begun += n
		}
	}
	err := second(at.w.WriteUrgent(p))
	if s.kind == inMemory && err == nil {
		at.urgents = append(at.urgents, urgentSend{idOf(p), begun})
	}
	clear(p)
	s.recordKept(i, err)
}

// closeWith sends to the Writer at by CloseWith.
func (s *sender) closeWith(i int, at *modelWriter, amount int) {
	p := s.next(amount)
	id := idOf(p)
	err := at.w.CloseWith(p)
	clear(p)
	s.recordKept(i, err)
	if err == nil {
		at.last = &id
	}
}

func (s *sender) recordKept(i int, err error) {
	s.record(i, err)
	if err == nil {
		s.results[i].kept = append(s.results[i].kept, s.number)
	}
}

// sendTo sends a message to the names of all lines.
func (s *sender) sendTo(amount int) {
	var names []string
	for _, l := range s.lines {
		names = append(names, l.name)
	}
	p := s.next(amount)
	report := s.broker.SendTo(names, p)
	clear(p)
	for i, name := range names {
		var err error
		for _, refusal := range report.Refused {
			if refusal.Name == name {
				err = refusal.Err
			}
		}
		s.record(i, err)
	}
}

// writeNotify sends to the Writer at of line i, and notes the outcome of the message.
func (s *sender) writeNotify(i int, at *modelWriter, amount int) {
	p := s.next(amount)
	id := idOf(p)
	s.noticing.Add(1)
	_, err := at.w.WriteNotify(p, func(err error) {
		defer s.noticing.Done()
		s.mu.Lock()
		defer s.mu.Unlock()
		if _, twice := at.notices[id]; twice {
			s.t.Error("told twice")
		}
		at.notices[id] = err
	})
	clear(p)
	s.record(i, err)
	if err != nil {
		s.noticing.Done()
	}
}

// writeLatest sends the newest message of key to the Writer at of line i.
func (s *sender) writeLatest(i int, at *modelWriter, key string, amount int) {
	p := s.next(amount)
	_, err := at.w.WriteLatest(key, p)
	clear(p)
	s.record(i, err)
}

// publishLatest publishes the newest message of the one key of s.
func (s *sender) publishLatest(amount int) {
	p := s.next(amount)
	accepted := s.broker.Room(modelRoom).PublishLatest("published", p)
	clear(p)
	s.accepted += accepted
	for i := range s.lines {
		to := &s.results[i]
		to.numbers[s.number] = true
		if accepted == len(s.lines) {
			to.accepted.add(1, 1)
		} else {
			to.accepted.add(0, min(accepted, 1))
			to.dropped.add(0, 1)
		}
	}
}

// writeAll sends a message to the current Writers of all lines.
func (s *sender) writeAll(amount int) {
	refused := make(map[*sendq.Writer]error)
	var writers []*sendq.Writer
	for _, l := range s.lines {
		writers = append(writers, l.current().w)
	}
	p := s.next(amount)
	accepted := sendq.WriteAll(slices.Values(writers), p, func(w *sendq.Writer, err error) { refused[w] = err })
	clear(p)
	require.Equal(s.t, len(writers)-len(refused), accepted)
	for i, w := range writers {
		s.record(i, refused[w])
	}
}

// joinReplay makes line i a member of the history room, and reports whether it succeeded.
func (s *sender) joinReplay(i, messages int) bool {
	n, err := s.broker.Room(modelHistory).JoinReplay(s.lines[i].name, messages)
	if err != nil {
		return false
	}
	s.accepted += n
	to := &s.results[i]
	to.accepted.add(n, n)
	for number := range s.number {
		to.numbers[number+1] = true
	}
	return true
}

// fanOut sends n messages by a method of Batch.
func (s *sender) fanOut(n, amount int, send func(*sendq.Batch, []byte)) {
	batch := s.broker.NewBatch()
	for range n {
		p := s.next(amount)
		send(batch, p)
		clear(p)
	}
	report := batch.Flush()
	s.accepted += report.Accepted
	refused := make(map[string]int)
	least := report.Accepted
	for _, refusal := range report.Refused {
		refused[refusal.Name] += refusal.Messages
		least += refusal.Messages
	}
	all := least == n*len(s.lines) // or a name was not there
	for i, l := range s.lines {
		to, no := &s.results[i], refused[l.name]
		least := 0
		if all || no > 0 {
			least = n - no
		}
		to.accepted.add(least, n-no)
		to.dropped.add(0, no)
		for j := range n {
			to.numbers[s.number-j] = true
		}
	}
}

// lineResults holds the results of a sender's messages to a line. The counts have bounds, because a
// Report does not say which messages were refused.
type lineResults struct {
	accepted, dropped bounds
	numbers           map[int]bool // numbers perhaps accepted
	kept              []int        // numbers accepted and never dropped
}

type bounds struct{ least, most int }

func (s *bounds) add(least, most int) {
	s.least += least
	s.most += most
}

func (m *model) newSender() *sender {
	s := &sender{model: m, id: len(m.senders), results: make([]lineResults, len(m.lines))}
	for i := range s.results {
		s.results[i].numbers = make(map[int]bool)
	}
	m.senders = append(m.senders, s)
	return s
}
