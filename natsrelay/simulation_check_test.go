package natsrelay

import (
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/sendq-go/sendq"
)

// checkQuiet checks that all nodes know the same, two leases after the last fault.
func (s *simulation) checkQuiet() {
	l := s.ledger
	holders := l.holders()
	for _, name := range sortedKeys(holders) {
		l.check(len(holders[name]) == 1, "%d sessions have %s", len(holders[name]), name)
		for _, session := range holders[name] {
			w, _ := session.process.broker.Lookup(name)
			l.check(w == session.writer, "%s at %s is not with its Writer", name, session.process.id)
		}
	}
	s.checkViews(holders)
	s.checkFigures()
	s.checkRelays(holders)
	s.checkReach(holders)
}

// checkViews checks that each node knows the names and rooms as they are.
func (s *simulation) checkViews(holders map[string][]*simSession) {
	truth := make(map[string][]string) // the rooms of each name
	for name, sessions := range holders {
		truth[name] = sorted(sessions[0].process.broker.RoomsOf(name))
	}
	for _, p := range s.upProcesses() {
		b := p.broker
		s.ledger.check(slices.Equal(sorted(b.Names()), sortedKeys(truth)),
			"%s knows %v, not %v", p.id, sorted(b.Names()), sortedKeys(truth))
		s.ledger.check(b.Len() == len(truth), "%s counts %d names, not %d", p.id, b.Len(), len(truth))
		for name, rooms := range truth {
			s.ledger.check(slices.Equal(sorted(b.RoomsOf(name)), rooms),
				"%s knows %s in %v, not %v", p.id, name, sorted(b.RoomsOf(name)), rooms)
		}
		for _, room := range s.rooms {
			var members []string
			for name, rooms := range truth {
				if slices.Contains(rooms, room) {
					members = append(members, name)
				}
			}
			slices.Sort(members)
			s.ledger.check(slices.Equal(membersOf(b.Room(room)), members), "%s knows %v in %s, not %v", p.id, membersOf(b.Room(room)), room, members)
		}
		p.mu.Lock()
		seen := sortedKeys(p.sees)
		p.mu.Unlock()
		s.ledger.check(slices.Equal(seen, sortedKeys(truth)), "an observer of %s sees %v, not %v", p.id, seen, sortedKeys(truth))
		for name, rooms := range truth {
			p.mu.Lock()
			seen := sortedKeys(p.sees[name])
			p.mu.Unlock()
			s.ledger.check(slices.Equal(seen, rooms), "an observer of %s sees %s in %v, not %v", p.id, name, seen, rooms)
		}
	}
}

// checkFigures checks that the statistics of two nodes agree.
func (s *simulation) checkFigures() {
	up := s.upProcesses()
	for _, p := range up {
		stats := p.relay.Stats()
		s.ledger.check(stats.Malformed == 0, "%s got %d malformed envelopes", p.id, stats.Malformed)
		for _, o := range up {
			if o == p {
				continue
			}
			out, in := stats.Nodes[o.id], o.relay.Stats().Nodes[p.id]
			s.ledger.check(out.Posted+out.Dropped == in.Received+in.Missed, "%s to %s: %+v, %+v", p.id, o.id, out, in)
			p.mu.Lock()
			seen, missed := p.missed[o.id], int(stats.Nodes[o.id].Missed)
			p.mu.Unlock()
			s.ledger.check(seen == missed, "an observer of %s has missed %d messages of %s, not %d", p.id, seen, o.id, missed)
			s.ledger.check(!out.Gone, "%s takes %s for gone", p.id, o.id)
		}
	}
}

// checkRelays checks that nothing is kept that nobody needs.
func (s *simulation) checkRelays(holders map[string][]*simSession) {
	for _, p := range s.upProcesses() {
		g := p.relay.registry
		g.mu.Lock()
		names := sortedKeys(g.names)
		g.mu.Unlock()
		var own []string
		for name, sessions := range holders {
			if sessions[0].process == p {
				own = append(own, name)
			}
		}
		slices.Sort(own)
		s.ledger.check(slices.Equal(names, own), "the registry of %s has %v, not %v", p.id, names, own)
		for _, o := range p.relay.allPeers() {
			if holders != nil && o.hasLeft() { // it is forgotten later
				continue
			}
			o.mu.Lock()
			bytes, posts, requests, handovers := o.outbox.bytes, len(o.pendingPosts), len(o.requests), len(o.handovers)
			o.mu.Unlock()
			s.ledger.check(bytes+posts+requests+handovers == 0, "%s keeps %d bytes, %d posts, %d requests and %d handovers for %s",
				p.id, bytes, posts, requests, handovers, o.id)
		}
	}
}

