package natsrelay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/sendq-go/sendq"
)

// A simUser is a client with a name of its own. When its connection breaks it comes back at any node,
// and says how many messages it has received.
type simUser struct {
	*simClient
	name string

	// Guarded by the ledger.
	count    int64       // messages received, over all its connections
	unknowns []time.Time // when it was told that messages may be missing
}

// run acts until the simulation stops the clients. Then it comes back once more.
func (u *simUser) run() {
	for !u.sim.stopped() {
		time.Sleep(time.Duration(u.random.Int64N(int64(u.pace))))
		u.act()
	}
	for !u.isConnected() {
		time.Sleep(time.Second)
		if p := u.pickNode(); p != nil {
			u.resume(context.Background(), p)
		}
	}
}

// isConnected reports whether the user has a connection, as far as it knows.
func (u *simUser) isConnected() bool {
	return u.session != nil && !u.session.hasEnded() && !u.session.conn.isLost()
}

// pickNode returns the process of the session, or another one. It returns nil if none can be used.
func (u *simUser) pickNode() *simProcess {
	up := u.sim.upProcesses()
	switch {
	case len(up) == 0:
		return nil
	case u.session != nil && u.session.process.isUp() && u.random.IntN(2) == 0:
		return u.session.process
	}
	return up[u.random.IntN(len(up))]
}

func (u *simUser) act() {
	if !u.isConnected() {
		u.comeBack()
		return
	}
	s := u.session
	s.process.gate()
	if s.process.isDead() {
		return
	}
	switch u.random.IntN(20) {
	case 0, 1:
		s.conn.breakOff()
		s.fail(time.Duration(u.random.Int64N(int64(time.Second))))
	case 2:
		s.conn.breakOff() // the Writer notices at the next message
	case 3, 4:
		s.conn.cutOff()
	case 5:
		u.comeBack() // from another network, perhaps
	case 6, 7, 8:
		err := s.writer.Acknowledge(u.received())
		u.sim.ledger.check(err == nil || errors.Is(err, sendq.ErrClosed) || s.process.isDead(), "%s cannot acknowledge %d: %v", u.name, u.received(), err)
	case 9:
		s.join(u.pickRoom())
	case 10:
		u.stall()
	case 11:
		if u.random.IntN(4) == 0 {
			s.closing = time.Now()
			s.conn.readAll()
			_ = s.writer.Close()
		}
	}
}

// comeBack resumes, or sometimes registers like one that has forgotten everything.
func (u *simUser) comeBack() {
	p := u.pickNode()
	if p == nil {
		return
	}
	p.gate() // nobody gets an answer from a frozen process
	ctx := context.Background()
	if u.random.IntN(4) == 0 {
		timed, cancel := context.WithTimeout(ctx, time.Duration(u.random.Int64N(int64(2*time.Second))))
		defer cancel()
		ctx = timed
	}
	if u.session == nil || u.random.IntN(12) == 0 {
		u.restart(ctx, p)
	} else {
		u.resume(ctx, p)
	}
}

// connect returns a new connection, which replaces the one before. It returns nil if the process is
// dead.
func (u *simUser) connect(ctx context.Context, p *simProcess) *simSession {
	if u.session != nil {
		u.session.conn.cutOff()
	}
	s := u.sim.ledger.begin(u.simClient, p, u.name)
	_, s.isTimed = ctx.Deadline()
	if s.conn = newSimConn(s); s.conn == nil {
		u.sim.ledger.registered(s, os.ErrClosed)
		return nil
	}
	s.conn.user, s.conn.lag = u, u.random.IntN(6)
	s.writer = sendq.NewWriter(s.conn, &sendq.WriterOptions{Keep: 1 << 30})
	return s
}

// connected records the result of Register or Resume.
func (u *simUser) connected(s *simSession, err error) {
	u.sim.ledger.registered(s, err)
	if err != nil {
		_ = s.writer.CloseNow()
		return
	}
	u.sim.watch(s)
	u.session = s
	if u.random.IntN(4) == 0 {
		s.join(u.pickRoom())
	}
}

func (u *simUser) resume(ctx context.Context, p *simProcess) {
	s := u.connect(ctx, p)
	if s == nil {
		return
	}
	s.received = u.received()
	r, err := p.broker.Resume(ctx, u.name, s.writer, s.received, func(r sendq.Resumed) []byte {
		return fmt.Appendf(nil, "back %d %d\n", r.Messages, r.Missed)
	})
	u.sim.ledger.tell("%s says %d: %+v", u.name, s.received, r)
	u.sim.ledger.check(!errors.Is(err, sendq.ErrWrongCount) || u.sim.ledger.hadTwice(u.name), "%s cannot resume at %s: %v", u.name, p.id, err)
	if err == nil {
		s.isUnknown = r.Missed < 0
		u.sim.checkResumed(u, s)
	}
	u.connected(s, err)
}

// restart registers the name, and counts from 0 if that succeeds.
func (u *simUser) restart(ctx context.Context, p *simProcess) {
	s := u.connect(ctx, p)
	if s == nil {
		return
	}
	s.isRestart = true
	before := u.setReceived(0)
	err := p.broker.RegisterContext(ctx, u.name, s.writer)
	if err != nil {
		u.setReceived(before)
	}
	u.connected(s, err)
}

func (u *simUser) received() int64 {
	l := u.sim.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	return u.count
}

