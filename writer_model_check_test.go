package sendq_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
)

// checkStats checks the figures of the current Writer.
func (m *model) checkStats(l *line) {
	s := l.current().w.Stats()
	assertConserved(m.t, s)
	m.checkKeptStats(l.current(), s)
	if len(l.writers) > 1 || l.joined || l.current().last != nil { // it was given more
		return
	}
	const always, urgent = 4 << 10, 4 << 10 // what WriteAlways and WriteUrgent may add
	if limit := int64(m.opts.MaxPending); limit > 0 {
		require.LessOrEqual(m.t, s.PendingBytes+64*s.Pending, limit+always+urgent)
	}
	if limit := int64(m.opts.MaxMessages); limit > 0 {
		require.LessOrEqual(m.t, s.Pending, limit+(always+urgent)/64)
	}
}

// check accounts for all messages after the end.
func (m *model) check() {
	t := m.t
	total, accepted := 0, 0
	for _, s := range m.senders {
		accepted += s.accepted
	}
	for i, l := range m.lines {
		final, dropped, lossy := m.checkLine(l)
		total += final.count

		var toldAccepted, toldDropped bounds
		for _, s := range m.senders {
			to := s.results[i]
			toldAccepted.add(to.accepted.least, to.accepted.most)
			toldDropped.add(to.dropped.least, to.dropped.most)
			numbers := final.numbers[s.id]
			require.True(t, slices.IsSorted(numbers), "out of order or doubled: %v", numbers)
			require.Len(t, slices.Compact(slices.Clone(numbers)), len(numbers), "doubled")
			for _, n := range numbers {
				require.True(t, to.numbers[n], "%d was not accepted", n)
			}
			if !lossy {
				require.Subset(t, slices.Concat(numbers, final.bound[s.id]), to.kept, "dropped")
			}
		}
		if !m.dropsAccepted() {
			within := toldAccepted.least <= final.count && final.count <= toldAccepted.most
			require.True(t, within, "%d of %v", final.count, toldAccepted)
			require.LessOrEqual(t, toldDropped.least, dropped)
		} else {
			all := final.count + dropped
			require.LessOrEqual(t, toldAccepted.least+toldDropped.least, all)
			require.LessOrEqual(t, all, toldAccepted.most+toldDropped.most)
		}
	}
	if !m.dropsAccepted() {
		require.Equal(t, accepted, total)
	} else {
		require.LessOrEqual(t, total, accepted)
	}
	require.Empty(t, m.returned, "handed back, but not undelivered")
	stats := m.broker.Stats()
	require.Zero(t, stats.Names+stats.Rooms)
	assertConserved(t, stats.WriterStats)
}

// dropsAccepted reports whether Write may accept a message that is dropped later.
func (m *model) dropsAccepted() bool {
	return m.opts.Overflow == sendq.DropOldest || m.opts.Expire || m.opts.HighMark > 0
}

// A final holds the messages to a line that are on the wire, or undelivered and not inherited.
type final struct {
	numbers map[int][]int // by sender, in order
	bound   map[int][]int // those discarded by a takeover, by sender
	count   int           // by Stats; more than in numbers if a peer has reset its connection
}

// An outcome is what became of the messages of a Writer.
type outcome struct {
	arrived, undelivered []messageID // all, perhaps with an answer of Resume
	delivered            []messageID // arrived, and not once more for a peer that was back
	final                []messageID // undelivered, and no other Writer has them
	bound                []messageID // discarded by a takeover
	written              int         // messages delivered or gone
	left                 int         // messages passed on to another Writer
	lossy                bool        // messages are gone
	isUnclear            bool        // the connection has failed, and left may be too many
}

