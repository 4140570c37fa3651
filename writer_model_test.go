package sendq_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"iter"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
)

// The operations of FuzzWriter. Each is for a line and has a number.
const (
	opSend = iota // more often than the others
	opSendAgain
	opBurst
	opStall
	opRelease
	opRead
	opFail
	opFlush
	opSleep
	opEnd
	opSendTo
	opFanOut
	opConcurrent
	opTakeover
	opSlowTakeover
	opHistory
	opJoinReplay
	opAlways
	opUrgent
	opCloseWith
	opWriteAll
	opNotify
	opLatest
	opPublishLatest
	opParts
	opCount
)

// The bits of limits, the second byte of an input.
const (
	limitPending = 1 << iota
	limitBudget
	limitTime
	messageFramed
	largeBudget // with limitBudget
	limitMessages
	limitExpire // with limitTime
	farewell
)

// More bits, of the first byte of an input.
const (
	noNetConn = 1 << 6 // the Writers get a StreamConn, or a MessageConn if messageFramed
	withMarks = 1 << 7
)

// With modelMaxPending a write of DropOldest has 512 bytes, so most messages take several writes.
const (
	modelMaxPending  = 4 << 10
	modelMaxMessages = 12
)

// setting returns the first two bytes of an input: an Overflow, a kind of connection, a number of
// lines, and limits.
func setting(overflow sendq.Overflow, kind connKind, lines int, limits byte) []byte {
	return []byte{byte(overflow) | byte(kind)<<2 | byte(lines-1)<<4, limits}
}

// on returns an operation on a line.
func on(line, op int, amount byte) []byte { return []byte{byte(op + line*opCount), amount} }

// FuzzWriter does what the input says to Writers that have names of a Broker, and then
// accounts for each message: it is on the wire, or dropped, or undelivered, exactly once,
// whole and in order, and Stats agrees with the results of the senders' calls. The first two bytes
// are a setting; then each two bytes are an operation.
//
// In memory the clock is that of a bubble. On sockets it is real, so the course of events depends
// on the scheduler too, but the verdict does not.
func FuzzWriter(f *testing.F) {
	for overflow := range sendq.DropOldest + 1 {
		for limits := range byte(16) {
			for kind := range connKindCount {
				if kind != inMemory && limits >= limitTime {
					continue // these take longer
				}
				for _, operations := range [][]byte{
					{opSend, 14, opStall, 0, opBurst, 20, opFlush, 0, opSend, 80, opRelease, 0, opSend, 0, opEnd, 0},
					{opStall, 0, opBurst, 3, opFlush, 1, opBurst, 60, opSleep, 30, opRelease, 0, opBurst, 9},
					{opBurst, 9, opFail, 100, opBurst, 30, opFlush, 1, opSend, 40, opEnd, 1},
					{opStall, 0, opBurst, 40, opFlush, 0, opSleep, 255, opSend, 1, opEnd, 2},
					{opStall, 0, opBurst, 9, opAlways, 30, opParts, 62, opUrgent, 20, opParts, 40, opBurst, 60, opUrgent, 2, opCloseWith, 9, opRelease, 0},
					{opStall, 0, opBurst, 20, opTakeover, 3, opFanOut, 9, opSlowTakeover, 0, opSendTo, 60, opRelease, 0},
				} {
					f.Add(slices.Concat(setting(overflow, kind, 2, limits), operations))
				}
			}
		}
	}
	for _, input := range tearing {
		f.Add(input)
	}
	for overflow := range sendq.DropOldest + 1 {
		for _, limits := range []byte{limitPending, limitPending | messageFramed} {
			input := slices.Concat(setting(overflow, wrappedUnix, 2, limits),
				[]byte{opStall, 0, opBurst, 20, opTakeover, 3, opUrgent, 9, opSlowTakeover, 0, opBurst, 60, opRelease, 0, opEnd, 0})
			input[0] |= noNetConn
			f.Add(input)
		}
		f.Add(slices.Concat(setting(overflow, inMemory, 2, limitMessages|limitTime|limitExpire|farewell),
			[]byte{opStall, 0, opBurst, 9, opAlways, 9, opSleep, 50, opUrgent, 9, opSleep, 50, opBurst, 30, opRelease, 0}))
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		if len(input) >= 2 {
			modelOf(t, input[:min(len(input), 202)])
		}
	})
}

