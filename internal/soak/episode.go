package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sendq-go/sendq"
)

// A soaker runs one episode after another.
type soaker struct {
	seed      uint64
	delivered atomic.Int64 // messages accepted so far
	total     totals

	mu     sync.Mutex
	faults []string
}

// totals are the sums over all episodes.
type totals struct {
	accepted, written, arrived, dropped, handedBack, inherited int64 // messages
	episodes, connections, takeovers, attached                 int64
	resets, stalls, slow                                       int64
}

func (s *soaker) fault(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.faults) < 20 {
		s.faults = append(s.faults, fmt.Sprintf("episode %d: ", s.total.episodes)+fmt.Sprintf(format, args...))
	}
}

// An episode is the lifetime of one Broker. All its members have the same limits.
type episode struct {
	*soaker
	net     network
	names   sendq.NamePolicy
	broker  *sendq.Broker
	room    *sendq.Room
	opts    sendq.WriterOptions
	until   int64 // the episode ends once soaker.delivered reaches this
	members []*member

	accepted, maybeDropped atomic.Int64 // according to the results of the senders' calls
	handedBack             atomic.Int64
	ending                 sync.WaitGroup
}

// A member is a name and the Writers that had it, one after the other, or several at once with Attach.
type member struct {
	name     string
	mu       sync.Mutex
	sessions []*session
}

func (m *member) current() *session {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.sessions[len(m.sessions)-1]
}

const (
	memberRoom = "room"

	// attached is how many Writers share a name with Attach. If another comes, the oldest closes.
	attached = 3
)

// episode makes a number of deliveries, or fewer if 20 s have passed.
func (s *soaker) episode(ctx context.Context, messages int64) {
	s.total.episodes++
	rng := rand.New(rand.NewPCG(s.seed, uint64(s.total.episodes)))
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	e := &episode{soaker: s, names: sendq.NameTakeover, until: s.delivered.Load() + messages}
	if s.total.episodes%3 == 0 {
		e.names = sendq.NameAttach
	}
	if err := e.net.listen(); err != nil {
		s.fault("%v", err)
		return
	}
	defer e.net.close()
	e.opts = sendq.WriterOptions{
		MaxPending:   pick(rng, 256<<10, 1<<20, 0),
		Overflow:     pick(rng, sendq.Disconnect, sendq.Block, sendq.DropNewest, sendq.DropOldest),
		MaxAge:       pick(rng, 0, 0, 2*time.Second),
		WriteTimeout: pick(rng, 0, 0, 2*time.Second),
		CloseTimeout: time.Minute,
		Budget:       pick(rng, nil, nil, sendq.NewBudget(64<<20)),
	}
	if e.opts.Overflow >= sendq.DropNewest {
		e.opts.MaxPending = pick(rng, 16<<10, e.opts.MaxPending) // a batch exceeds 16 KiB
	}
	e.broker = sendq.NewBroker(&sendq.BrokerOptions{NamePolicy: e.names, OnUndelivered: e.takeBack})
	e.room = e.broker.Room(memberRoom)
	for i := range 40 + rng.IntN(160) {
		m := &member{name: fmt.Sprint("member ", i)}
		e.members = append(e.members, m)
		e.connect(rng, m)
		if e.names == sendq.NameAttach {
			e.connect(rng, m)
		}
	}

	var sending, disturbing sync.WaitGroup
	for sender, send := range [senders]func(context.Context, *rand.Rand, *sequence){e.publish, e.publish, e.sendToNames, e.sendToWriters} {
		rng := rand.New(rand.NewPCG(rng.Uint64(), 0))
		sending.Go(func() {
			for n := (&sequence{sender: sender}); ctx.Err() == nil && !s.failed() && s.delivered.Load() < e.until; {
				send(ctx, rng, n)
			}
		})
	}
	disturbing.Go(func() { e.disturb(ctx, rng) })
	sending.Wait()
	cancel()
	disturbing.Wait()
	e.end(rng)
	e.account()
}

func (s *soaker) failed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.faults) > 0
}

func pick[T any](rng *rand.Rand, choices ...T) T { return choices[rng.IntN(len(choices))] }

// takeBack is the Broker's OnUndelivered.
func (e *episode) takeBack(name string, messages iter.Seq[[]byte], _ error) {
	var s stream
	for p := range messages {
		if rest, err := s.take(p); err != nil || len(rest) > 0 {
			e.fault("%s: handed back: %v, %d bytes", name, err, len(rest))
		}
	}
	e.handedBack.Add(s.messages)
}

// connect gives m a new Writer. It takes over from the last one unless that has ended, or is attached.
func (e *episode) connect(rng *rand.Rand, m *member) {
	l, err := e.net.connect(rng, &e.opts)
	if err != nil {
		e.fault("%v", err)
		return
	}
	e.total.connections++
	m.mu.Lock()
	switch n := len(m.sessions); {
	case n == 0:
	case e.names == sendq.NameTakeover:
		e.total.takeovers++
	default:
		e.total.attached++
		if n >= attached {
			oldest := m.sessions[n-attached]
			e.ending.Go(func() { _ = oldest.w.Close() })
		}
	}
	m.sessions = append(m.sessions, l)
	m.mu.Unlock()
	if err := e.broker.Register(m.name, l.w); err != nil {
		e.fault("%v", err)
	}
	_ = e.room.Join(m.name) // fails if the Writer has ended
}

// disturb stalls, resets, closes and replaces the connections of random members.
func (e *episode) disturb(ctx context.Context, rng *rand.Rand) {
	for ctx.Err() == nil {
		m := pick(rng, e.members...)
		at := m.current()
		if _, ok := e.broker.Lookup(m.name); !ok {
			e.connect(rng, m)
			continue
		}
		time.Sleep(time.Duration(rng.IntN(int(20 * time.Millisecond))))
		switch rng.IntN(10) {
		case 0, 1, 2:
			e.connect(rng, m)
		case 3, 4, 5:
			e.total.stalls++
			at.stall(time.Duration(rng.IntN(int(50 * time.Millisecond))))
		case 6:
			if rng.IntN(2) == 0 {
				e.total.stalls++
				at.stall(4 * time.Second)
			}
		case 7:
			if rng.IntN(2) == 0 {
				e.total.resets++
				at.reset()
			}
		case 8:
			end := pick(rng, at.w.Close, at.w.CloseNow)
			e.ending.Go(func() { _ = end() })
		case 9:
			e.room.Leave(m.name)
			_ = e.room.Join(m.name)
		}
	}
}

// A sequence numbers the messages of one sender.
type sequence struct {
	sender int
	last   uint32
}

// next appends the next message to p. Most messages are short.
func (n *sequence) next(p []byte, rng *rand.Rand) []byte {
	n.last++
	body := 0
	switch rng.Uint32() % 256 {
	case 0:
		body = 8 + rng.IntN(8000)
	case 1, 2, 3:
		body = 8 + rng.IntN(200)
	}
	return appendMessage(p, n.sender, n.last, body)
}

// publish sends a batch of messages, most of them to the room.
func (e *episode) publish(ctx context.Context, rng *rand.Rand, n *sequence) {
	e.throttle(ctx, rng)
	batch := e.broker.NewBatch()
	var p [8192]byte
	for range 1 + rng.IntN(512) {
		message := n.next(p[:0], rng)
		switch rng.Uint32() % 64 {
		case 0:
			batch.Broadcast(message)
		case 1:
			batch.Send(pick(rng, e.members...).name, message)
		default:
			batch.Publish(memberRoom, message)
		}
	}
	e.count(batch.Flush())
}

// count adds a Report to the figures.
func (e *episode) count(r sendq.Report) {
	e.accepted.Add(int64(r.Accepted))
	e.delivered.Add(int64(r.Accepted))
	for _, refusal := range r.Refused {
		e.maybeDropped.Add(int64(refusal.Messages))
	}
}

// countOne adds the result of sending one message to the figures.
func (e *episode) countOne(err error) {
	switch {
	case err == nil:
		e.count(sendq.Report{Accepted: 1})
	case errors.Is(err, sendq.ErrDropped):
		e.maybeDropped.Add(1)
	}
}

// sendToNames sends a few messages to names.
func (e *episode) sendToNames(ctx context.Context, rng *rand.Rand, n *sequence) {
	e.throttle(ctx, rng)
	for range 100 {
		i, p := rng.IntN(len(e.members)), n.next(nil, rng)
		name, neighbour := e.members[i].name, e.members[(i+1)%len(e.members)].name
		switch rng.IntN(8) {
		case 0:
			e.count(e.broker.SendTo([]string{name, neighbour}, p))
		case 1:
			e.count(sendq.Report{Accepted: e.room.Publish(p)})
			e.maybeDropped.Add(int64(len(e.members))) // Publish returns only a count
		default:
			e.countOne(e.broker.Send(name, p))
		}
		clear(p)
	}
}

// sendToWriters sends a few messages to Writers.
func (e *episode) sendToWriters(ctx context.Context, rng *rand.Rand, n *sequence) {
	e.throttle(ctx, rng)
	ctx, cancel := context.WithTimeout(ctx, 10*time.Millisecond) // Block may make a write wait
	defer cancel()
	for range 100 {
		w, ok := e.broker.Lookup(pick(rng, e.members...).name)
		if !ok {
			continue
		}
		for range 1 + rng.IntN(4) {
			if p := n.next(nil, rng); rng.IntN(2) == 0 && e.opts.Overflow != sendq.Block {
				e.countOne(w.Send(p))
			} else {
				_, err := w.WriteContext(ctx, p)
				e.countOne(err)
				clear(p)
			}
		}
	}
}

// throttle usually waits until the members that read have little pending.
func (e *episode) throttle(ctx context.Context, rng *rand.Rand) {
	if rng.IntN(50) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	limit := 32 << 10
	if e.opts.MaxPending > 0 {
		limit = min(limit, e.opts.MaxPending/4)
	}
	for _, m := range e.members {
		if at := m.current(); !at.isStalled() && at.w.Err() == nil {
			_ = at.w.WaitPending(ctx, limit)
		}
	}
}

// end ends the Broker by Close or by Shutdown.
func (e *episode) end(rng *rand.Rand) {
	for _, m := range e.members {
		for _, l := range m.sessions {
			l.stall(0)
		}
	}
	if rng.IntN(2) == 0 {
		_ = e.broker.CloseNow()
	} else {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		e.requireDelivered(e.broker.Shutdown(ctx))
	}
	e.ending.Wait()
	for _, m := range e.members {
		for _, l := range m.sessions {
			select {
			case <-l.received:
			case <-time.After(time.Minute):
				e.fault("%s: the peer does not see the end of the connection", m.name)
				return
			}
		}
	}
}

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
