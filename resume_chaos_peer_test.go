package sendq_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/sendqtest"
)

const farewellLine = "bye\n"

// A chaosPeer is the ledger of the peer of TestResumeChaos.
type chaosPeer struct {
	count    int            // messages received over all connections
	received map[string]int // for each message, the load after which it came last
	loads    int            // of the state of the program, which has all messages until then
	last     int            // line since the load; -1 if there was none
	price    int            // the last one since the load
	missing  []int          // lines

	// told is how many lines may be missing before the next one, by all answers since the last line;
	// -1 if the number is unknown. An answer at the same count as the one before includes what that
	// one has told, so earlier is what was told before.
	told, earlier int
	answeredAt    int // count at the last answer
}

func newChaosPeer() chaosPeer { return chaosPeer{received: make(map[string]int), loads: 1, last: -1} }

// A chaosConn is a connection of the peer.
type chaosConn struct {
	*sendq.Writer
	broker       *sendq.Broker
	wire         *hookedConn
	count        int          // that the peer has said
	acknowledged int          // messages of this connection
	resumed      func() error // waits for Resume
}

// lines returns the whole lines that have arrived.
func (conn *chaosConn) lines() []string {
	arrived := string(conn.wire.Bytes())
	return slices.Collect(strings.Lines(arrived[:strings.LastIndex(arrived, "\n")+1]))
}

// connect lets the peer come back to any node. The connection may be slow, stall or break.
func (c *chaos) connect() *chaosConn {
	wire := hooked(sendqtest.NewConn())
	pause := time.Duration(c.rng.IntN(3)) * c.upTo(20)
	wire.Enter = func(method string) {
		if method == "Close" {
			time.Sleep(pause)
		}
	}
	switch c.rng.IntN(5) {
	case 0:
		wire.FailAfter(c.rng.IntN(120), errReset)
	case 1:
		wire.Slow(1+c.rng.IntN(20), time.Millisecond)
	case 2:
		wire.Stall()
		time.AfterFunc(c.upTo(50), wire.Release)
	}
	opts := c.writer
	opts.CloseTimeout = time.Millisecond + c.upTo(50)
	if c.by(2) {
		opts.MaxMessages = 1 + c.rng.IntN(10)
	}
	late, patience := time.Duration(0), time.Hour
	if c.late && c.by(3) {
		late = c.upTo(100)
	}
	if c.cancels && c.by(4) {
		patience = c.upTo(60)
	}
	return c.resume(pick(c.rng, c.bs), wire, &opts, late, patience)
}

// resume calls Resume in a goroutine.
func (c *chaos) resume(b *sendq.Broker, wire *hookedConn, opts *sendq.WriterOptions, late, patience time.Duration) *chaosConn {
	conn := &chaosConn{Writer: sendq.NewWriter(wire, opts), broker: b, wire: wire, count: c.peer.count}
	id := len(c.conns)
	c.conns = append(c.conns, conn)
	c.logf("connection %d to node %d: count %d", id, slices.Index(c.bs, b), conn.count)
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	result := async(func() error {
		defer cancel()
		time.Sleep(late)
		resumed, err := b.Resume(ctx, "bob", conn.Writer, int64(conn.count), func(r sendq.Resumed) []byte {
			return fmt.Appendf(nil, "answer %d %d\n", r.Messages, r.Missed)
		})
		c.logf("connection %d: %+v, %v", id, resumed, err)
		if err != nil {
			_ = conn.Fail(io.EOF)
		}
		return err
	})
	conn.resumed = sync.OnceValue(func() error { return <-result })
	return conn
}

// acknowledge lets the peer acknowledge some of the messages that have arrived.
func (c *chaos) acknowledge(conn *chaosConn) {
	lines := conn.lines()
	if len(lines) < 2 || lines[len(lines)-1] == farewellLine {
		return
	}
	n := 1 + c.rng.IntN(len(lines)-1)
	if n <= conn.acknowledged {
		return
	}
	switch err := conn.Acknowledge(int64(conn.count + n)); {
	case err == nil:
		conn.acknowledged = n
	case errors.Is(err, sendq.ErrWrongCount):
		c.fatalf("acknowledge %d: %v", conn.count+n, err)
	}
}

// read lets the peer read what has arrived, or only a part of it with everything that it has acknowledged.
func (c *chaos) read(conn *chaosConn, all bool) {
	lines := conn.lines()
	if len(lines) == 0 || len(lines) == 1 && lines[0] == farewellLine {
		return
	}
	n := len(lines)
	if !all && c.by(2) {
		n = 1 + max(conn.acknowledged, c.rng.IntN(n))
	}
	c.logf("the peer reads %d of %q", n, lines)
	c.takeAnswer(lines[0])
	for _, line := range lines[1:n] {
		c.peer.count++
		if line != farewellLine {
			c.take(line)
		}
	}
}

func (c *chaos) takeAnswer(line string) {
	p := &c.peer
	var messages, missed int
	if _, err := fmt.Sscanf(line, "answer %d %d\n", &messages, &missed); err != nil {
		c.fatalf("%q is no answer", line)
	}
	if c.onlyFailures && !c.late && missed != 0 && len(p.received) > 0 {
		c.fatalf("%d are missing", missed)
	}
	if p.count > p.answeredAt {
		p.earlier, p.answeredAt = p.told, p.count
	}
	if p.told = p.earlier + missed; p.earlier < 0 || missed < 0 {
		p.told = -1
	}
	// A Resume may have come after that of a later connection, so messages come again.
	if missed < 0 && (c.late || len(c.bs) > 1) {
		p.loads++
		p.last, p.price = -1, 0
	}
}

func (c *chaos) take(message string) {
	p := &c.peer
	if p.received[message] == p.loads {
		c.fatalf("%q comes twice", message)
	}
	p.received[message] = p.loads
	var n int
	switch kind, _, _ := strings.Cut(message, " "); kind {
	case "line":
		fmt.Sscanf(message, "line %d\n", &n)
		c.takeLine(n)
	case "price":
		if fmt.Sscanf(message, "price %d\n", &n); n <= p.price {
			c.fatalf("price %d after %d", n, p.price)
		}
		p.price = n
	case "urgent":
	default:
		c.fatalf("nobody has sent %q", message)
	}
}

func (c *chaos) takeLine(n int) {
	p := &c.peer
	var missing []int
	for i := p.last + 1; i < n; i++ {
		if c.lines[i] == nil {
			missing = append(missing, i)
		}
	}
	switch {
	case n <= p.last, n >= len(c.lines):
		c.fatalf("line %d after %d", n, p.last)
	case p.told >= 0 && len(missing) > p.told, p.told > 0 && c.onlyLines && len(missing) != p.told:
		c.fatalf("before line %d, %v are missing, but %d are told", n, missing, p.told)
	}
	p.missing = append(p.missing, missing...)
	p.last, p.told, p.earlier = n, 0, 0
}

// checkLedger checks that the peer has got the last line, and that what it has not got was handed back.
func (c *chaos) checkLedger() {
	if c.peer.last != len(c.lines)-1 {
		c.fatalf("the last line is %d of %d", c.peer.last, len(c.lines))
	}
	time.Sleep(2 * time.Second) // for OnUndelivered
	for _, n := range c.peer.missing {
		line := fmt.Sprintf("line %d\n", n)
		if c.losesNothing && c.peer.received[line] == 0 && c.returned[line] == 0 {
			c.fatalf("line %d is lost: neither received nor handed back", n)
		}
	}
	for message, times := range c.returned {
		if c.onlyFailures || c.losesNothing && times > 1 {
			c.fatalf("%q was handed back %d times", message, times)
		}
	}
}