func (u *simUser) setReceived(n int64) (before int64) {
	l := u.sim.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	before, u.count = u.count, n
	return before
}

// receive takes a line from a connection.
func (u *simUser) receive(s *simSession, line string) {
	l := u.sim.ledger
	if isAnswer(line) {
		var messages, missed int
		_, err := fmt.Sscanf(line, "back %d %d\n", &messages, &missed)
		l.check(err == nil && (missed <= 0 || l.hadTwice(u.name)), "%s got the answer %q", u.name, line)
		l.answered(u, line, missed < 0)
		return
	}
	l.written(s, line)
	l.mu.Lock()
	defer l.mu.Unlock()
	u.count++
}

// hadTwice reports whether two nodes had a name at the same time.
func (l *simLedger) hadTwice(name string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.wasTwice(name, time.Time{}, time.Now())
}

// isAnswer reports whether a line is the answer of Resume.
func isAnswer(line string) bool { return strings.HasPrefix(line, "back ") }

// fail lets the server notice after d that the peer has gone.
func (s *simSession) fail(d time.Duration) {
	s.process.sim.observers.Go(func() {
		time.Sleep(d)
		s.process.gate()
		if !s.process.isDead() {
			_ = s.writer.Fail(io.EOF)
		}
	})
}

// answered records that a user has got the answer of Resume.
func (l *simLedger) answered(u *simUser, line string, isUnknown bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.note("%s gets %q", u.name, line)
	if isUnknown {
		u.unknowns = append(u.unknowns, time.Now())
	}
}

// checkResumed checks that it is unknown what a user has missed only if a node may have lost it, or the
// name had left, or if the user may not have heard that yet. Each node may have lost what it sent to many.
func (s *simulation) checkResumed(u *simUser, session *simSession) {
	if !session.isUnknown {
		return
	}
	l := s.ledger
	l.mu.Lock()
	var before *simSession
	var givenUp time.Time // perhaps a node still asks
	for _, o := range l.sessions {
		switch {
		case o.name != u.name || o == session:
		case o.err == nil:
			before = o
		default:
			givenUp = o.answered
		}
	}
	l.mu.Unlock()
	if before == nil || !before.closing.IsZero() || before.isUnknown && session.received <= before.received || givenUp.After(before.began.Add(-s.relayOptions.Timeout)) {
		return
	}
	from := before.began.Add(-2 * s.relayOptions.Lease)
	hasLeft := !before.ended.IsZero() && time.Since(before.ended) >= s.linger
	isDisturbed := false
	for i := range s.machines {
		isDisturbed = isDisturbed || s.isDisturbed(i, from, time.Now())
	}
	l.check(hasLeft || isDisturbed,
		"%s is back at %s, was at %s, and what it has missed is unknown", u.name, session.process.id, before.process.id)
}

// checkReceived checks that each user has received everything once, or was told that messages may be
// missing. If two nodes had the name, messages to one of them may be lost or come twice, because the user
// may have counted messages of the other one.
func (s *simulation) checkReceived(u *simUser) {
	l := s.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range l.order {
		if m.to != u.name {
			continue
		}
		switch n := len(m.written); {
		case n > 1 && !l.wasTwice(u.name, m.sentAt.Add(-2*s.relayOptions.Lease), time.Now()):
			l.fault("%s was received %d times", m, n)
		case m.answeredAt.IsZero():
			l.fault("%s: no answer", m)
		case m.err != nil && !errors.Is(m.err, sendq.ErrUnconfirmed) && n+len(m.returned) > 0:
			l.fault("%s was refused, and received %d times, handed back %d times: %v", m, n, len(m.returned), m.err)
		case len(m.returned) > 1 && !s.hasLostNodes():
			l.fault("%s was handed back %d times", m, len(m.returned))
		case m.err == nil && n+len(m.returned) == 0 && !l.isTold(u, m) && !s.diedWith(m) && !l.wasTwice(u.name, m.sentAt.Add(-2*s.relayOptions.Lease), m.answeredAt):
			l.fault("%s was accepted at %s and is lost", m, l.since(m.answeredAt))
		}
	}
}

// isTold reports whether a user knows that m may be missing, before it receives a later message of the
// same sender. mu is held.
func (l *simLedger) isTold(u *simUser, m *simMessage) bool {
	var next time.Time // zero if there is none
	for _, r := range l.received[u.name] {
		if r.message.sender == m.sender && r.message.isDirect() && r.message.number > m.number {
			next = r.at
			break
		}
	}
	isBefore := func(t time.Time) bool { return next.IsZero() || !t.After(next) }
	return slices.ContainsFunc(u.unknowns, func(t time.Time) bool { return !t.Before(m.sentAt) && isBefore(t) }) ||
		m.isSwallowed && slices.ContainsFunc(l.sessions, func(s *simSession) bool {
			return s.isRestart && s.name == u.name && s.err == nil && !s.answered.Before(m.sentAt) && isBefore(s.began)
		})
}

// diedWith reports whether a node that had the name of m has died.
func (s *simulation) diedWith(m *simMessage) bool {
	for _, h := range s.ledger.holds {
		p := h.process
		from := p.died
		if !p.leaving.IsZero() {
			from = p.leaving
		}
		isEnded := !h.to.IsZero() && (h.to.Before(from) || h.to.Before(m.sentAt))
		if h.name == m.to && p.killed && !isEnded && !p.died.Before(m.sentAt) {
			return true
		}
	}
	return false
}
