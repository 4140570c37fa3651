package natsrelay

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sendq-go/sendq"
)

// A simLedger records what clients of a simulation were told and what they received.
type simLedger struct {
	start   time.Time
	quietAt time.Time // when all faults and calls were over

	mu       sync.Mutex
	sessions []*simSession
	messages map[simKey]*simMessage
	order    []*simMessage          // in the order of sending
	received map[string][]simRecord // by name, in order
	holds    []*simHold
	estates  []*simEstate
	claims   []*simClaim
	asked    map[string]time.Time // when a node was asked for a name first, by node, name and token
	faults   []string             // what was wrong
	trace    []string
}

// A simKey identifies a message to a name, or to a room if to is empty.
type simKey struct {
	sender, number int
	to             string
}

// A simSession is a registration of a name, successful or not, and the Writer that has the name.
type simSession struct {
	client  *simClient
	process *simProcess
	name    string
	writer  *sendq.Writer
	conn    *simConn

	isTimed                         bool                 // Register has a time limit
	isRestart                       bool                 // a user counts from 0 on it
	received                        int64                // messages that a user had received before
	isUnknown                       bool                 // how many it has missed
	began, answered, closing, ended time.Time            // zero if not yet
	err                             error                // of Register
	cause                           error                // of the end
	joined, left                    map[string]time.Time // when it joined and left a room last
}

// A simMessage is a message and what has become of it.
type simMessage struct {
	sender, number int
	to, room       string // one of them is empty
	process        *simProcess
	members        []string // of the room, before and after it was published

	sentAt, answeredAt time.Time
	err                error
	written            []*simSession
	returned           []simReturn
	isSwallowed        bool // written to a connection that has lost it
}

// A simHold is the time in which a node had a name, as it announced.
type simHold struct {
	process  *simProcess
	name     string
	token    uint64
	from, to time.Time // to is zero if the node has the name
}

// A simEstate is what a node has given away with a name.
type simEstate struct {
	from  *simProcess
	to    string
	name  string
	token uint64 // of the new owner
	at    time.Time
}

// A simClaim is a call of Transport.Claim that has ended.
type simClaim struct {
	process      *simProcess
	name         string
	token        uint64
	began, ended time.Time
	err          error
	isEmpty      bool // it brought nothing
}

// A simReturn is a message that was handed back.
type simReturn struct {
	process *simProcess
	name    string
	cause   error
}

// A simRecord is a message that was written.
type simRecord struct {
	message *simMessage
	session *simSession
	at      time.Time
}

func newSimLedger() *simLedger {
	return &simLedger{
		start:    time.Now(),
		messages: make(map[simKey]*simMessage),
		received: make(map[string][]simRecord),
		asked:    make(map[string]time.Time),
	}
}

// since returns the time since the start, for a trace.
func (l *simLedger) since(t time.Time) string {
	return fmt.Sprintf("%.6f", t.Sub(l.start).Seconds())
}

// note adds a line to the trace. mu is held.
func (l *simLedger) note(format string, args ...any) {
	if *simTrace {
		l.trace = append(l.trace, l.since(time.Now())+" "+fmt.Sprintf(format, args...))
	}
}

// tell adds a line to the trace.
func (l *simLedger) tell(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.note(format, args...)
}

// Write adds a log record to the trace.
func (l *simLedger) Write(record []byte) (int, error) {
	l.tell("%s", bytes.TrimSpace(record))
	return len(record), nil
}

// check records a fault unless ok.
func (l *simLedger) check(ok bool, format string, args ...any) {
	if !ok {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.fault(format, args...)
	}
}

// fault records that something is wrong. mu is held.
func (l *simLedger) fault(format string, args ...any) {
	l.faults = append(l.faults, fmt.Sprintf(format, args...))
	l.note("FAULT "+format, args...)
}

// begin records the beginning of a registration.
func (l *simLedger) begin(c *simClient, p *simProcess, name string) *simSession {
	s := &simSession{client: c, process: p, name: name, began: time.Now(), joined: make(map[string]time.Time), left: make(map[string]time.Time)}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sessions = append(l.sessions, s)
	l.note("client %d registers %s at %s", c.id, name, p.id)
	return s
}

func (l *simLedger) registered(s *simSession, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s.answered, s.err = time.Now(), err
	l.note("client %d registered %s at %s: %v", s.client.id, s.name, s.process.id, err)
}

