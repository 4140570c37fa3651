package promsendq_test

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/natsrelay"
	"github.com/sendq-go/sendq/promsendq"
	"github.com/sendq-go/sendq/promsendq/internal/lab"
	"github.com/sendq-go/sendq/promsendq/promnatsrelay"
)

// A real Prometheus shows on the dashboard what a program with a Broker and one with a Tally know.
func TestDashboardShowsWritersAndBrokers(t *testing.T) {
	broker := sendq.NewBroker(&sendq.BrokerOptions{NamePolicy: sendq.NameTakeover})
	tally, others := new(sendq.Tally), sendq.NewBroker(nil)
	defer broker.CloseNow()
	defer others.CloseNow()
	p := startScraping(t, map[source]prometheus.Collector{
		{"sendq", "a"}:            promsendq.NewBrokerCollector(broker),
		{"sendq", "b"}:            promsendq.NewTallyCollector(tally),
		{"sendq", "not selected"}: promsendq.NewBrokerCollector(others),
		{"other program", "a"}:    promsendq.NewTallyCollector(tally),
		{"other program", "c"}:    promsendq.NewTallyCollector(tally),
	})
	started := time.Now()
	var writes atomic.Int64
	sendToWriters(t, broker, tally, &writes)
	require.NoError(t, others.Register("somebody", sendq.NewWriter(conn{}, nil)))
	require.Equal(t, 1, others.Broadcast(make([]byte, 12_345)))
	dropping := sendq.NewWriter(stalled(t), &sendq.WriterOptions{MaxPending: 64 + 4, Overflow: sendq.DropNewest})
	require.NoError(t, others.Register("stalled", dropping))
	for range 200 {
		dropping.WriteString("lost")
	}
	lab.WaitFor(t, func() bool {
		b, t := broker.Stats(), tally.Stats()
		return b.Pending == 3 && t.Pending == 1 && b.Writes+t.Writes == writes.Load()
	})

	p.settle(t)
	age := between(0.1, time.Since(started).Seconds())
	p.requireShown(t, panelsOfWriters, map[string]values{
		"Writers":                {"": exactly(22 + 2)},
		"Names":                  {"all": exactly(22), "away": exactly(0)},
		"Rooms":                  {"": exactly(2)},
		"Pending messages":       {"": exactly(3 + 1)},
		"Pending bytes":          {"": exactly(3*4 + 1000)},
		"Oldest pending message": {"": age},
		"Messages": rates(map[string]float64{"accepted": 8 + 3 + 20 + 5 + 6,
			"written": 4 + 20 + 1 + 5, "dropped": 1, "undelivered": 3 + 4}),
		"Bytes": rates(map[string]float64{"accepted": 8*4 + 3*4 + 20*2 + 5*5 + 5*7 + 1000,
			"written": 4*4 + 20*2 + 5 + 5*7, "dropped": 4, "undelivered": 3*4 + 4*5}),
		"Backlog":            {"pending": exactly(3*4 + 1000), "peak of one Writer": exactly(1000), "kept for peers that come back": exactly(0)},
		"Age of the backlog": {"a": age, "b": age},
		"Messages lost": rates(map[string]float64{"dropped": 1,
			"delivered": 0, "closed": 1, "expired": 1, "slow_consumer": 1, "failed": 1}),
		"Bytes undelivered": rates(map[string]float64{
			"delivered": 0, "closed": 5, "expired": 5, "slow_consumer": 5, "failed": 5, "taken_over": 3 * 4}),
		"Ends of Writers": rates(map[string]float64{
			"delivered": 1, "closed": 1, "expired": 1, "slow_consumer": 1, "failed": 1, "taken_over": 1}),
		"Messages per write":      {"messages per write": exactly((4 + 20 + 1 + 5) / float64(writes.Load()))},
		"Fan-outs":                rates(map[string]float64{"messages": 4 + 1, "recipients": 4*2 + 20}),
		"Recipients of a fan-out": {"median": exactly(2), "99th percentile": between(20/1.5, 20*1.5), "mean": exactly(28.0 / 5)},
	})
	p.requireVariables(t, map[string][]string{
		"job":      {"other program", "sendq"},
		"instance": {"a", "b", "not selected"},
	})
	require.Contains(t, p.alerts(t), "SendqMessagesLost")
}

