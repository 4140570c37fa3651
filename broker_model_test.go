package sendq_test

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/sendqtest"
)

var brokerSeed = flag.Uint64("brokerseed", 0, "the seed of TestBrokerModel; 0: one by chance")

// TestBrokerModel runs random operations on a Broker from several goroutines. Then it checks what
// holds in any interleaving: the order of messages at each recipient and in each room, also across
// takeovers; the results of the calls; the events; and that ended Writers leave nothing.
func TestBrokerModel(t *testing.T) {
	for _, policy := range []sendq.NamePolicy{sendq.NameReject, sendq.NameTakeover, sendq.NameAttach} {
		t.Run(policy.String(), func(t *testing.T) {
			for range max(1, *modelRuns/20) {
				seed := cmp.Or(*brokerSeed, rand.Uint64())
				synctest.Test(t, func(t *testing.T) {
					defer func() {
						if t.Failed() {
							t.Logf("to make the same choices: -brokerseed %d", seed)
						}
					}()
					runBrokerModel(t, policy, seed)
				})
			}
		})
	}
}

const (
	randomUsers  = 6
	stepsPerUser = 120 // of each

	// The witness keeps its name and is always in the room of history, so it gets every message to
	// that room. Others join that room with a replay, and stay. A replay is older than other
	// messages, so it is checked apart.
	witness = "witness"
	history = "history"

	// All messages of PublishLatest are to this room and of one key, so each member sees them in one
	// order. A member with marks may miss some, and see others before them.
	prices = "prices"

	toHistory = "#" + history
	toPrices  = "#" + prices
	toAll     = "*"
)

var (
	brokerNames = []string{"ann", "bob", "limited"} // the Writers of the last have limits
	brokerRooms = []string{"kitchen", "garden"}
)

// A brokerModel is a Broker and all Writers that ever had a name.
type brokerModel struct {
	policy   sendq.NamePolicy
	broker   *sendq.Broker
	clock    atomic.Int64
	ending   sync.WaitGroup
	returned []string // by OnUndelivered. No lock: its calls must not overlap
	draining bool     // changes while nobody runs

	mu            sync.Mutex
	registrations []*registration
}

// keepNothing is a Keep for which no message is small enough. So Resume passes on only what is not
// written, whatever its count is, and each message has one Writer here too.
const keepNothing = 1

// A registration is a Writer and its one name.
type registration struct {
	name               string
	w                  *sendq.Writer
	conn               *sendqtest.Conn
	release            func() // ends the stall of conn, if there is one
	called, registered int64  // when Register was called, and when it had returned
	unregistered       atomic.Bool
	got                []messageID // what check found, except in history
}

func runBrokerModel(t *testing.T, policy sendq.NamePolicy, seed uint64) {
	m := &brokerModel{policy: policy}
	m.broker = sendq.NewBroker(&sendq.BrokerOptions{
		NamePolicy:     policy,
		ReplayMessages: 5,
		OnUndelivered: func(name string, messages iter.Seq[[]byte], _ error) {
			m.returned = append(m.returned, fmt.Sprint(name, idsOf(messages)))
		},
	})
	rooms := append(brokerRooms[:len(brokerRooms):len(brokerRooms)], history, prices)
	present := watchPresence(t, m.broker)
	for _, name := range append([]string{witness}, brokerNames...) {
		m.register(t, rand.New(rand.NewPCG(seed, randomUsers)), name)
	}
	require.NoError(t, m.broker.Room(history).Join(witness))

	// Each user has its own generator, so its choices depend on the seed alone.
	var rs []*randomUser
	var running sync.WaitGroup
	for i := range randomUsers {
		r := &randomUser{brokerModel: m, t: t, id: i, rng: rand.New(rand.NewPCG(seed, uint64(i)))}
		rs = append(rs, r)
		running.Go(func() {
			for range stepsPerUser {
				r.step()
			}
		})
	}
	running.Wait()
	m.ending.Wait()
	synctest.Wait() // for Writers with failed connections, and for the events
	present.requireEqual(t, m.broker, rooms)

	rng := rand.New(rand.NewPCG(seed, randomUsers))
	drainer := &randomUser{brokerModel: m, t: t, id: len(rs), rng: rng}
	rs = append(rs, drainer)
	if rng.IntN(2) == 0 {
		drainer.drain(rs[:2])
	}
	for _, reg := range m.registrations {
		m.end(reg, rng.IntN(3))
	}
	m.ending.Wait()
	require.Zero(t, m.broker.Len())
	for _, room := range rooms {
		require.Zero(t, m.broker.Room(room).Len())
	}
	synctest.Wait()
	present.requireEqual(t, m.broker, rooms)
	require.NoError(t, m.broker.CloseNow()) // waits for the calls of OnUndelivered
	m.check(t, rs)
}