// tearing holds inputs that once tore messages: DropOldest dropped a message partly on the
// connection, because no write was in progress.
var tearing = map[string][]byte{
	// The sender's own try has written a part, and the flusher has not run yet.
	"try": slices.Concat(setting(sendq.DropOldest, plainUnix, 1, limitPending), slices.Repeat(slices.Concat(
		slices.Repeat(on(0, opSend, 150), 5), on(0, opRead, 255), on(0, opSleep, 200)), 14)),
	// The same with the try of a fan-out.
	"fan-out": slices.Concat(setting(sendq.DropOldest, plainUnix, 4, limitPending), slices.Repeat(slices.Concat(
		on(0, opFanOut, 144), slices.Repeat(on(0, opFanOut, 153), 4),
		on(0, opRelease, 0), on(1, opRelease, 0), on(2, opRelease, 0), on(3, opRelease, 0), on(0, opSleep, 255)), 10)),
	// A takeover holds the flusher.
	"takeover": slices.Concat(setting(sendq.DropOldest, wrappedUnix, 1, limitPending), slices.Repeat(slices.Concat(
		on(0, opTakeover, 0), on(0, opSlowTakeover, 150), slices.Repeat(on(0, opSend, 150), 4),
		on(0, opRelease, 0), on(0, opSleep, 255)), 12)),
	// Many senders send while the peer reads.
	"traffic": slices.Concat(setting(sendq.DropOldest, plainUnix, 1, limitPending),
		slices.Repeat(on(0, opConcurrent, 63), 3), slices.Repeat(slices.Concat(
			on(0, opSend, 150), on(0, opRead, 200), on(0, opSleep, 10)), 32)),
}

// TestNeverTearsOnSockets runs each input of tearing several times, because it depends on the
// scheduler.
func TestNeverTearsOnSockets(t *testing.T) {
	for name, input := range tearing {
		t.Run(name, func(t *testing.T) {
			for range 20 {
				modelOf(t, input)
			}
		})
	}
}

var modelRuns = flag.Int("modelruns", 60, "how many inputs TestWriterModel tries; TestBrokerModel tries a twentieth with each policy")

// TestWriterModel is FuzzWriter with random inputs. A thousand take a minute:
//
//	go test -run TestWriterModel -modelruns 1000000 -timeout 0 .
func TestWriterModel(t *testing.T) {
	for range *modelRuns {
		seed := rand.Uint64()
		rng := rand.New(rand.NewPCG(seed, 0))
		input := setting(pick(rng, []sendq.Overflow{sendq.Disconnect, sendq.Block, sendq.DropNewest, sendq.DropOldest, sendq.DropOldest}),
			pick(rng, []connKind{inMemory, plainUnix, plainUnix, plainTCP, wrappedUnix, wrappedUnix}), 1+rng.IntN(4), byte(rng.Uint32()&rng.Uint32()|limitPending&rng.Uint32()))
		input[0] |= byte(rng.Uint32()) & withMarks
		input[0] |= byte(rng.Uint32()&rng.Uint32()) & noNetConn
		for range 20 + rng.IntN(80) {
			input = append(input, byte(rng.IntN(4*opCount)), byte(rng.IntN(256)))
		}
		if !t.Run("", func(t *testing.T) {
			t.Logf("the input is %#v", input)
			modelOf(t, input)
		}) {
			return
		}
	}
}

// modelOf runs the model with an input, in a bubble if it uses no sockets.
func modelOf(t *testing.T, input []byte) {
	if connKind(input[0]>>2)%connKindCount != inMemory {
		runModel(t, input)
		return
	}
	synctest.Test(t, func(t *testing.T) { runModel(t, input) })
}