// checkLine accounts for the messages of each Writer of a line.
func (m *model) checkLine(l *line) (f final, dropped int, lossy bool) {
	t := m.t
	outcomes := make([]outcome, len(l.writers))
	for i, mw := range slices.Backward(l.writers) {
		o := &outcomes[i]
		all := mw.arrived(t)
		wire := m.withoutFarewell(mw, all)
		mw.saidFarewell = len(wire) < len(all)
		o.arrived, o.undelivered = outcomesOf(t, wire, mw.w.Undelivered(), mw.lossy)
		if mw.indexOfAnswer(slices.Concat(o.arrived, o.undelivered)) < 0 {
			mw.answer = nil // the Writer had ended before
		}
		m.checkUrgent(mw, wire)
		if all := slices.Concat(o.arrived, o.undelivered); mw.last != nil && !mw.lossy {
			require.Equal(t, *mw.last, all[len(all)-1])
		}
		mw.checkNotices(t, o.arrived, o.undelivered)
		m.checkKept(mw, o.arrived, o.undelivered)
		require.NotErrorIs(t, mw.refused, sendq.ErrWrongCount)
		j := l.successor(i)
		switch {
		case j < 0 || mw.refused != nil:
			m.checkEnded(l, mw, nil, o)
		case mw.isResumedBy(l.writers[j]):
			m.checkResumed(l, mw, l.writers[j], o, &outcomes[j])
		default:
			m.checkEnded(l, mw, l.writers[j], o)
		}
	}
	f.numbers, f.bound = make(map[int][]int), make(map[int][]int)
	own, inherited, isClear := 0, 0, true
	for i, mw := range l.writers {
		o, s := outcomes[i], mw.w.Stats()
		assertConserved(t, s)
		require.Zero(t, s.Pending)
		require.EqualValues(t, len(o.undelivered), s.Undelivered)
		if mw.lossy {
			require.GreaterOrEqual(t, s.Written, int64(len(o.arrived)))
		} else {
			empty := s.Written - int64(len(o.arrived))
			require.True(t, 0 <= empty && empty <= l.empty.Load(), "%d written, %d arrived", s.Written, len(o.arrived))
		}
		lossy = lossy || o.lossy
		isClear = isClear && !o.isUnclear
		for _, id := range slices.Concat(o.delivered, o.final) {
			f.numbers[id.sender] = append(f.numbers[id.sender], id.number)
		}
		for _, id := range o.bound {
			f.bound[id.sender] = append(f.bound[id.sender], id.number)
		}
		f.count += o.written + len(o.final) + len(o.bound)
		own += int(s.Accepted)
		if mw.answer != nil {
			own--
		}
		dropped += int(s.Dropped)
		inherited += o.left
		require.Error(t, mw.conn.Close(), "the Writer has closed it")
	}
	if isClear {
		require.Equal(t, own-inherited, f.count+dropped, "a Writer has not got what another has left")
	}
	return f, dropped, lossy
}

// checkEnded accounts for the messages of a Writer that nobody has resumed. next took the name over,
// if it is not nil and the Writer had the name still.
func (m *model) checkEnded(l *line, mw, next *modelWriter, o *outcome) {
	o.delivered, o.written, o.lossy = o.arrived, int(mw.w.Stats().Written), mw.lossy
	if i := mw.indexOfAnswer(o.arrived); i >= 0 {
		o.delivered = slices.Delete(slices.Clone(o.arrived), i, i+1)
		o.written--
	}
	bound, rest := mw.divided(o.undelivered)
	switch {
	case mw.refused == nil && mw.w.Err() != nil && m.takeReturned(l, mw.leftovers()):
		o.final = o.undelivered // behind what is kept
	case len(o.undelivered) == 0:
	case mw.refused != nil, m.takeReturned(l, o.undelivered):
		o.final = o.undelivered
	case len(rest) > 0 && m.takeReturned(l, rest): // after a takeover that has failed
		o.final, o.bound = rest, bound
	default:
		require.True(m.t, next != nil && (!next.resumes || len(rest) == 0), "neither handed back nor inherited: %v", o.undelivered)
		o.bound = bound
		o.left = len(rest)
	}
	if mw.answer != nil {
		isAnswer := func(id messageID) bool { return id == *mw.answer }
		o.final, o.bound = slices.DeleteFunc(slices.Clone(o.final), isAnswer), slices.DeleteFunc(o.bound, isAnswer)
	}
}

