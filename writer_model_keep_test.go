package sendq_test

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"slices"
	"sync/atomic"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
)

// keeps are the values of WriterOptions.Keep that the third byte of an input stands for. The last is
// enough for everything.
var keeps = [...]int{0, 1 << 10, 8 << 10, keepAll}

const keepAll = 64 << 20

// A peerCount is what the peer of a Writer has counted, over all connections that it has resumed.
type peerCount struct {
	resumes      bool          // the Writer was given to Broker.Resume
	base         int64         // what the peer had received before
	acknowledged int64         // base, or what the peer has acknowledged since
	resumed      sendq.Resumed // the result
	answer       *messageID    // of Resume, or nil
	isSettled    atomic.Bool   // Resume or Register has returned, so the fields above no longer change
	saidFarewell bool          // what check found
}

// holder returns the last Writer that has, or had, the name.
func (l *line) holder() (last *modelWriter) {
	for _, mw := range l.writers {
		if mw.refused == nil {
			last = mw
		}
	}
	return last
}

// count returns how many messages the peer of mw has received.
func (mw *modelWriter) count() int64 {
	n := mw.base
	for rest := mw.received(); len(rest) >= frameHeader; n++ {
		end := frameHeader + int(binary.BigEndian.Uint32(rest[8:]))
		if len(rest) < end {
			break
		}
		if mw.answer != nil && idOf(rest) == *mw.answer {
			n--
		}
		rest = rest[end:]
	}
	return n
}

// position returns what mw has counted, of the messages that s says are written.
func (mw *modelWriter) position(s sendq.WriterStats) int64 {
	n := mw.base + s.Written
	if mw.answer != nil {
		n--
	}
	return n
}

// acknowledge lets the peer of mw acknowledge some of what it has received, or a count that is wrong.
func (m *model) acknowledge(mw *modelWriter, amount int) {
	if m.opts.Keep == 0 || !mw.isSettled.Load() {
		return
	}
	m.settle()
	before := mw.w.Stats()
	n := mw.acknowledged + max(0, mw.count()-mw.acknowledged)*int64(amount)/255
	switch amount % 8 {
	case 0:
		n = mw.acknowledged - 1
	case 1:
		n = mw.position(before) + before.Pending + 1
		if m.kind != inMemory {
			n += 1 << 20 // others go on
		}
	}
	switch err := mw.w.Acknowledge(n); {
	case errors.Is(err, net.ErrClosed):
	case errors.Is(err, sendq.ErrWrongCount):
		require.Less(m.t, amount%8, 2, "%v", err)
		if after := mw.w.Stats(); m.kind == inMemory {
			require.Equal(m.t, before.Kept, after.Kept)
		}
	default:
		require.NoError(m.t, err)
		require.NotEqual(m.t, 0, amount%8)
		isParting := m.farewell != nil && mw.w.Err() != nil // so the peer may count a farewell
		require.True(m.t, amount%8 > 1 || isParting)
		mw.acknowledged = n
	}
}

// acknowledgeAll acknowledges everything at all Writers that live.
func (m *model) acknowledgeAll() {
	for _, l := range m.lines {
		for _, mw := range l.writers {
			n := mw.position(mw.w.Stats())
			if m.opts.Keep == 0 || hasEnded(mw.w) {
				continue
			}
			if err := mw.w.Acknowledge(n); !errors.Is(err, net.ErrClosed) { // it has just ended
				require.NoError(m.t, err)
				mw.acknowledged = n
				require.Zero(m.t, mw.w.Stats().Kept)
			}
		}
	}
}

// resume gives line i a new Writer, whose peer is the last one and has received a part of what has
// arrived.
func (m *model) resume(i, amount int) {
	l := m.lines[i]
	if m.opts.Keep == 0 {
		return
	}
	for _, mw := range l.writers {
		mw.letClose()
	}
	within(m.t, l.current().registered)
	old, next := l.holder(), m.newWriter(l)
	slow, answers, less := amount&1 > 0, amount&2 > 0, int64(amount>>2)
	next.resumes, next.base = true, max(0, old.count()-less)
	isWrong := less == 255>>2
	if isWrong { // the peer cannot have received so much
		next.base = old.count() + 1<<40
	}
	next.acknowledged = next.base
	var answer func(sendq.Resumed) []byte
	if answers && next.fault != nil { // otherwise its fate may be unknown
		p := frame(m.newSender().id, 0, amount)
		id := idOf(p)
		next.answer = &id
		answer = func(sendq.Resumed) []byte { return p }
	}
	resume := func() (err error) {
		next.resumed, err = m.broker.Resume(context.Background(), l.name, next.w, next.base, answer)
		return err
	}
	if isWrong {
		if err := within(m.t, async(resume)); err != nil {
			require.ErrorIs(m.t, err, sendq.ErrWrongCount)
			require.NotErrorIs(m.t, old.w.Err(), sendq.ErrTakenOver)
			next.release()
			require.NoError(m.t, next.w.CloseNow())
			require.Empty(m.t, next.arrived(m.t))
			require.Zero(m.t, next.w.Stats())
			return
		}
		require.EqualValues(m.t, -1, next.resumed.Missed, "the name was free")
		resume = func() error { return nil }
	}
	m.replace(l, next, slow, resume)
}