func (l *simLedger) ended(s *simSession) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s.ended, s.cause = time.Now(), s.writer.Err()
	l.note("client %d has lost %s at %s: %v", s.client.id, s.name, s.process.id, s.cause)
}

// hasEnded reports whether the Writer has ended.
func (s *simSession) hasEnded() bool {
	l := s.process.sim.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	return !s.ended.IsZero()
}

func (l *simLedger) sending(p *simProcess, messages ...*simMessage) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range messages {
		m.process, m.sentAt = p, time.Now()
		l.messages[simKey{m.sender, m.number, m.to}] = m
		l.order = append(l.order, m)
	}
}

func (l *simLedger) sent(m *simMessage, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	m.answeredAt, m.err = time.Now(), err
	l.note("%s at %s: %v", m, m.process.id, err)
}

func (m *simMessage) String() string {
	if m.to == "" {
		return fmt.Sprintf("%d/%d in %s", m.sender, m.number, m.room)
	}
	return fmt.Sprintf("%d/%d to %s", m.sender, m.number, m.to)
}

// isDirect reports whether the message is for one name.
func (m *simMessage) isDirect() bool { return m.room == "" }

// find returns the message of a line that came to a name. mu is held.
func (l *simLedger) find(name, line string) *simMessage {
	var k simKey
	var room string
	_, _ = fmt.Sscan(line, &k.sender, &k.number, &room)
	if room == "" {
		k.to = name
	}
	m := l.messages[k]
	if m == nil || m.room != room || !strings.HasSuffix(line, "\n") {
		l.fault("%s got an unknown message %q", name, line)
		return nil
	}
	return m
}

// written records that a line has arrived at the peer of a session.
func (l *simLedger) written(s *simSession, line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := l.find(s.name, line)
	if m == nil {
		return
	}
	l.note("client %d gets %s for %s at %s", s.client.id, m, s.name, s.process.id)
	m.written = append(m.written, s)
	l.received[s.name] = append(l.received[s.name], simRecord{m, s, time.Now()})
}

// swallowed records that a line is lost with the connection of a session.
func (l *simLedger) swallowed(s *simSession, line string) {
	if isAnswer(line) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if m := l.find(s.name, line); m != nil {
		l.note("%s for %s is lost on the way from %s", m, s.name, s.process.id)
		m.isSwallowed = true
	}
}

// handedBack records a call of OnUndelivered.
func (l *simLedger) handedBack(name string, line []byte, p *simProcess, cause error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := l.find(name, string(line))
	if m == nil {
		return
	}
	l.note("%s hands %s back from %s: %v", p.id, m, name, cause)
	m.returned = append(m.returned, simReturn{p, name, cause})
}

// hold records that a node has a name.
func (l *simLedger) hold(p *simProcess, name string, token uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, h := range l.holds {
		switch {
		case h.name != name:
		case h.process == p && h.to.IsZero(): // granted again
			h.token = token
			return
		case h.token == token:
			l.fault("%s has %s with the token %d of %s", p.id, name, token, h.process.id)
		}
	}
	l.holds = append(l.holds, &simHold{process: p, name: name, token: token, from: time.Now()})
}

func (l *simLedger) claimed(c *simClaim) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.claims = append(l.claims, c)
}

// asks records that a node is asked for a name by the owner of a token.
func (l *simLedger) asks(p *simProcess, name string, token uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if k := fmt.Sprint(p.id, name, token); l.asked[k].IsZero() {
		l.asked[k] = time.Now()
	}
}

// hasAsked reports whether the node of e had been asked for the claim c.
func (l *simLedger) hasAsked(e *simEstate, c *simClaim) bool {
	at, ok := l.asked[fmt.Sprint(e.from.id, e.name, c.token)]
	return ok && at.Before(e.at)
}

func (l *simLedger) inherits(e *simEstate) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.note("%s leaves what it has of %s to %s", e.from.id, e.name, e.to)
	l.estates = append(l.estates, e)
}

// letGo records that a node no longer has a name; "" stands for all.
func (l *simLedger) letGo(p *simProcess, name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, h := range l.holds {
		if h.process == p && (h.name == name || name == "") && h.to.IsZero() {
			h.to = time.Now()
		}
	}
}

