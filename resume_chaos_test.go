package sendq_test

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/sendqtest"
)

var (
	chaosLate = flag.Bool("chaoslate", false, "TestResumeChaos lets Resumes come after those of later connections, which may fail: a Resume that is late by two connections can number messages anew")
	chaosRuns = flag.Int("chaosruns", 150, "how many seeds TestResumeChaos tries on three nodes; on one node it tries twice as many")
	chaosSeed = flag.Uint64("chaosseed", 0, "the first seed of TestResumeChaos")
)

// A peer that counts comes back thirty times, to one node or to any of three. Its connections are cut
// anywhere, and it reads only a part of what has arrived. It keeps an exact ledger: nothing comes twice
// or out of order, and an answer has told of each message that is missing. At the end nothing is left.
// A failure prints its seed. It is worth some minutes:
//
//	go test -race -run TestResumeChaos -chaosseed 1000 -chaosruns 5000 .
func TestResumeChaos(t *testing.T) {
	t.Run("one node", func(t *testing.T) {
		for i := range 2 * *chaosRuns {
			synctest.Test(t, func(t *testing.T) {
				c := newChaos(t, *chaosSeed+uint64(i), 1)
				c.run([]*sendq.Broker{sendq.NewBroker(&c.opts)})
			})
		}
	})
	t.Run("three nodes", func(t *testing.T) {
		for i := range *chaosRuns {
			c := newChaos(t, *chaosSeed+uint64(i), 3)
			inCluster(t, 3, c.opts, func(t *testing.T, _ *hub, bs []*sendq.Broker) {
				c.t = t
				c.run(bs)
			})
		}
	})
}

// A chaos is one run of TestResumeChaos.
type chaos struct {
	chaosKind
	t       *testing.T
	seed    uint64
	rng     *rand.Rand
	opts    sendq.BrokerOptions
	bs      []*sendq.Broker
	peer    chaosPeer
	conns   []*chaosConn
	lines   []error // the results of Send
	urgents int
	prices  int

	mu       sync.Mutex
	returned map[string]int // how often OnUndelivered got each message
	trace    []string
}

// A chaosKind says what happens in a run.
type chaosKind struct {
	onlyFailures bool // end connections, so nothing is missing
	losesNothing bool // what the peer does not get, OnUndelivered gets
	onlyLines    bool // are sent, so an answer tells exactly how many are missing
	cancels      bool // some Resumes give up
	late         bool // some Resumes come after that of the next connection
	writer       sendq.WriterOptions
}

func newChaos(t *testing.T, seed uint64, nodes int) *chaos {
	rng := rand.New(rand.NewPCG(seed, 77))
	by := func(n int) bool { return rng.IntN(n) == 0 }
	c := &chaos{t: t, seed: seed, rng: rng, peer: newChaosPeer(), returned: make(map[string]int)}
	c.opts = sendq.BrokerOptions{Linger: time.Hour, NamePolicy: sendq.NamePolicy(rng.IntN(2)), OnUndelivered: c.undelivered}
	c.writer.Keep = 1 << 20
	c.writer.MessageFramed = by(3)
	if by(4) && *chaosLate {
		c.chaosKind = chaosKind{onlyFailures: true, losesNothing: true, onlyLines: true, late: true, writer: c.writer}
		return c
	}
	c.onlyFailures = by(3)
	c.losesNothing = c.onlyFailures || by(2)
	c.onlyLines = by(2)
	c.cancels = !c.onlyFailures && nodes > 1 && by(2)
	if !c.onlyFailures && by(2) {
		c.opts.Linger = time.Duration(5+rng.IntN(60)) * time.Millisecond
	}
	if !c.onlyLines && by(2) {
		c.writer.Farewell = func(error) []byte { return []byte(farewellLine) }
	}
	if by(2) {
		c.writer.HighMark = 100 + rng.IntN(500)
	}
	c.writer.Budget = sendq.NewBudget(16 << 20)
	if !c.losesNothing && by(2) {
		c.writer.Keep = 300 + rng.IntN(3000)
	}
	if !c.losesNothing && by(2) {
		c.writer.Budget = sendq.NewBudget(2000 + rng.IntN(6000))
	}
	return c
}

func (c *chaos) undelivered(_ string, messages iter.Seq[[]byte], cause error) {
	for p := range messages {
		c.logf("handed back %q: %v", p, cause)
		c.mu.Lock()
		c.returned[string(p)]++
		c.mu.Unlock()
	}
}

// upTo returns a random number of milliseconds, less than n.
func (c *chaos) upTo(n int) time.Duration { return time.Duration(c.rng.IntN(n)) * time.Millisecond }

// by reports whether something happens that happens once in n times.
func (c *chaos) by(n int) bool { return c.rng.IntN(n) == 0 }

func (c *chaos) logf(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.trace = append(c.trace, time.Now().Format("05.000: ")+fmt.Sprintf(format, args...))
}

func (c *chaos) fatalf(format string, args ...any) {
	c.t.Helper()
	c.t.Fatalf("seed %d: %s\n%+v\nLinger %v\n%s", c.seed, fmt.Sprintf(format, args...), c.chaosKind, c.opts.Linger, strings.Join(c.trace, "\n"))
}