// sendToWriters makes known traffic, with an end of each cause, and counts the writes to connections.
func sendToWriters(t *testing.T, broker *sendq.Broker, tally *sendq.Tally, writes *atomic.Int64) {
	t.Helper()
	register := func(name string, conn net.Conn, opts *sendq.WriterOptions) *sendq.Writer {
		w := sendq.NewWriter(counted{conn, writes}, opts)
		require.NoError(t, broker.Register(name, w))
		return w
	}
	two := broker.Room("two")
	register("alice", conn{}, nil)
	atMostThree := &sendq.WriterOptions{MaxPending: 3 * (64 + 4), Overflow: sendq.DropNewest}
	register("bob", stalled(t), atMostThree)
	require.NoError(t, two.Join("alice"))
	require.NoError(t, two.Join("bob"))
	for range 4 {
		two.Publish([]byte("four")) // bob drops the last one
	}
	register("bob", stalled(t), atMostThree) // takes three over
	for i := range 20 {
		name := fmt.Sprint("member ", i)
		register(name, conn{}, nil)
		require.NoError(t, broker.Room("many").Join(name))
	}
	broker.Room("many").Publish([]byte("to"))

	// A Writer for each other cause of an end. Each has accepted one message.
	for name, test := range map[string]struct {
		conn net.Conn
		opts *sendq.WriterOptions
		end  func(*sendq.Writer)
	}{
		"delivered": {conn{}, nil, func(w *sendq.Writer) { assert.NoError(t, w.Close()) }},
		"closed":    {stalled(t), nil, func(w *sendq.Writer) { w.CloseNow() }},
		"expired":   {stalled(t), &sendq.WriterOptions{CloseTimeout: time.Millisecond}, func(w *sendq.Writer) { w.Close() }},
		"slow_consumer": {stalled(t), &sendq.WriterOptions{MaxPending: 64 + 5}, func(w *sendq.Writer) {
			_, err := w.WriteString("x")
			assert.ErrorIs(t, err, sendq.ErrSlowConsumer)
		}},
		"failed": {failing{}, nil, func(*sendq.Writer) {}},
	} {
		w := register(name, test.conn, test.opts)
		require.NoError(t, broker.Send(name, []byte("12345")))
		test.end(w)
		<-w.Done()
	}

	for _, test := range []struct {
		conn     net.Conn
		messages int
		size     int
	}{{conn{}, 5, 7}, {stalled(t), 1, 1000}} {
		w := sendq.NewWriter(counted{test.conn, writes}, nil)
		tally.Add(w)
		t.Cleanup(func() { w.CloseNow() })
		for range test.messages {
			w.Write(make([]byte, test.size))
		}
	}
}

// The same of three nodes of a cluster, after a fourth one was killed, one has missed messages, and
// one is behind.
func TestDashboardShowsRelays(t *testing.T) {
	nats := lab.StartNATS(t)
	opts := natsrelay.Options{Lease: 5 * time.Second, MaxQueuedBytes: 5000}
	nodes := make([]*lab.Node, 4)
	for i := range nodes {
		nodes[i] = lab.StartNode(t, nats, opts)
	}
	a, behind, cut, killed := nodes[0], nodes[1], nodes[2], nodes[3]
	reachesWithEmptyQueues := func(n *lab.Node, others ...*lab.Node) func() bool {
		return func() bool {
			reachable := 0
			for id, o := range n.Relay.Stats().Nodes {
				isOther := slices.ContainsFunc(others, func(other *lab.Node) bool { return other.ID() == id })
				if isOther && !o.Gone && o.QueuedBytes == 0 {
					reachable++
				}
			}
			return reachable == len(others)
		}
	}
	for _, n := range nodes[1:] {
		name := n.ID()
		conn, _ := net.Pipe()
		require.NoError(t, n.Register(name, sendq.NewWriter(conn, nil)))
		require.NoError(t, n.Room("room of "+name).Join(name))
		lab.WaitFor(t, func() bool { return a.Room("room of " + name).Has(name) })
	}
	publish := func(to *lab.Node, messages, size int) {
		for range messages {
			a.Room("room of " + to.ID()).Publish(make([]byte, size))
		}
	}
	p := startScraping(t, map[source]prometheus.Collector{
		{"sendq", "a"}:      promnatsrelay.NewCollector(a.Relay),
		{"sendq", "behind"}: promnatsrelay.NewCollector(behind.Relay),
		{"sendq", "cut"}:    promnatsrelay.NewCollector(cut.Relay),
	})

	publish(behind, 4, 10)
	lab.WaitFor(t, func() bool { return behind.Relay.Stats().Received == 4 })
	killed.Cable.Cut()
	publish(killed, 2, 10)
	cut.Cable.Cut()
	publish(cut, 5, 10)
	lab.WaitFor(t, func() bool { return a.Relay.Stats().Abandoned == 2+5 })
	cut.Cable.Restore()
	lab.WaitFor(t, func() bool { return cut.Relay.Stats().Missed == 5 })
	lab.WaitFor(t, reachesWithEmptyQueues(a, behind, cut))
	lab.WaitFor(t, reachesWithEmptyQueues(behind, a, cut))
	lab.WaitFor(t, reachesWithEmptyQueues(cut, a, behind))
	behind.Busy.Lock()
	defer behind.Busy.Unlock()
	publish(behind, 10, 1000)
	stats := a.Relay.Stats()
	require.EqualValues(t, 4+2+5+10, stats.Posted+stats.Dropped)
	require.Positive(t, stats.Dropped)

	p.settle(t)
	p.requireShown(t, panelsOfRelays, map[string]values{
		"Nodes": {"a: reachable": exactly(2), "behind: reachable": exactly(2), "cut: reachable": exactly(2),
			"a: NATS": exactly(1), "behind: NATS": exactly(1), "cut: NATS": exactly(1)},
		"Queues for other nodes": {a.ID(): exactly(0), behind.ID(): between(5000, 7000), cut.ID(): exactly(0)},
		"Messages between nodes": rates(map[string]float64{"posted": float64(stats.Posted), "received": 4}),
		"Messages lost between nodes": rates(map[string]float64{"dropped": float64(stats.Dropped), "abandoned": 2 + 5,
			"missed": 5, "malformed": 0}),
		"Names of the nodes": {"a": exactly(0), "behind": exactly(1), "cut": exactly(1)},
		"Nodes gone":         {"a: " + a.ID(): exactly(1), "behind: " + behind.ID(): exactly(1), "cut: " + cut.ID(): exactly(1)},
	})
	require.Contains(t, p.alerts(t), "SendqRelayMessagesLost")
}