// holders returns the sessions that have a name now, as their clients see it.
func (l *simLedger) holders() map[string][]*simSession {
	l.mu.Lock()
	defer l.mu.Unlock()
	found := make(map[string][]*simSession)
	for _, s := range l.sessions {
		if !s.answered.IsZero() && s.err == nil && s.ended.IsZero() {
			found[s.name] = append(found[s.name], s)
		}
	}
	return found
}

// has reports whether the session had the name at any time from a to b, or may have had it.
func (s *simSession) has(a, b time.Time) bool {
	return !s.began.After(b) && (s.ended.IsZero() || !s.ended.Before(a)) &&
		(s.err == nil || !s.answered.Before(a))
}

// overlaps reports whether two nodes had the name at the same time.
func (h *simHold) overlaps(o *simHold) bool {
	return h.name == o.name && h.process != o.process &&
		(h.to.IsZero() || h.to.After(o.from)) && (o.to.IsZero() || o.to.After(h.from))
}

// wasTwice reports whether two nodes had a name at the same time in that period. mu is held.
func (l *simLedger) wasTwice(name string, from, to time.Time) bool {
	for i, a := range l.holds {
		for _, b := range l.holds[:i] {
			if a.name == name && a.overlaps(b) && !later(a.from, b.from).After(to) && !earlier(a.to, b.to).Before(from) {
				return true
			}
		}
	}
	return false
}

// hasMoved reports whether a recipient came from another node after that time. mu is held.
func (l *simLedger) hasMoved(r simRecord, from time.Time) bool {
	return slices.ContainsFunc(l.sessions, func(s *simSession) bool {
		return s.name == r.session.name && s.process != r.session.process && s.has(from, r.session.began)
	})
}

// checkMessages checks what has become of each message, at the end of a simulation.
func (l *simLedger) checkMessages(isUser func(name string) bool, excused func(*simMessage) bool, lostNodes bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range l.order {
		if !m.isDirect() || isUser(m.to) {
			continue
		}
		switch n := len(m.written); {
		case n > 1:
			l.fault("%s was written %d times", m, n)
		case m.answeredAt.IsZero():
			l.fault("%s: no answer", m)
		case m.err == nil && n+len(m.returned) == 0 && !excused(m):
			l.fault("%s was accepted at %s and is lost", m, l.since(m.answeredAt))
		case n+len(m.returned) > 1 && !lostNodes:
			l.fault("%s was written %d times and handed back %d times", m, n, len(m.returned))
		case m.err != nil && !errors.Is(m.err, sendq.ErrUnconfirmed) && n+len(m.returned) > 0:
			l.fault("%s was refused, and written %d times, handed back %d times: %v", m, n, len(m.returned), m.err)
		}
	}
}

// checkOrder checks that each name got the messages of each sender in order.
func (l *simLedger) checkOrder() {
	l.mu.Lock()
	defer l.mu.Unlock()
	type stream struct {
		sender int
		from   *simProcess // nil for all messages to the name itself, because each was confirmed
	}
	for _, name := range sortedKeys(l.received) {
		last := make(map[stream]simRecord)
		seen := make(map[*simMessage]bool)
		for _, r := range l.received[name] {
			m := r.message
			if m.err != nil || seen[m] { // a message to a room may come twice while a name moves
				continue
			}
			seen[m] = true
			streams := []stream{{m.sender, m.process}}
			if m.isDirect() {
				streams = append(streams, stream{m.sender, nil})
			}
			for _, k := range streams {
				before, ok := last[k]
				switch {
				case !ok || before.message.number < m.number:
					last[k] = r
				case before.session == r.session && (m.isDirect() || !l.hasMoved(r, m.sentAt)):
					l.fault("%s got %v after %v at %s", name, m, before.message, r.session.process.id)
				case m.isDirect() && before.message.isDirect() && !l.wasTwice(name, m.sentAt, r.at):
					l.fault("%s got %v at %s after %v at %s", name, m, r.session.process.id, before.message, before.session.process.id)
				}
			}
		}
	}
}

func sortedKeys[V any](m map[string]V) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func sorted(names iter.Seq[string]) []string { return slices.Sorted(names) }

func membersOf(r *sendq.Room) []string { return sorted(r.Members()) }

// intersection returns the names in both lists.
func intersection(a, b []string) (both []string) {
	for _, name := range a {
		if slices.Contains(b, name) {
			both = append(both, name)
		}
	}
	return both
}