func (c *chaos) run(bs []*sendq.Broker) {
	c.bs = bs
	defer c.endAll()
	var views []*presence
	for _, b := range bs {
		views = append(views, watchPresence(c.t, b))
	}
	conn := c.connect()
	_ = conn.resumed()
	c.join()
	if len(bs) > 1 {
		settle()
	}
	if c.onlyFailures { // only the first answer says that their number is unknown
		c.read(conn, true)
	}
	for range 30 {
		c.traffic(conn)
		if c.by(4) {
			continue
		}
		if !c.by(3) {
			_ = conn.resumed()
		}
		c.end(conn)
		c.read(conn, false)
		if c.by(3) {
			time.Sleep(c.upTo(80))
		}
		conn = c.connect()
		synctest.Wait()
		if c.by(2) || c.opts.Linger < time.Hour {
			_ = conn.resumed()
			c.join()
		}
	}
	_ = conn.resumed()
	_ = conn.Fail(io.EOF)
	conn.wire.FailAfter(0, errReset)
	c.read(conn, true)
	time.Sleep(10 * time.Second) // until nothing is under way
	c.finish()
	for i, view := range views {
		c.checkNothingLeft(i, view)
	}
	if budget := c.writer.Budget; budget != nil && budget.PendingBytes() != 0 {
		c.fatalf("%d bytes of the Budget are left", budget.PendingBytes())
	}
}

// join makes the name a member of the room, unless the name has left.
func (c *chaos) join() {
	if len(c.bs) == 1 {
		_ = c.bs[0].Room("room").Join("bob")
	}
}

// traffic sends some messages, and lets the peer acknowledge some.
func (c *chaos) traffic(conn *chaosConn) {
	for range c.rng.IntN(8) {
		switch kind := c.rng.IntN(6); {
		case !c.onlyLines && kind == 0:
			c.sendUrgent(conn.broker)
		case !c.onlyLines && kind == 1:
			c.sendPrice(conn.broker)
		default:
			c.sendLine()
		}
		if c.by(3) && !c.late {
			c.acknowledge(conn)
			time.Sleep(c.upTo(3))
		}
	}
	if c.by(2) {
		time.Sleep(c.upTo(30))
	}
}

func (c *chaos) sendLine() {
	n := len(c.lines)
	line := fmt.Appendf(nil, "line %d\n", n)
	var err error
	if len(c.bs) > 1 || c.by(2) {
		err = pick(c.rng, c.bs).Send("bob", line)
	} else if c.bs[0].Room("room").Publish(line) != 1 {
		err = errors.New("no member has accepted it")
	}
	c.logf("line %d: %v", n, err)
	c.lines = append(c.lines, err)
	if err != nil && c.onlyFailures {
		c.fatalf("line %d: %v", n, err)
	}
}

func (c *chaos) sendUrgent(b *sendq.Broker) {
	if w, ok := b.Lookup("bob"); ok {
		c.urgents++
		c.logf("urgent %d: %v", c.urgents, second(w.WriteUrgent(fmt.Appendf(nil, "urgent %d\n", c.urgents))))
	}
}

func (c *chaos) sendPrice(b *sendq.Broker) {
	c.prices++
	price := fmt.Appendf(nil, "price %d\n", c.prices)
	if len(c.bs) == 1 {
		b.Room("room").PublishLatest("price", price)
	} else if w, ok := b.Lookup("bob"); ok {
		_ = second(w.WriteLatest("price", price))
	}
}

// end ends a connection, by a failure or otherwise.
func (c *chaos) end(conn *chaosConn) {
	how := c.rng.IntN(3)
	if !c.onlyFailures && c.by(4) {
		how = 3 + c.rng.IntN(5)
		if c.losesNothing && how > 4 { // what is written or unregistered counts as delivered
			how = 3 + how%2
		}
	}
	c.logf("end %d", how)
	owner, hasOwner := conn.broker.Lookup("bob")
	switch {
	case how == 0:
		go conn.Fail(io.EOF)
		if c.by(2) {
			synctest.Wait()
		}
	case how == 1:
		_ = conn.Fail(io.EOF)
	case how == 3:
		go conn.CloseNow()
	case how == 4 && hasOwner:
		go owner.CloseNow()
	case how == 5:
		go conn.Close()
	case how == 6:
		pick(c.rng, c.bs).Unregister("bob", conn.Writer)
	case how == 7 && hasOwner:
		conn.broker.Unregister("bob", owner)
	}
	conn.wire.FailAfter(0, errReset)
}

// finish lets the peer come back for the last time and get everything. Then all ends.
func (c *chaos) finish() {
	wire := hooked(sendqtest.NewConn())
	conn := c.resume(c.bs[0], wire, &sendq.WriterOptions{Keep: c.writer.Keep}, 0, time.Hour)
	err := conn.resumed()
	isRefused := c.late && errors.Is(err, sendq.ErrWrongCount) // so the peer knows that something is missing
	if err != nil && !isRefused {
		c.fatalf("at the end: %v", err)
	}
	if err == nil {
		c.join()
		settle()
		for range 3 {
			c.sendLine()
		}
		settle()
		if err := conn.Flush(c.t.Context()); err != nil {
			c.fatalf("flush: %v", err)
		}
		c.read(conn, true)
		c.checkLedger()
	}
	c.endAll()
}

func (c *chaos) endAll() {
	for _, b := range c.bs {
		_ = b.CloseNow()
	}
	for _, conn := range c.conns {
		_ = conn.CloseNow()
	}
	time.Sleep(time.Second)
	synctest.Wait()
}

func (c *chaos) checkNothingLeft(node int, view *presence) {
	s := c.bs[node].Stats()
	if s.Away != 0 || s.Names != 0 || s.Writers != 0 || s.Kept != 0 || s.Pending != 0 {
		c.fatalf("node %d: %+v", node, s)
	}
	if assertConserved(c.t, s.WriterStats); c.t.Failed() {
		c.fatalf("node %d", node)
	}
	if view.err != nil || len(view.rooms) > 0 && len(c.bs) == 1 {
		c.fatalf("node %d: %v, %v", node, view.err, view.rooms)
	}
}
