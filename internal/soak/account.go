package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/sendq-go/sendq"
)

// requireDelivered records a fault if Shutdown did not deliver everything to a live peer. err is
// the result of Shutdown.
func (e *episode) requireDelivered(err error) {
	if err == nil {
		return
	}
	failed, ok := errors.AsType[*sendq.ShutdownError](err)
	if !ok || failed.Relay != nil {
		e.fault("Shutdown: %v", err)
		return
	}
	for _, u := range failed.Undelivered {
		i := slices.IndexFunc(e.members, func(m *member) bool { return m.name == u.Name })
		sessions := e.members[i].sessions // u is about one of them
		if e.names == sendq.NameTakeover {
			sessions = sessions[len(sessions)-1:]
		}
		// Something else may have ended it at the same moment.
		isLossy := slices.ContainsFunc(sessions, func(l *session) bool { return l.lossy.Load() })
		if errors.Is(u, context.DeadlineExceeded) && !isLossy {
			e.fault("Shutdown: %v", u)
		}
	}
}

// account compares the senders' results, the Writers' Stats and the messages received by peers.
func (e *episode) account() {
	var sum totals
	var accepted, undelivered int64 // by Stats
	for _, m := range e.members {
		var before *stream
		for i, l := range m.sessions {
			name := fmt.Sprintf("%s, Writer %d", m.name, i)
			s := l.w.Stats()
			if s.Pending != 0 || s.Accepted != s.Written+s.Dropped+s.Undelivered {
				e.fault("%s does not add up: %+v", name, s)
			}
			if l.err != nil {
				e.fault("%s: %v", name, l.err)
			}
			if n := l.stream.messages; n > s.Written || n < s.Written && !l.lossy.Load() {
				e.fault("%s: %d messages written, but %d arrived; %v", name, s.Written, n, l.w.Err())
			}
			left := e.checkUndelivered(name, l)
			if left != s.Undelivered {
				e.fault("%s: %d messages undelivered, but Stats has %d", name, left, s.Undelivered)
			}
			if before != nil && !before.precedes(&l.stream) {
				e.fault("%s: messages reordered or duplicated by a takeover", name)
			}
			if l.stream.messages > 0 && e.names == sendq.NameTakeover {
				before = l.stream.after(before)
			}
			accepted += s.Accepted
			sum.written += s.Written
			sum.arrived += l.stream.messages
			sum.dropped += s.Dropped
			undelivered += s.Undelivered
		}
	}
	sum.accepted, sum.handedBack = e.accepted.Load(), e.handedBack.Load()
	sum.inherited = undelivered - sum.handedBack

	switch e.names {
	case sendq.NameTakeover:
		sum.accepted += e.droppedAtOnce(sum) // as Stats counts
	case sendq.NameAttach: // each message that one call has accepted, one Writer or several have
		if sum.inherited != 0 || accepted < sum.accepted {
			e.fault("attached: %d accepted by calls, %d by Writers, %d neither written nor handed back", sum.accepted, accepted, sum.inherited)
		}
		sum.accepted = accepted
	}
	s := e.broker.Stats()
	if s.Names+s.Rooms+s.Writers > 0 || s.Written != sum.written || s.Dropped != sum.dropped || s.Undelivered != undelivered {
		e.fault("the Broker's figures differ: %+v", s)
	}
	if b := e.opts.Budget; b != nil && b.PendingBytes() != 0 {
		e.fault("the Budget still has %d bytes", b.PendingBytes())
	}
	t := &e.total
	t.accepted += sum.accepted
	t.written += sum.written
	t.arrived += sum.arrived
	t.dropped += sum.dropped
	t.handedBack += sum.handedBack
	t.inherited += sum.inherited
	t.slow += s.Ends.SlowConsumer.Writers
}

// droppedAtOnce returns how many messages were dropped and not accepted before. Each message that
// was accepted must be in sum.
func (e *episode) droppedAtOnce(sum totals) int64 {
	// later counts the accepted messages that DropOldest dropped afterwards.
	later := sum.accepted - sum.written - sum.handedBack
	atOnce := sum.dropped - later
	if later < 0 || atOnce < 0 || atOnce > e.maybeDropped.Load() || later > 0 && e.opts.Overflow != sendq.DropOldest {
		e.fault("%v: %d accepted, %d written, %d handed back, %d dropped, %d of them perhaps at once",
			e.opts.Overflow, sum.accepted, sum.written, sum.handedBack, sum.dropped, e.maybeDropped.Load())
	}
	return atOnce
}

// checkUndelivered returns the number of messages a Writer did not write. They must follow the
// messages that arrived. Part of the first one may have arrived.
func (e *episode) checkUndelivered(name string, l *session) int64 {
	var s stream
	rest := l.rest
	for p := range l.w.Undelivered() {
		if s.messages == 0 && bytes.HasPrefix(p, rest) {
			rest = nil
		}
		if left, err := s.take(p); err != nil || len(left) > 0 {
			e.fault("%s: undelivered: %v, %d bytes", name, err, len(left))
			return s.messages
		}
	}
	if !l.stream.precedes(&s) {
		e.fault("%s: a message arrived but counts as undelivered", name)
	}
	if len(rest) > 0 && !l.lossy.Load() {
		e.fault("%s: the last message is torn", name)
	}
	return s.messages
}