// A model is a Broker, its Writers, and a record of all messages.
type model struct {
	t             testing.TB
	kind          connKind
	opts          *sendq.WriterOptions
	convert       func(net.Conn) net.Conn // as in newModelConn
	blockTimeout  time.Duration           // of a sender that waits for room
	broker        *sendq.Broker
	lines         []*line
	senders       []*sender
	historySender *sender // to the room of history alone
	farewell      []byte  // of each Writer that a limit ends, or nil
	latestSender  *sender // by PublishLatest, of one key
	flushes       []<-chan error
	concurrent    sync.WaitGroup // senders in goroutines of their own
	noticing      sync.WaitGroup // calls of OnFlushed and WriteNotify to come

	mu       sync.Mutex
	returned map[string]int         // how often OnUndelivered got the name with these messages
	slow     map[*sendq.Writer]bool // as OnPressure has told
}

// A line is a name and its Writers, one after the other.
type line struct {
	name    string
	writers []*modelWriter
	joined  bool         // the room of history
	empty   atomic.Int64 // messages accepted without bytes, so they cannot be seen on the wire
}

// A modelWriter is a Writer and its connection.
type modelWriter struct {
	*modelConn
	w          *sendq.Writer
	registered <-chan error        // brings one value, and is closed
	refused    error               // the result of Register
	urgent     *sender             // of urgent messages to w
	urgents    []urgentSend        // in memory, those accepted
	last       *messageID          // of CloseWith
	notices    map[messageID]error // outcomes by WriteNotify; model.mu guards it
	latest     [3]*sender          // of messages to w by WriteLatest, by key
}

// current returns the last Writer.
func (l *line) current() *modelWriter { return l.writers[len(l.writers)-1] }

// All names are in modelRoom. They join modelHistory once, by JoinReplay.
const modelRoom, modelHistory = "room", "history"

func runModel(t testing.TB, input []byte) {
	limits := input[1]
	m := &model{
		t:            t,
		kind:         connKind(input[0]>>2) % connKindCount,
		opts:         &sendq.WriterOptions{Overflow: sendq.Overflow(input[0] & 3), MessageFramed: limits&messageFramed != 0},
		returned:     make(map[string]int),
		slow:         make(map[*sendq.Writer]bool),
		blockTimeout: time.Second,
	}
	if m.kind != inMemory {
		m.blockTimeout = 50 * time.Microsecond
		m.opts.CloseTimeout = time.Hour // no verdict depends on the time
	}
	if limits&limitPending != 0 {
		m.opts.MaxPending = modelMaxPending
	}
	if limits&limitMessages != 0 {
		m.opts.MaxMessages = modelMaxMessages
	}
	budget := 3 * modelMaxPending
	if limits&largeBudget != 0 {
		budget *= 8
	}
	if limits&limitBudget != 0 {
		m.opts.Budget = sendq.NewBudget(budget)
	}
	if limits&limitTime != 0 {
		m.opts.MaxAge, m.opts.WriteTimeout = time.Minute, 30*time.Second
		if m.kind != inMemory {
			m.opts.MaxAge, m.opts.WriteTimeout = time.Hour, time.Hour
		}
		if m.opts.Expire = limits&limitExpire != 0; m.opts.Expire && m.kind != inMemory {
			m.opts.MaxAge = time.Millisecond
		}
	}
	if input[0]&withMarks != 0 {
		m.opts.HighMark, m.opts.LowMark = modelMaxPending/4, modelMaxPending/16
		m.opts.OnPressure = m.onPressure
	}
	if isFramed := m.opts.MessageFramed; input[0]&noNetConn != 0 && isFramed {
		m.opts.MessageFramed = false // implied
		m.convert = func(c net.Conn) net.Conn {
			return sendq.MessageConn(func(p []byte) error { return second(c.Write(p)) }, c.Close)
		}
	} else if input[0]&noNetConn != 0 {
		m.convert = func(c net.Conn) net.Conn { return sendq.StreamConn(c) }
	}
	m.broker = sendq.NewBroker(&sendq.BrokerOptions{
		NamePolicy:     sendq.NameTakeover,
		ReplayMessages: 20,
		OnUndelivered: func(name string, messages iter.Seq[[]byte], _ error) {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.returned[fmt.Sprint(name, idsOf(messages))]++
		},
	})
	for i := range 1 + int(input[0]>>4)%4 {
		m.lines = append(m.lines, &line{name: string(rune('A' + i))})
	}
	me := m.newSender()
	m.historySender = m.newSender()
	if limits&farewell != 0 {
		m.farewell = frame(m.newSender().id, 0, 50)
		m.opts.Farewell = func(error) []byte { return m.farewell }
	}
	m.latestSender = m.newSender()
	for i := range m.lines {
		m.takeOver(i, 0, false)
	}
	for operations := input[2:]; len(operations) >= 2; operations = operations[2:] {
		m.do(me, int(operations[0]), int(operations[1]))
		for _, l := range m.lines {
			m.checkStats(l)
		}
		if m.opts.Budget != nil {
			pending := m.opts.Budget.PendingBytes()
			require.True(t, 0 <= pending && pending <= budget, "%d of the Budget's %d", pending, budget)
		}
	}
	m.end()
	m.check()
}