// checkReach checks that every name can be reached and registered from every node.
func (s *simulation) checkReach(holders map[string][]*simSession) {
	c := &simClient{sim: s, id: len(s.clients)}
	for _, p := range s.upProcesses() {
		for _, name := range s.names {
			c.number++
			m := c.newMessage(name)
			s.ledger.sending(p, m)
			err := p.broker.Send(name, m.text())
			s.ledger.sent(m, err)
			if holders[name] == nil {
				s.ledger.check(errors.Is(err, sendq.ErrUnknownName), "%s sends to %s, which nobody has: %v", p.id, name, err)
			} else {
				// The Writer may notice just now that its connection is broken.
				s.ledger.check(err == nil || errors.Is(err, sendq.ErrClosed) || holders[name][0].hasEnded(), "%s cannot send to %s: %v", p.id, name, err)
			}
			s.ledger.check(time.Since(m.sentAt) < 4*time.Second, "%s to %s took %v", p.id, name, time.Since(m.sentAt))
		}
	}
	time.Sleep(10 * time.Second) // stalled connections go on
	c.random = s.random
	holders = s.ledger.holders()
	for _, p := range s.upProcesses() {
		for _, name := range s.names {
			session, err := s.register(c, p, name)
			if errors.Is(err, ErrNodeLost) { // an entry that a dead node has left; now its end is being noticed
				time.Sleep(s.relayOptions.Lease + 2*time.Second)
				session, err = s.register(c, p, name)
			}
			if errors.Is(err, sendq.ErrNameTaken) && (s.bucket.hasForgotten() || s.servers.n > 1) { // a late write; the node removes it
				time.Sleep(2 * time.Second)
				session, err = s.register(c, p, name)
			}
			isFree := s.policy == sendq.NameTakeover || len(holders[name]) == 0 || holders[name][0].hasEnded()
			s.ledger.check((err == nil) == isFree || s.bucket.hasForgotten(), "%s registers %s: %v", p.id, name, err)
			if err == nil {
				holders[name] = []*simSession{session}
			}
		}
	}
}

// register registers a new session.
func (s *simulation) register(c *simClient, p *simProcess, name string) (*simSession, error) {
	session := s.ledger.begin(c, p, name)
	session.conn = newSimConn(session)
	session.writer = sendq.NewWriter(session.conn, nil)
	err := p.broker.Register(name, session.writer)
	s.ledger.registered(session, err)
	if err == nil {
		s.watch(session)
	}
	return session, err
}

// checkMove checks that a node gives a name up for another one only while the registry has that node,
// or had it when the old node looked. An answer of the registry may be late, and so may the turn of the
// name.
func (s *simulation) checkMove(p *simProcess, name, to string) {
	now := time.Now()
	last := s.bucket.lastHad(name, to)
	late := s.relayOptions.attemptTimeout() + s.network.delay
	if s.isRegistering(p, name, last) || s.hasFault(last, now, func(f *simFault) bool {
		return f.concerns(p.machine) && !f.isBetweenMachines
	}) {
		late = s.relayOptions.Timeout
	}
	s.ledger.tell("%s gives %s up for %s", p.id, name, to)
	s.ledger.check(now.Sub(last) < late+100*time.Millisecond, "%s gives %s up for %s, which has not had it since %s", p.id, name, to, s.ledger.since(last))
}

// isRegistering reports whether somebody has registered the name at p since then.
func (s *simulation) isRegistering(p *simProcess, name string, since time.Time) bool {
	l := s.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.ContainsFunc(l.sessions, func(session *simSession) bool {
		return session.name == name && session.process == p && (session.answered.IsZero() || session.answered.After(since))
	})
}

