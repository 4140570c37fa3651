package sendq_test

import (
	"context"
	"fmt"
	"iter"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
)

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
	peerCount                      // of the messages received
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
	m.opts.Keep = keeps[int(input[2])%len(keeps)]
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
	for operations := input[settings:]; len(operations) >= 2; operations = operations[2:] {
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

// settle lets others run: in memory until all wait, on sockets for a moment.
func (m *model) settle() {
	if m.kind == inMemory {
		synctest.Wait()
	} else {
		time.Sleep(20 * time.Microsecond)
	}
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
		m.acknowledgeAll()
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
	if m.opts.Budget != nil {
		require.Zero(m.t, m.opts.Budget.PendingBytes(), "all have ended")
	}
}