// checkStats checks the figures of the current Writer.
func (m *model) checkStats(l *line) {
	s := l.current().w.Stats()
	assertConserved(m.t, s)
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

// do runs one operation.
func (m *model) do(me *sender, op, amount int) {
	i := op / opCount % len(m.lines)
	l := m.lines[i]
	at := l.current()
	switch op % opCount {
	case opSend, opSendAgain:
		me.send(i, at, amount)
	case opBurst:
		for j := range amount {
			me.send(i, at, j%7*10)
		}
	case opStall:
		at.stall()
	case opRelease:
		for _, mw := range l.writers {
			mw.release()
		}
	case opRead:
		at.read(amount * 16)
	case opFail:
		m.settle()
		at.fail(amount)
	case opFlush:
		if amount%2 == 0 {
			m.settle()
		}
		if amount%4 == 3 {
			m.flushes = append(m.flushes, async(func() error {
				_ = at.w.WaitPending(context.Background(), amount*8) // fails if the Writer ends
				return nil
			}))
			break
		}
		before := at.w.Stats()
		if amount%4 == 1 {
			m.noticing.Add(1)
			at.w.OnFlushed(func(err error) {
				defer m.noticing.Done()
				if after := at.w.Stats(); err == nil && after.Written+after.Dropped < before.Accepted {
					m.t.Error("OnFlushed told of success, but not all before it has its outcome")
				}
			})
			break
		}
		m.flushes = append(m.flushes, async(func() error {
			err := at.w.Flush(context.Background())
			after := at.w.Stats()
			if err == nil && after.Written+after.Dropped < before.Accepted {
				return errors.New("Flush told of success, but not all before it has its outcome")
			}
			return nil
		}))
	case opSleep:
		if m.kind == inMemory {
			time.Sleep(time.Duration(amount) * time.Second)
		} else {
			time.Sleep(time.Duration(amount) * time.Microsecond)
		}
	case opEnd:
		switch amount % 3 {
		case 0:
			m.concurrent.Go(func() {
				if err := at.w.Close(); err != nil && at.w.Err() == nil {
					m.t.Errorf("Close fails without a cause: %v", err)
				}
			})
		case 1:
			m.concurrent.Go(func() { at.w.CloseNow() })
		case 2:
			m.concurrent.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(amount)*m.blockTimeout)
				defer cancel()
				_ = at.w.Shutdown(ctx)
			})
		}
		m.settle()
	case opSendTo:
		me.sendTo(amount)
	case opNotify:
		if m.opts.Overflow == sendq.Block { // it may wait
			s := m.newSender()
			m.concurrent.Go(func() { s.writeNotify(i, at, amount) })
		} else {
			me.writeNotify(i, at, amount)
		}
	case opLatest:
		if key := amount % len(at.latest); m.opts.Overflow == sendq.Block { // it may wait
			s := m.newSender()
			m.concurrent.Go(func() { s.writeLatest(i, at, fmt.Sprint("alone ", s.id), amount) })
		} else {
			at.latest[key].writeLatest(i, at, fmt.Sprint(key), amount)
		}
	case opPublishLatest:
		m.latestSender.publishLatest(amount)
	case opParts:
		if m.opts.Overflow == sendq.Block { // it may wait
			s := m.newSender()
			m.concurrent.Go(func() { s.writeParts(i, at, amount) })
		} else {
			me.writeParts(i, at, amount)
		}
	case opWriteAll:
		me.writeAll(amount)
	case opFanOut:
		if amount&8 != 0 {
			me.fanOut(1+amount%9, amount, (*sendq.Batch).Broadcast)
		} else {
			me.fanOut(1+amount%9, amount, func(b *sendq.Batch, p []byte) { b.Publish(modelRoom, p) })
		}
	case opHistory:
		m.historySender.fanOut(1+amount%9, amount, func(b *sendq.Batch, p []byte) { b.Publish(modelHistory, p) })
	case opJoinReplay:
		if !l.joined {
			l.joined = m.historySender.joinReplay(i, amount%32)
		}
	case opConcurrent:
		s := m.newSender()
		direct := amount&64 != 0
		m.concurrent.Go(func() {
			for j := range 1 + amount%64 {
				if length := (amount + j*71) % 256; direct && j%5 == 4 {
					s.sendAlways(i, at, length)
				} else if direct {
					s.sendDirect(i, at, length)
				} else {
					s.sendNamed(i, length)
				}
			}
		})
	case opAlways:
		if m.opts.Overflow != sendq.Block {
			me.sendAlways(i, at, amount)
			break
		}
		s := m.newSender()
		m.concurrent.Go(func() { s.sendAlways(i, at, amount) })
	case opUrgent:
		m.settle()
		for range 1 + amount%3 {
			at.urgent.sendUrgent(i, at, amount)
		}
	case opCloseWith:
		m.newSender().closeWith(i, at, amount)
	case opTakeover:
		m.takeOver(i, amount, false)
	case opSlowTakeover:
		m.takeOver(i, amount, true)
	}
}