// isDisturbed reports whether a fault other than a restart concerned the machine in that time.
func (s *simulation) isDisturbed(machine int, from, to time.Time) bool {
	return s.hasFault(from, to, func(f *simFault) bool { return f.concerns(machine) })
}

// hasFault reports whether is returned true for a fault in that time.
func (s *simulation) hasFault(from, to time.Time, is func(*simFault) bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.faults, func(f *simFault) bool {
		return is(f) && f.from.Before(to) && (f.to.IsZero() || f.to.After(from))
	})
}

// checkHolders checks that two nodes had one name at the same time only after a fault as long as a
// lease, or the loss of the bucket.
func (s *simulation) checkHolders() {
	l := s.ledger
	for i, a := range l.holds {
		for _, b := range l.holds[:i] {
			if !a.overlaps(b) {
				continue
			}
			from := later(a.from, b.from)
			l.check(s.mayBeTwice(from), "%s was at %s and %s from %s to %s",
				a.name, a.process.id, b.process.id, l.since(from), l.since(earlier(a.to, b.to)))
		}
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// earlier returns the earlier time; zero is the latest.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && a.After(b) {
		return b
	}
	return a
}

// mayBeTwice reports whether a name may be on two nodes at that time. A node that is cut off from the
// others may take them for dead, and they all may lose names. Faults of a machine with less than a
// moment between them count as one.
func (s *simulation) mayBeTwice(at time.Time) bool {
	if s.bucket.hasForgotten() { // a node may not notice if an answer was on its way
		return true
	}
	const moment = 3 * time.Second
	lease := s.relayOptions.Lease
	for m := range s.machines {
		var from, to time.Time
		for _, f := range s.faults { // in the order of their beginning
			if !f.concerns(m) || f.from.After(at) {
				continue
			}
			if from.IsZero() || f.from.Sub(to) > moment {
				from = f.from
			}
			to = later(to, f.to)
			isLong := to.Sub(from) > lease-moment || strings.HasPrefix(f.what, "loss of")
			if isLong && at.Sub(to) < 2*lease {
				return true
			}
		}
	}
	return false
}

// checkRooms checks that a member that stayed got every message to its room, except those that its node
// has missed. A gap of unknown size stands for all before. A node publishes to the members that it has
// heard of. After a fault that takes a moment, and a new node may meet another one only then.
func (s *simulation) checkRooms() {
	type stream struct {
		session *simSession
		from    *simProcess
	}
	l := s.ledger
	missing := make(map[stream][]*simMessage)
	for _, m := range l.order {
		if m.isDirect() {
			continue
		}
		for _, name := range s.names {
			session := s.stayed(name, m)
			isLeaving := !m.process.leaving.IsZero() && m.answeredAt.After(m.process.leaving)
			if session == nil || m.process.killed || isLeaving || slices.Contains(m.written, session) ||
				slices.ContainsFunc(m.returned, func(r simReturn) bool { return r.name == name }) {
				continue
			}
			const moment = 3 * time.Second
			lag := s.relayOptions.Lease + moment
			isNew := session.joined[m.room].Add(lag).After(m.sentAt) || s.isDisturbed(m.process.machine, m.sentAt.Add(-lag), m.sentAt) || m.process != session.process && !m.process.view.hasMet(session.process.id, m.sentAt)
			if !slices.Contains(m.members, name) && isNew || m.sentAt.Before(session.process.unknown[m.process.id]) {
				continue
			}
			k := stream{session, m.process}
			missing[k] = append(missing[k], m)
		}
	}
	for k, messages := range missing {
		missed := 0
		if k.from != k.session.process {
			missed = k.session.process.missed[k.from.id]
		}
		l.check(len(messages) <= missed, "%s at %s did not get %v from %s, which has missed %d",
			k.session.name, k.session.process.id, messages, k.from.id, missed)
	}
}

