package server

import (
	"bytes"
	"errors"
	"iter"
	"slices"
	"sync"

	"github.com/sendq-go/sendq"
)

// maxMissed bounds the bytes in all mailboxes.
const maxMissed = 64 << 20

// mailboxes keep the undelivered lines of broken connections until their users come back. When there
// are too many lines, the oldest boxes are given up. A nil *mailboxes keeps nothing.
type mailboxes struct {
	mu    sync.Mutex
	lines map[string][][]byte // by user
	order []string            // the users, the oldest box first
	size  int                 // in bytes
}

func newMailboxes() *mailboxes { return &mailboxes{lines: make(map[string][][]byte)} }

// keep is the Broker's OnUndelivered. If the user is back already, it sends the messages at once, though
// after newer ones.
func (s *Server) keep(user string, messages iter.Seq[[]byte], _ error) {
	m, broker := s.missed, s.core.Broker
	m.mu.Lock()
	defer m.mu.Unlock()
	_, isBack := broker.Lookup(user)
	for message := range messages {
		if !isBack || broker.Send(user, message) != nil {
			m.put(user, message)
		}
	}
	for m.size > maxMissed {
		m.take(m.order[0])
	}
	if s.opts.Broker.Relay != nil && !isBack {
		go s.forward(user) // not here, because a server may take long to answer
	}
}

// forward sends the messages kept for a user, if the user is back at another server. It sends several
// at once, because each Send waits for the answer.
func (s *Server) forward(user string) {
	m := s.missed
	if m == nil {
		return
	}
	m.mu.Lock()
	messages := m.take(user)
	m.mu.Unlock()
	for len(messages) > 0 {
		n := min(len(messages), 100)
		err := s.core.Broker.Send(user, slices.Concat(messages[:n]...))
		if err != nil && !errors.Is(err, sendq.ErrUnconfirmed) { // otherwise they may have arrived
			break
		}
		messages = messages[n:]
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, message := range messages {
		m.put(user, message)
	}
}

// put keeps a message. mu is held.
func (m *mailboxes) put(user string, message []byte) {
	if m.lines[user] == nil {
		m.order = append(m.order, user)
	}
	m.lines[user] = append(m.lines[user], bytes.Clone(message))
	m.size += len(message)
}

// deliver writes the messages kept for a user.
func (m *mailboxes) deliver(user string, w *sendq.Writer) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, message := range m.take(user) {
		_, _ = w.Write(message) // if it fails, the message is lost: the user has left again
	}
}

// take empties the box of a user. mu is held.
func (m *mailboxes) take(user string) [][]byte {
	lines := m.lines[user]
	if lines == nil {
		return nil
	}
	delete(m.lines, user)
	m.order = slices.DeleteFunc(m.order, func(other string) bool { return other == user })
	for _, line := range lines {
		m.size -= len(line)
	}
	return lines
}
