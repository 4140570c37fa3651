package server

import (
	"bytes"
	"iter"
	"slices"
	"sync"

	"github.com/sendq-go/sendq"
)

// maxMissed bounds what is kept, in bytes, for all users who are away.
const maxMissed = 64 << 20

// mailboxes keep the lines that users did not get because their connections broke, until
// they come back. It is the oldest boxes that are given up when there is too much. A nil
// *mailboxes has none.
type mailboxes struct {
	mu    sync.Mutex
	lines map[string][][]byte
	order []string // whose box is the oldest
	size  int      // in bytes
}

func newMailboxes() *mailboxes { return &mailboxes{lines: make(map[string][][]byte)} }

// put keeps the messages for the user. One who is back already gets them at once, though behind
// what came since.
func (m *mailboxes) put(b *sendq.Broker, name string, messages iter.Seq[[]byte]) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, isBack := b.Lookup(name)
	for message := range messages {
		if isBack && b.Send(name, message) == nil {
			continue
		}
		if m.lines[name] == nil {
			m.order = append(m.order, name)
		}
		m.lines[name] = append(m.lines[name], bytes.Clone(message))
		m.size += len(message)
	}
	for m.size > maxMissed {
		m.take(m.order[0])
	}
}

// deliver writes what was kept for a user who is back.
func (m *mailboxes) deliver(name string, w *sendq.Writer) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, message := range m.take(name) {
		_, _ = w.Write(message) // fails if they have gone again: then it is lost
	}
}

// take empties the box of a user. mu is held.
func (m *mailboxes) take(name string) [][]byte {
	lines := m.lines[name]
	if lines == nil {
		return nil
	}
	delete(m.lines, name)
	m.order = slices.DeleteFunc(m.order, func(other string) bool { return other == name })
	for _, line := range lines {
		m.size -= len(line)
	}
	return lines
}