// checkKeptStats checks the figures of mw about what is kept.
func (m *model) checkKeptStats(mw *modelWriter, s sendq.WriterStats) {
	t := m.t
	require.LessOrEqual(t, s.KeptBytes+64*s.Kept, int64(m.opts.Keep))
	require.LessOrEqual(t, s.Kept, s.Written)
	require.LessOrEqual(t, s.KeptBytes, s.WrittenBytes)
	if m.opts.Keep == 0 || !mw.isSettled.Load() {
		return
	}
	position := mw.position(s)
	acknowledged := min(mw.acknowledged, max(mw.base, position))
	require.Equal(t, max(0, acknowledged-mw.base), s.Acknowledged)
	require.LessOrEqual(t, s.Kept, max(0, position-acknowledged)+1) // perhaps the answer
	if m.opts.Keep == keepAll {
		require.GreaterOrEqual(t, s.Kept, position-acknowledged)
	}
}

// checkKept compares what UndeliveredAfter yields with what has arrived.
func (m *model) checkKept(mw *modelWriter, arrived, undelivered []messageID) {
	if mw.lossy || m.opts.Keep == 0 {
		return
	}
	s := mw.w.Stats()
	m.checkKeptStats(mw, s)
	all, first := slices.Concat(arrived, undelivered), len(arrived)-int(s.Kept)
	for _, n := range []int{0, first, first + 1, first + (len(all)-first)/2, len(all), len(all) + 1} {
		after := mw.position(s) - s.Written + int64(n)
		want := all[min(max(n, first), len(all)):]
		require.Equal(m.t, len(want), len(idsOf(mw.w.UndeliveredAfter(after))))
		require.True(m.t, slices.Equal(want, idsOf(mw.w.UndeliveredAfter(after))))
	}
}

// checkResumed accounts for the messages of a Writer of line l whose peer has come back at next.
func (m *model) checkResumed(l *line, mw, next *modelWriter, o, later *outcome) {
	t := m.t
	written := int(mw.w.Stats().Written)
	all := slices.Concat(o.arrived, o.undelivered)
	if mw.lossy { // what is neither kept nor arrived is unknown
		all = make([]messageID, written+len(o.undelivered))
		kept := idsOf(mw.w.UndeliveredAfter(0))
		copy(all[len(all)-len(kept):], kept)
		copy(all, o.arrived)
	}
	if i := mw.indexOfAnswer(all); i >= 0 {
		all = slices.Delete(all, i, i+1)
		if i < written {
			written--
		}
	}
	received := max(0, int(next.base-mw.base))
	if mw.saidFarewell {
		received = min(received, written)
	}
	missed := int(next.resumed.Missed - max(0, mw.base-next.base) - mw.toldAgain(next))
	if mw.toldAgain(next) < 0 {
		missed = max(0, written-int(mw.w.Stats().Kept)-received)
	}
	require.LessOrEqual(t, 0, missed)
	require.LessOrEqual(t, received+missed, max(received, written))
	if m.opts.Keep == keepAll && mw.toldAgain(next) >= 0 {
		require.EqualValues(t, max(0, mw.acknowledged-next.base)+mw.toldAgain(next), next.resumed.Missed)
	}
	o.delivered, o.written, o.lossy = all[:received], received+missed, missed > 0
	var rest []messageID
	for i, id := range all[received+missed:] {
		if received+missed+i >= written && mw.isBound(id) {
			o.bound = append(o.bound, id)
		} else {
			rest = append(rest, id)
		}
	}
	require.Equal(t, len(rest), next.resumed.Messages)
	var inherited []messageID
	for _, id := range slices.Concat(later.arrived, later.undelivered) {
		if slices.Contains(rest, id) {
			inherited = append(inherited, id)
		}
	}
	switch {
	case len(rest) > 0 && m.takeReturned(l, rest): // next has ended before
		o.final = rest
		return
	case !m.dropsAccepted() && !next.lossy:
		require.Equal(t, rest, inherited)
	}
	o.left = len(rest)
}

// isResumedBy reports whether next has got what mw left, although it may say that more is gone.
func (mw *modelWriter) isResumedBy(next *modelWriter) bool {
	r := next.resumed
	isAgain := mw.toldAgain(next) < 0 && (r.Messages > 0 || errors.Is(mw.w.Err(), sendq.ErrTakenOver))
	return next.resumes && (r.Missed >= 0 || isAgain)
}

// toldAgain returns what the peer of next missed before, if it may not have got the answer of mw.
func (mw *modelWriter) toldAgain(next *modelWriter) int64 {
	if !mw.resumes || next.base > mw.base {
		return 0
	}
	return mw.resumed.Missed
}

// indexOfAnswer returns the index of the answer of Resume, or -1.
func (mw *modelWriter) indexOfAnswer(ids []messageID) int {
	if mw.answer == nil {
		return -1
	}
	return slices.Index(ids, *mw.answer)
}