// Nodes that are stopped one after the other cause no alert, while another one publishes to their room.
func TestRollingStopCausesNoAlert(t *testing.T) {
	nats := lab.StartNATS(t)
	opts := natsrelay.Options{Lease: 2 * time.Second}
	a := lab.StartNode(t, nats, opts)
	nodes := make([]*lab.Node, 4)
	for i := range nodes {
		n := lab.StartNode(t, nats, opts)
		nodes[i] = n
		require.NoError(t, n.Register(n.ID(), sendq.NewWriter(conn{}, nil)))
		require.NoError(t, n.Room("room").Join(n.ID()))
		lab.WaitFor(t, func() bool { return a.Room("room").Has(n.ID()) })
	}
	p := startScraping(t, map[source]prometheus.Collector{{"sendq", "a"}: promnatsrelay.NewCollector(a.Relay)})
	var over atomic.Bool
	var publisher sync.WaitGroup
	publisher.Go(func() {
		for !over.Load() {
			a.Room("room").Publish([]byte("hi"))
			time.Sleep(10 * time.Microsecond)
		}
	})
	for _, n := range nodes {
		require.NoError(t, n.Shutdown(t.Context()))
	}
	over.Store(true)
	publisher.Wait()
	lab.WaitFor(t, func() bool { return len(a.Relay.Stats().Nodes) == 0 })
	require.Positive(t, a.Relay.Stats().Posted)

	p.settle(t)
	require.Empty(t, p.alerts(t))
}

// The usual query for a quantile shows about how many recipients each fan-out had.
func TestQuantilesAreNear(t *testing.T) {
	collectors := make(map[source]prometheus.Collector)
	sizes := []int{1, 2, 3, 5, 10, 11, 15, 16, 20, 21, 99, 100, 101, 1000, 4001}
	for _, size := range sizes {
		b := sendq.NewBroker(nil)
		defer b.CloseNow()
		registerMany(t, b, size)
		for range 3 {
			b.Broadcast(nil)
		}
		collectors[source{"sendq", fmt.Sprint(size)}] = promsendq.NewBrokerCollector(b)
	}
	p := startScraping(t, collectors)
	for _, quantile := range []float64{0.01, 0.5, 0.99} {
		shown := p.Query(t, fmt.Sprintf("histogram_quantile(%v, sendq_fan_out_recipients_bucket)", quantile), p.at)
		require.Len(t, shown, len(sizes))
		for _, s := range shown {
			var size float64
			fmt.Sscan(s.Labels["instance"], &size)
			want := between(size/1.5, size*1.5)
			if size <= 10 {
				want = between(size-1, size)
			}
			require.True(t, want.has(s.Value), "quantile %v of %v: %v", quantile, size, s.Value)
		}
	}
	for _, s := range p.Query(t, "sendq_fan_out_recipients_sum / sendq_fan_out_recipients_count", p.at) {
		require.Equal(t, s.Labels["instance"], fmt.Sprint(s.Value))
	}
}

// A counted connection counts its writes.
type counted struct {
	net.Conn
	writes *atomic.Int64
}

func (c counted) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.writes.Add(1)
	return n, err
}

// A failing connection is broken.
type failing struct{ conn }

func (failing) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }
