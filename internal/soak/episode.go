package main

import (
	"context"
	"fmt"
	"iter"
	"math/rand/v2"
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