// leftovers returns what mw may not have brought to its peer, apart from an answer of Resume.
func (mw *modelWriter) leftovers() []messageID {
	return slices.DeleteFunc(idsOf(mw.w.UndeliveredAfter(0)), func(id messageID) bool {
		return mw.answer != nil && id == *mw.answer
	})
}

// successor returns the index of the next Writer after i that had the name, or -1.
func (l *line) successor(i int) int {
	for j := i + 1; j < len(l.writers); j++ {
		if l.writers[j].refused == nil {
			return j
		}
	}
	return -1
}

// divided divides messages into those that a takeover does not pass on, and the others.
func (mw *modelWriter) divided(ids []messageID) (bound, rest []messageID) {
	for _, id := range ids {
		if mw.isBound(id) {
			bound = append(bound, id)
		} else {
			rest = append(rest, id)
		}
	}
	return bound, rest
}

// isBound reports whether a message is for the connection of mw.
func (mw *modelWriter) isBound(id messageID) bool {
	return id.sender == mw.urgent.id || mw.last != nil && id == *mw.last || mw.answer != nil && id == *mw.answer
}

// takeReturned reports whether OnUndelivered has got these messages of line l once more.
func (m *model) takeReturned(l *line, ids []messageID) bool {
	key := fmt.Sprint(l.name, ids)
	if m.returned[key] == 0 {
		return false
	}
	if m.returned[key]--; m.returned[key] == 0 {
		delete(m.returned, key)
	}
	return true
}

// checkUrgent checks that only messages begun before, and urgent ones, precede an urgent message.
func (m *model) checkUrgent(mw *modelWriter, wire []byte) {
	urgent := make(map[int]bool) // by sender
	for _, l := range m.lines {
		for _, mw := range l.writers {
			urgent[mw.urgent.id] = true
			if mw.answer != nil {
				urgent[mw.answer.sender] = true
			}
		}
	}
	follows := make(map[messageID]int) // the offset of the ordinary message before it
	last := -1
	for at := 0; at+frameHeader <= len(wire); at += frameHeader + int(binary.BigEndian.Uint32(wire[at+8:])) {
		if id := idOf(wire[at:]); urgent[id.sender] {
			follows[id] = last
		} else {
			last = at
		}
	}
	for _, u := range mw.urgents {
		if at, arrived := follows[u.id]; arrived {
			require.Less(m.t, at, u.begun, "%v follows what was not begun", u.id)
		}
	}
}

// withoutFarewell returns the wire without the farewell at its end, which may be cut short.
func (m *model) withoutFarewell(mw *modelWriter, wire []byte) []byte {
	if m.farewell == nil || !errors.Is(mw.w.Err(), sendq.ErrSlowConsumer) {
		return wire
	}
	at := 0
	for at+frameHeader <= len(wire) && !bytes.HasPrefix(wire[at:], m.farewell[:8]) {
		at += frameHeader + int(binary.BigEndian.Uint32(wire[at+8:]))
	}
	if at < len(wire) && bytes.HasPrefix(m.farewell, wire[at:]) {
		return wire[:at]
	}
	return wire
}

// checkNotices compares the outcomes that WriteNotify has told of with the messages.
func (mw *modelWriter) checkNotices(t testing.TB, arrived, undelivered []messageID) {
	for id, err := range mw.notices {
		hasArrived, isUndelivered := slices.Contains(arrived, id), slices.Contains(undelivered, id)
		switch {
		case err == nil:
			require.True(t, hasArrived || mw.lossy, "written, but not there")
			require.False(t, isUndelivered, "written and undelivered")
		case errors.Is(err, sendq.ErrDropped):
			require.False(t, hasArrived || isUndelivered, "dropped, but there")
		default:
			require.True(t, isUndelivered, "neither written nor dropped nor undelivered: %v", err)
		}
	}
}

// onPressure checks that the calls alternate.
func (m *model) onPressure(w *sendq.Writer, slow bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.slow[w] == slow {
		m.t.Errorf("told twice: slow %v", slow)
	}
	m.slow[w] = slow
}