// settle lets others run: in memory until all wait, on sockets for a moment.
func (m *model) settle() {
	if m.kind == inMemory {
		synctest.Wait()
	} else {
		time.Sleep(20 * time.Microsecond)
	}
}

// takeOver gives line i a new Writer. If amount is not 0, the Writer gets a message first. If slow
// is true, the old Writer's connection does not close until it is released.
func (m *model) takeOver(i, amount int, slow bool) {
	l := m.lines[i]
	next := &modelWriter{modelConn: newModelConn(m.t, m.kind, len(l.writers)%2 > 0, m.convert), notices: make(map[messageID]error)}
	next.w = sendq.NewWriter(next.conn, m.opts)
	next.urgent = m.newSender()
	for key := range next.latest {
		next.latest[key] = m.newSender()
	}
	if amount > 0 {
		m.newSender().sendDirect(i, next, amount)
	}
	if len(l.writers) > 0 {
		for _, mw := range l.writers {
			mw.letClose()
		}
		within(m.t, l.current().registered) // one takeover at a time
		if slow {
			l.current().holdClose()
		}
	}
	registered := make(chan error, 1)
	next.registered = registered
	go func() {
		defer close(registered)
		next.refused = m.broker.Register(l.name, next.w)
		if next.refused == nil {
			_ = m.broker.Room(modelRoom).Join(l.name) // unless it has ended
		}
		registered <- next.refused
	}()
	for deadline := time.Now().Add(time.Minute); ; {
		if w, _ := m.broker.Lookup(l.name); w == next.w || len(registered) > 0 || next.w.Err() != nil {
			break
		}
		require.True(m.t, time.Now().Before(deadline), "Register does not begin")
		time.Sleep(5 * time.Microsecond)
	}
	l.writers = append(l.writers, next)
}