// stayed returns the session that had the name when m was sent and kept it to the end, and stayed in the
// room. It returns nil if there is none or another session has tried to get the name.
func (s *simulation) stayed(name string, m *simMessage) (found *simSession) {
	end := s.ledger.quietAt
	for _, session := range s.ledger.sessions {
		switch {
		case session.name != name || session.began.After(end) || !session.has(m.sentAt.Add(-s.relayOptions.Lease), end):
		case found != nil || session.answered.IsZero() || session.err != nil || !session.answered.Before(m.sentAt),
			!session.ended.IsZero() && session.ended.Before(end), !session.closing.IsZero(),
			session.joined[m.room].IsZero() || session.joined[m.room].After(m.sentAt), session.left[m.room].After(session.joined[m.room]), session.left[m.room].After(m.sentAt.Add(-2 * s.relayOptions.Lease)):
			return nil
		default:
			found = session
		}
	}
	return found
}

// checkEmpty checks that nothing is left two leases after everyone has left.
func (s *simulation) checkEmpty() {
	s.checkViews(nil)
	s.checkRelays(nil)
	var leases []string
	for _, p := range s.upProcesses() {
		leases = append(leases, leaseKey(p.id))
	}
	slices.Sort(leases)
	s.ledger.check(slices.Equal(s.bucket.keys(), leases), "the bucket has %v, not %v", s.bucket.keys(), leases)
}

// checkEnd checks the messages, after all processes have ended.
func (s *simulation) checkEnd() {
	l := s.ledger
	l.check(len(s.bucket.keys()) == 0, "the bucket has %v at the end", s.bucket.keys())
	l.checkMessages(s.isUser, s.mayBeLost, s.hasLostNodes())
	for _, u := range s.users {
		s.checkReceived(u)
	}
	l.checkOrder()
	s.checkHolders()
	s.checkRooms()
	s.checkEstates()
	s.checkCalm()
}

// checkEstates checks that no estate goes to a node that has given up, while another one was waiting
// that had asked for the name too and gets nothing with it.
func (s *simulation) checkEstates() {
	l := s.ledger
	for _, e := range l.estates {
		i := slices.IndexFunc(l.claims, func(c *simClaim) bool {
			return c.process.id == e.to && c.name == e.name && c.token == e.token && c.err != nil && c.ended.Before(e.at)
		})
		for _, c := range l.claims {
			if i >= 0 && c.name == e.name && c.token > e.token && c.err == nil && c.isEmpty && l.hasAsked(e, c) && c.ended.After(e.at) {
				isPassedOn := slices.ContainsFunc(l.claims, func(o *simClaim) bool {
					return o.name == e.name && o.token > e.token && o.token < c.token && !o.isEmpty && o.ended.After(e.at)
				})
				from := e.at.Add(-s.relayOptions.Timeout)
				l.check(isPassedOn || s.isDisturbed(e.from.machine, from, c.ended) || s.isDisturbed(c.process.machine, from, c.ended),
					"%s left what it had of %s to %s, which had given up, and %s got nothing", e.from.id, e.name, e.to, c.process.id)
			}
		}
	}
}

// checkCalm checks that nothing takes long without a fault.
func (s *simulation) checkCalm() {
	if s.weather != simNoStorm || s.isSlow || s.network.delay > 10*time.Millisecond {
		return
	}
	for _, session := range s.ledger.sessions {
		if !session.isTimed && session.conn != nil {
			took := session.answered.Sub(session.began)
			s.ledger.check(took < 4*time.Second, "%s took %v to register %s", session.process.id, took, session.name)
		}
	}
}

// mayBeLost reports whether an accepted message may have ended with a process that was killed.
func (s *simulation) mayBeLost(m *simMessage) bool {
	for _, session := range s.ledger.sessions {
		p := session.process
		isLate := p.died.After(s.ledger.quietAt) && m.sentAt.Before(s.ledger.quietAt) // nothing is on its way that long
		if session.name == m.to && p.killed && !isLate && !p.died.Before(m.sentAt) && session.has(m.sentAt, p.died) {
			return true
		}
	}
	return false
}

// isUser reports whether a name is that of a user.
func (s *simulation) isUser(name string) bool {
	return slices.ContainsFunc(s.users, func(u *simUser) bool { return u.name == name })
}

// hasLostNodes reports whether a node may have found another one unreachable.
func (s *simulation) hasLostNodes() bool {
	return slices.ContainsFunc(s.faults, func(f *simFault) bool {
		return f.to.Sub(f.from) > s.relayOptions.Lease/2 || strings.HasPrefix(f.what, "restart")
	})
}