// register gives name to a new Writer of a random kind.
func (m *brokerModel) register(t *testing.T, rng *rand.Rand, name string) {
	opts := &sendq.WriterOptions{Keep: keepNothing}
	if name == "limited" {
		// With these policies an accepted message is never dropped.
		overflow := pick(rng, []sendq.Overflow{sendq.Disconnect, sendq.Block, sendq.DropNewest})
		opts = &sendq.WriterOptions{Keep: keepNothing, MaxPending: 2000, Overflow: overflow, HighMark: pick(rng, []int{0, 500})}
	}
	conn, release := readingPeer(), func() {}
	if name != witness {
		switch rng.IntN(5) {
		case 0, 1, 2:
			conn.Stall()
			release = sync.OnceFunc(conn.Release)
		case 3:
			conn.FailAfter(rng.IntN(3000), errBroken)
		}
	}
	reg := &registration{name: name, w: sendq.NewWriter(conn, opts), conn: conn, release: release}
	t.Cleanup(func() { reg.w.CloseNow() })
	resumes := m.policy != sendq.NameAttach && name != witness && rng.IntN(3) == 0
	reg.called = m.clock.Add(1)
	var err error
	if resumes {
		if rng.IntN(3) == 0 {
			assert.ErrorIs(t, second(m.broker.Resume(t.Context(), name, reg.w, -1, nil)), sendq.ErrWrongCount)
		}
		_, err = m.broker.Resume(t.Context(), name, reg.w, 0, nil)
	} else {
		err = m.broker.Register(name, reg.w)
	}
	if err != nil {
		switch {
		case errors.Is(err, sendq.ErrClosed): // by Drain
		case resumes:
			assert.NoError(t, err)
		default:
			assert.Equal(t, sendq.NameReject, m.policy)
			assert.ErrorIs(t, err, sendq.ErrNameTaken)
		}
		reg.w.CloseNow()
		return
	}
	reg.registered = m.clock.Add(1)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.registrations = append(m.registrations, reg)
}

// end ends reg in one of three ways, without waiting.
func (m *brokerModel) end(reg *registration, way int) {
	m.ending.Go(func() {
		switch way {
		case 0:
			reg.w.CloseNow()
		case 1:
			reg.release()
			reg.w.Close()
		case 2:
			reg.w.Close() // waits for its bound if conn stalls
		}
	})
}

// A randomUser runs random operations. It is one sender.
type randomUser struct {
	*brokerModel
	t   *testing.T
	id  int
	rng *rand.Rand

	to        []string   // the recipients of each message, by number: names, #room, or all
	calls     []sentCall // except those to history
	inHistory int        // messages accepted in history
}

// A sentCall is one call that sent messages, and its results.
type sentCall struct {
	first, last int            // the numbers, last excluded
	accepted    int            // times a message was accepted
	without     map[string]int // messages refused, by name
}

// Two operations of step.
const opJoinHistory, opPublishHistory = 9, 12