// end releases and waits for everything, and ends all Writers.
func (m *model) end() {
	for _, l := range m.lines {
		for _, mw := range l.writers {
			mw.release()
		}
		for _, mw := range l.writers {
			within(m.t, mw.registered)
		}
	}
	within(m.t, async(func() bool { m.concurrent.Wait(); return true }))
	for _, l := range m.lines {
		for _, mw := range l.writers {
			within(m.t, async(func() error { return mw.w.Flush(context.Background()) }))
		}
	}
	if m.opts.Budget != nil {
		require.Zero(m.t, m.opts.Budget.PendingBytes(), "nothing is pending, and Writers live")
	}
	for _, l := range m.lines {
		for _, mw := range l.writers {
			within(m.t, async(mw.w.CloseNow)) // nothing is left for it to discard
		}
	}
	for _, flushed := range m.flushes {
		require.NoError(m.t, within(m.t, flushed))
	}
	within(m.t, async(func() bool { m.noticing.Wait(); return true }))
	within(m.t, async(m.broker.CloseNow)) // waits for the calls of OnUndelivered
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

// checkLine accounts for the messages of each Writer of a line.
func (m *model) checkLine(l *line) (f final, dropped int, lossy bool) {
	t := m.t
	type outcome struct{ arrived, undelivered, final, bound []messageID }
	outcomes := make([]outcome, len(l.writers))
	inherits := false // a later Writer has the name
	for i, mw := range slices.Backward(l.writers) {
		var o outcome
		wire := m.withoutFarewell(mw, mw.arrived(t))
		o.arrived, o.undelivered = outcomesOf(t, wire, mw.w.Undelivered(), mw.lossy)
		m.checkUrgent(mw, wire)
		if all := slices.Concat(o.arrived, o.undelivered); mw.last != nil && !mw.lossy {
			require.Equal(t, *mw.last, all[len(all)-1])
		}
		mw.checkNotices(t, o.arrived, o.undelivered)
		key := fmt.Sprint(l.name, o.undelivered)
		switch {
		case len(o.undelivered) == 0:
		case mw.refused != nil:
			o.final = o.undelivered
		case m.returned[key] > 0:
			if m.returned[key]--; m.returned[key] == 0 {
				delete(m.returned, key)
			}
			o.final = o.undelivered
		default:
			require.True(t, inherits, "neither handed back nor inherited: %s", key)
			for _, id := range o.undelivered {
				if id.sender == mw.urgent.id || mw.last != nil && id == *mw.last {
					o.bound = append(o.bound, id)
				}
			}
		}
		inherits = inherits || mw.refused == nil
		outcomes[i] = o
	}
	f.numbers, f.bound = make(map[int][]int), make(map[int][]int)
	own, inherited := 0, 0
	for i, mw := range l.writers {
		o, s := outcomes[i], mw.w.Stats()
		assertConserved(t, s)
		require.Zero(t, s.Pending)
		require.EqualValues(t, len(o.undelivered), s.Undelivered)
		if mw.lossy {
			lossy = true
			require.GreaterOrEqual(t, s.Written, int64(len(o.arrived)))
		} else {
			empty := s.Written - int64(len(o.arrived))
			require.True(t, 0 <= empty && empty <= l.empty.Load(), "%d written, %d arrived", s.Written, len(o.arrived))
		}
		for _, id := range slices.Concat(o.arrived, o.final) {
			f.numbers[id.sender] = append(f.numbers[id.sender], id.number)
		}
		for _, id := range o.bound {
			f.bound[id.sender] = append(f.bound[id.sender], id.number)
		}
		f.count += int(s.Written) + len(o.final) + len(o.bound)
		own += int(s.Accepted)
		dropped += int(s.Dropped)
		if len(o.final) == 0 {
			inherited += len(o.undelivered) - len(o.bound)
		}
		require.Error(t, mw.conn.Close(), "the Writer has closed it")
	}
	require.Equal(t, own-inherited, f.count+dropped, "a Writer has not got what another has left")
	return f, dropped, lossy
}

// checkUrgent checks that only messages begun before, and urgent ones, precede an urgent message.
func (m *model) checkUrgent(mw *modelWriter, wire []byte) {
	urgent := make(map[int]bool) // by sender
	for _, l := range m.lines {
		for _, mw := range l.writers {
			urgent[mw.urgent.id] = true
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
