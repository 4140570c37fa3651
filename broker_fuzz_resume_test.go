package sendq_test

import (
	"errors"
	"slices"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
)

// resume gives name to a new Writer, whose peer says how much it has received: valid or not.
func (r *reference) resume(name string, amount int) {
	w := &refWriter{conn: readingPeer(), stalled: amount%3 == 0}
	if w.stalled {
		w.conn.Stall()
	}
	w.w = sendq.NewWriter(w.conn, keeping)
	r.t.Cleanup(func() { w.w.CloseNow() })
	isClosed := amount%7 == 0
	if isClosed {
		require.NoError(r.t, w.w.CloseNow())
	}
	var old *refWriter
	received := amount/8 - 1
	if writers := r.names[name]; len(writers) > 0 {
		old = writers[0]
		received = old.before + len(old.written) - amount/8
		if amount%5 == 0 {
			received = old.mostReceived() + 1
		}
	}
	resumed, err := r.broker.Resume(r.t.Context(), name, w.w, int64(received), nil)
	switch {
	case r.opts.NamePolicy == sendq.NameAttach:
		require.ErrorContains(r.t, err, "exclude each other")
	case received < 0, old != nil && amount%5 == 0:
		require.ErrorIs(r.t, err, sendq.ErrWrongCount)
	case isClosed:
		require.ErrorIs(r.t, err, sendq.ErrClosed)
	case old == nil:
		require.NoError(r.t, err)
		require.Equal(r.t, sendq.Resumed{Missed: -1}, resumed)
		r.names[name] = []*refWriter{w}
	default:
		require.NoError(r.t, err)
		require.Equal(r.t, sendq.ErrTakenOver, old.w.Err())
		first := max(received, min(old.acknowledged, old.before+len(old.written))) // what is acknowledged is gone
		left := slices.Concat(old.written[max(0, first-old.before):], old.pending)
		missed := int64(first - received)
		switch {
		case received > old.before: // the peer knows what was gone before
		case old.missed < 0:
			missed = -1
		default:
			missed += old.missed
		}
		require.Equal(r.t, sendq.Resumed{Messages: len(left), Missed: missed}, resumed)
		r.replace(name, old, w, left)
	}
	if err != nil {
		require.Zero(r.t, resumed)
		require.NoError(r.t, w.w.CloseNow())
		return
	}
	w.before, w.acknowledged, w.missed = received, received, resumed.Missed
	if old != nil {
		w.most = old.mostReceived()
	}
	r.writers = append(r.writers, w)
	synctest.Wait()
}

// mostReceived returns how many messages the peer can have received at most, with all of a conn.Write
// that has not returned.
func (w *refWriter) mostReceived() int {
	return max(w.most, w.before+len(w.written)+len(w.pending))
}

// acknowledge lets the peer of w acknowledge some of what it has received, or a count that is wrong.
func (r *reference) acknowledge(w *refWriter, amount int) {
	n := w.acknowledged + amount/4 - 4
	err := w.w.Acknowledge(int64(n))
	switch {
	case w.acknowledged <= n && n <= w.before+len(w.written):
		require.NoError(r.t, err)
	case n < w.acknowledged, n > w.mostReceived():
		require.ErrorIs(r.t, err, sendq.ErrWrongCount)
	default: // it depends on how many messages the write has taken
		require.True(r.t, err == nil || errors.Is(err, sendq.ErrWrongCount), "%v", err)
	}
	if err == nil {
		w.acknowledged = n
	}
	require.EqualValues(r.t, max(0, min(w.acknowledged-w.before, len(w.written))), w.w.Stats().Acknowledged)
}