func (r *randomUser) step() {
	name, roomName := pick(r.rng, brokerNames), pick(r.rng, brokerRooms)
	room := r.broker.Room(roomName)
	except, excluded := name, []string(nil)
	if r.rng.IntN(2) == 0 { // the only name that cannot change hands during the call
		except, excluded = witness, []string{witness}
	}
	op := r.rng.IntN(22)
	if r.draining && (op == opJoinHistory || op == opPublishHistory) {
		return // the witness may have ended
	}
	switch op {
	case 0, 1, 2:
		r.register(r.t, r.rng, name)
	case 3:
		r.end(r.anyRegistration(), r.rng.IntN(3))
	case 4:
		r.anyRegistration().release()
	case 5:
		if reg := r.anyRegistration(); r.broker.Unregister(reg.name, reg.w) {
			reg.unregistered.Store(true)
		}
	case 6, 7, 8:
		_ = room.Join(name)
		_ = r.broker.Room(prices).Join(name)
	case opJoinHistory:
		n, _ := r.broker.Room(history).JoinReplay(name, r.rng.IntN(8))
		r.inHistory += n
	case 10, 11:
		room.Leave(name)
	case opPublishHistory:
		r.to = append(r.to, toHistory)
		p := r.frame()
		r.inHistory += r.broker.Room(history).Publish(p)
		clear(p)
	case 13:
		r.send(name, func(p []byte) (int, []string) {
			if r.broker.Send(name, p) != nil {
				return 0, []string{name}
			}
			return 1, nil
		})
	case 14:
		r.send("#"+roomName, func(p []byte) (int, []string) { return room.Publish(p), nil })
	case 15:
		r.send("#"+roomName, func(p []byte) (int, []string) { return room.PublishFrom(except, p), excluded })
	case 16:
		r.send(toAll, func(p []byte) (int, []string) { return r.broker.Broadcast(p), nil })
	case 17:
		r.send(toAll, func(p []byte) (int, []string) { return r.broker.BroadcastFrom(except, p), excluded })
	case 18:
		to := append([]string{"nobody"}, brokerNames[r.rng.IntN(len(brokerNames)):]...)
		r.send(strings.Join(to, " "), func(p []byte) (int, []string) {
			report := r.broker.SendTo(to, p)
			var refused []string
			for _, refusal := range report.Refused {
				refused = append(refused, refusal.Name)
			}
			return report.Accepted, refused
		})
	case 19:
		r.to = append(r.to, toPrices)
		p := r.frame()
		r.broker.Room(prices).PublishLatest("", p)
		clear(p)
	default:
		r.sendBatch()
	}
}

// drain drains the Broker while others go on.
func (r *randomUser) drain(others []*randomUser) {
	const over, steps = time.Minute, 40
	began, calls := time.Now(), 0
	r.draining = true
	for _, other := range others {
		r.ending.Go(func() {
			for range steps {
				other.step()
				time.Sleep(over / steps)
			}
		})
	}
	_ = r.broker.Drain(r.t.Context(), over, func(name string) []byte { // fails if a Writer does not deliver everything
		calls++
		require.Less(r.t, time.Since(began), over)
		r.to = append(r.to, name)
		return r.frame()
	})
	require.Positive(r.t, calls)
	require.Zero(r.t, r.broker.Len())
	require.ErrorIs(r.t, r.broker.Register("late", sendq.NewWriter(readingPeer(), nil)), sendq.ErrClosed)
}

// send calls f with one message, and notes how many accepted it and the names that did not.
func (r *randomUser) send(to string, f func(p []byte) (accepted int, without []string)) {
	first := len(r.to)
	r.to = append(r.to, to)
	p := r.frame()
	accepted, without := f(p)
	clear(p) // it is the caller's again
	s := sentCall{first, len(r.to), accepted, make(map[string]int)}
	for _, name := range without {
		s.without[name]++
	}
	r.calls = append(r.calls, s)
}

// sendBatch sends several messages, often a row of them to the same recipients.
func (r *randomUser) sendBatch() {
	batch := r.broker.NewBatch()
	first := len(r.to)
	for range 1 + r.rng.IntN(4) {
		name, room := pick(r.rng, brokerNames), pick(r.rng, brokerRooms)
		kind := r.rng.IntN(5)
		for range 1 + r.rng.IntN(4) {
			r.to = append(r.to, []string{name, "#" + room, "#" + room, toAll, toAll}[kind])
			p := r.frame()
			switch kind {
			case 0:
				batch.Send(name, p)
			case 1:
				batch.Publish(room, p)
			case 2:
				batch.PublishFrom(room, name, p)
			case 3:
				batch.Broadcast(p)
			case 4:
				batch.BroadcastFrom(name, p)
			}
			clear(p)
		}
	}
	report := batch.Flush()
	s := sentCall{first, len(r.to), report.Accepted, make(map[string]int)}
	for _, refusal := range report.Refused {
		s.without[refusal.Name] += refusal.Messages
	}
	r.calls = append(r.calls, s)
}

// frame returns the next message.
func (r *randomUser) frame() []byte {
	length := r.rng.IntN(100)
	if r.rng.IntN(30) == 0 {
		length = 17_000 // takes another way through the library
	}
	return frame(r.id, len(r.to)-1, length)
}

// anyRegistration returns one of the last registrations: most earlier Writers have ended.
func (r *randomUser) anyRegistration() *registration {
	r.mu.Lock()
	defer r.mu.Unlock()
	registrations := r.registrations[1:] // without that of the witness
	return pick(r.rng, registrations[max(0, len(registrations)-2*len(brokerNames)):])
}

// check accounts for all messages after the Writers have ended.
func (m *brokerModel) check(t *testing.T, rs []*randomUser) {
	returned := make(map[string]int)
	for _, r := range m.returned {
		returned[r]++
	}

	got := make(map[messageID]map[string]int) // by how many Writers of a name
	inHistory, wantInHistory := 0, 0
	var whole []messageID // all of history
	// For each room, and for all: the order of each sender and each recipient.
	orders := make(map[string][][]messageID)
	for _, r := range rs {
		wantInHistory += r.inHistory
		sent := make(map[string][]messageID)
		for number, to := range r.to {
			id := messageID{r.id, number}
			sent[to] = append(sent[to], id)
			got[id] = make(map[string]int)
		}
		for to, ids := range sent {
			orders[to] = append(orders[to], ids)
		}
	}

	for _, reg := range m.registrations {
		ids, undelivered := outcomesOf(t, reg.conn.Bytes(), reg.w.Undelivered(), false)
		s := reg.w.Stats()
		assertConserved(t, s)
		require.EqualValues(t, len(ids), s.Written)
		require.EqualValues(t, len(undelivered), s.Undelivered)
		handedBack := fmt.Sprint(reg.name, undelivered)
		switch {
		case len(undelivered) == 0, reg.unregistered.Load():
		case returned[handedBack] > 0:
			returned[handedBack]--
		default:
			require.NotEqual(t, sendq.NameAttach, m.policy, "neither handed back nor inherited: %v", handedBack)
			undelivered = nil // they must be with another Writer of the name
		}
		arrived := make(map[string][]messageID)
		last := make(map[int]int)
		for _, id := range slices.Concat(ids, undelivered) {
			to := rs[id.sender].to[id.number]
			arrived[to] = append(arrived[to], id)
			if to == toHistory {
				inHistory++
			}
			if to == toHistory || to == toPrices {
				continue
			}
			isForAll := to == toAll || to[0] == '#'
			require.True(t, isForAll || slices.Contains(strings.Fields(to), reg.name), "%s got what was for %s", reg.name, to)
			before, ok := last[id.sender]
			require.True(t, !ok || before < id.number, "from %d, %s got %d before %d", id.sender, reg.name, before, id.number)
			last[id.sender] = id.number
			got[id][reg.name]++
			reg.got = append(reg.got, id)
		}
		all, isLast := slices.Concat(ids, undelivered), func(id messageID) bool { return id.sender == randomUsers }
		if i := slices.IndexFunc(all, isLast); i >= 0 {
			require.Equal(t, len(all)-1, i, "%s got something after the last message", reg.name)
		}
		for to, ids := range arrived {
			orders[to] = append(orders[to], ids)
		}
		if part := arrived[toHistory]; reg.name == witness {
			whole = part
		} else if reg.name != "limited" && m.policy == sendq.NameAttach && len(part) > 0 {
			// In a takeover there may be a gap: messages that the old Writer refused while it was
			// failing.
			i := max(0, slices.Index(whole, part[0]))
			require.Equal(t, whole[i:min(i+len(part), len(whole))], part, "%s: a gap, or a message twice", reg.name)
		}
	}
	for r, n := range returned {
		require.Zero(t, n, "handed back, but delivered too, or not of a Writer that had the name: %s", r)
	}
	for to, lists := range orders {
		if to == toAll || to[0] == '#' {
			require.True(t, oneOrder(lists), "not all see the messages to %s in one same order", to)
		}
	}
	for _, r := range rs {
		r.checkReports(t, got)
	}
	if m.policy != sendq.NameAttach {
		require.Equal(t, wantInHistory, inHistory)
		m.checkSuccession(t, got)
	}
}

// checkReports compares the results of the calls with the messages that arrived.
func (r *randomUser) checkReports(t *testing.T, got map[messageID]map[string]int) {
	for _, s := range r.calls {
		accepted := 0
		missing := make(map[string]int)
		for number := s.first; number < s.last; number++ {
			by := got[messageID{r.id, number}]
			accepted += len(by)
			for name := range s.without {
				if by[name] == 0 {
					missing[name]++
				}
			}
		}
		require.Equal(t, s.accepted, accepted, "messages %d to %d of %d", s.first, s.last, r.id)
		for name, n := range s.without {
			require.LessOrEqual(t, n, missing[name], "messages %d to %d of %d to %s", s.first, s.last, r.id, name)
		}
	}
}

// checkSuccession checks that the Writers of a name, one at a time, got one stream of messages.
// There must be an order of the Writers in which no message comes twice and the messages of each
// sender are in order. It must agree with the known order of registration.
func (m *brokerModel) checkSuccession(t *testing.T, got map[messageID]map[string]int) {
	for id, names := range got {
		for name, times := range names {
			require.Equal(t, 1, times, "%v came to %s more than once", id, name)
		}
	}
	var successions [][]*registration
	type stream struct {
		name   string
		sender int
	}
	holders := make(map[stream]map[int]*registration) // of the messages, by number
	for i, reg := range m.registrations {
		for _, other := range m.registrations[i+1:] {
			switch {
			case reg.name != other.name:
			case reg.registered < other.called:
				successions = append(successions, []*registration{reg, other})
			case other.registered < reg.called:
				successions = append(successions, []*registration{other, reg})
			}
		}
		for _, id := range reg.got {
			s := stream{reg.name, id.sender}
			if holders[s] == nil {
				holders[s] = make(map[int]*registration)
			}
			holders[s][id.number] = reg
		}
	}
	for _, byNumber := range holders {
		var succession []*registration
		for _, number := range slices.Sorted(maps.Keys(byNumber)) {
			succession = append(succession, byNumber[number])
		}
		successions = append(successions, slices.Compact(succession))
	}
	require.True(t, oneOrder(successions), "a sender's messages to a name are not in order")
}

// oneOrder reports whether some order agrees with all lists, by a topological sort. There is none
// if a list contains something twice.
func oneOrder[T comparable](lists [][]T) bool {
	before := make(map[T]int) // number of lists with something just before it
	after := make(map[T][]T)
	for _, list := range lists {
		for i, x := range list {
			before[x] += min(i, 1)
			if i > 0 {
				after[list[i-1]] = append(after[list[i-1]], x)
			}
		}
	}
	var order []T
	for x, n := range before {
		if n == 0 {
			order = append(order, x)
		}
	}
	for i := 0; i < len(order); i++ {
		for _, x := range after[order[i]] {
			if before[x]--; before[x] == 0 {
				order = append(order, x)
			}
		}
	}
	return len(order) == len(before)
}
