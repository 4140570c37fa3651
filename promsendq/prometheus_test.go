package promsendq_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
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
	register := func(name string, conn net.Conn, opts *sendq.WriterOptions) *sendq.Writer {
		w := sendq.NewWriter(counted{conn, &writes}, opts)
		require.NoError(t, broker.Register(name, w))
		return w
	}
	two := broker.Room("two")
	alice := register("alice", conn{}, nil)
	atMostThree := &sendq.WriterOptions{MaxPending: 3 * (64 + 4), Overflow: sendq.DropNewest}
	register("bob", stalled(t), atMostThree)
	require.NoError(t, two.Join("alice"))
	require.NoError(t, two.Join("bob"))
	for range 4 {
		require.NoError(t, alice.Flush(t.Context()))
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
		w := sendq.NewWriter(counted{test.conn, &writes}, nil)
		tally.Add(w)
		defer w.CloseNow()
		for range test.messages {
			w.Write(make([]byte, test.size))
		}
	}
	require.NoError(t, others.Register("somebody", sendq.NewWriter(conn{}, nil)))
	require.Equal(t, 1, others.Broadcast(make([]byte, 12_345)))
	lab.WaitFor(t, func() bool {
		b, t := broker.Stats(), tally.Stats()
		return b.Pending == 3 && t.Pending == 1 && b.Writes+t.Writes == writes.Load()
	})

	p.settle(t)
	age := between(0.1, time.Since(started).Seconds())
	outcomes := func(written, dropped, undelivered float64) values {
		return values{"written": perSecond(written), "dropped": perSecond(dropped), "undelivered": perSecond(undelivered)}
	}
	p.requireShown(t, "sendq_relay_", false, map[string]values{
		"Writers":                {"": exactly(22 + 2)},
		"Names":                  {"": exactly(22)},
		"Rooms":                  {"": exactly(2)},
		"Pending messages":       {"": exactly(3 + 1)},
		"Pending bytes":          {"": exactly(3*4 + 1000)},
		"Oldest pending message": {"": age},
		"Messages":               outcomes(4+20+1+5, 1, 3+4).and("accepted", perSecond(8+3+20+5+6)),
		"Bytes":                  outcomes(16+40+5+35, 4, 12+4*5).and("accepted", perSecond(32+12+40+25+1035)),
		"Backlog":                {"pending": exactly(3*4 + 1000), "peak of one Writer": exactly(1000)},
		"Age of the backlog":     {"a": age, "b": age},
		"Messages lost": {"dropped": perSecond(1), "delivered": exactly(0), "closed": perSecond(1), "expired": perSecond(1),
			"slow_consumer": perSecond(1), "failed": perSecond(1)},
		"Bytes undelivered": {"delivered": exactly(0), "closed": perSecond(5), "expired": perSecond(5),
			"slow_consumer": perSecond(5), "failed": perSecond(5), "taken_over": perSecond(12)},
		"Ends of Writers": {"delivered": perSecond(1), "closed": perSecond(1), "expired": perSecond(1),
			"slow_consumer": perSecond(1), "failed": perSecond(1), "taken_over": perSecond(1)},
		"Messages per write":      {"messages per write": exactly(30 / float64(writes.Load()))},
		"Fan-outs":                {"messages": perSecond(5), "recipients": perSecond(4*2 + 20)},
		"Recipients of a fan-out": {"median": exactly(2), "99th percentile": between(20/1.5, 20*1.5), "mean": exactly(28.0 / 5)},
	})
	p.requireVariables(t, map[string][]string{
		"job":      {"other program", "sendq"},
		"instance": {"a", "b", "not selected"},
	})
	p.requireAlerts(t, "SendqMessagesLost")
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
	p.requireShown(t, "sendq_relay_", true, map[string]values{
		"Nodes": {"a: reachable": exactly(2), "behind: reachable": exactly(2), "cut: reachable": exactly(2),
			"a: NATS": exactly(1), "behind: NATS": exactly(1), "cut: NATS": exactly(1)},
		"Queues for other nodes": {a.ID(): exactly(0), behind.ID(): between(5000, 7000), cut.ID(): exactly(0)},
		"Messages between nodes": {"posted": perSecond(float64(stats.Posted)), "received": perSecond(4)},
		"Messages lost between nodes": {"dropped": perSecond(float64(stats.Dropped)), "abandoned": perSecond(2 + 5),
			"missed": perSecond(5), "malformed": exactly(0)},
		"Names of the nodes": {"a": exactly(0), "behind": exactly(1), "cut": exactly(1)},
		"Nodes gone":         {"a: " + a.ID(): exactly(1), "behind: " + behind.ID(): exactly(1), "cut: " + cut.ID(): exactly(1)},
	})
	p.requireAlerts(t, "SendqRelayMessagesLost")
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

// A source identifies the program that a metric comes from.
type source struct{ job, instance string }

// A monitored program is scraped by Prometheus.
type monitored struct {
	*lab.Prometheus
	at string // time of the scrape to look at
}

// startScraping starts Prometheus and waits for its first scrape of the collectors. One HTTP server
// has all metrics, so that all samples have the same time.
func startScraping(t *testing.T, collectors map[source]prometheus.Collector) *monitored {
	t.Helper()
	registry := prometheus.NewRegistry()
	for s, c := range collectors {
		labels := prometheus.Labels{"job": s.job, "instance": s.instance}
		prometheus.WrapRegistererWith(labels, registry).MustRegister(c)
	}
	program := httptest.NewServer(promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	t.Cleanup(program.Close)
	alerts, err := filepath.Abs("alerts.yml")
	require.NoError(t, err)
	p := &monitored{Prometheus: lab.StartPrometheus(t, fmt.Sprintf(`
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [%q]
scrape_configs:
  - job_name: test
    honor_labels: true
    static_configs: [targets: [%q]]
`, alerts, program.Listener.Addr()))}
	p.waitForScrape(t, time.Time{})
	return p
}

// settle waits for a scrape of the present state.
func (p *monitored) settle(t *testing.T) {
	t.Helper()
	p.waitForScrape(t, time.Now().Add(time.Second))
}

// waitForScrape waits for a scrape after that time, and notes its time.
func (p *monitored) waitForScrape(t *testing.T, after time.Time) {
	t.Helper()
	lab.WaitFor(t, func() bool {
		for _, s := range p.Query(t, `max(timestamp({__name__=~"sendq_writers|sendq_relay_connected"}))`, "") {
			p.at = fmt.Sprintf("%.3f", s.Value)
			return s.Value > float64(after.UnixMilli())/1000
		}
		return false
	})
}

// window is the number of seconds that the dashboard's rates cover. It is longer than the test, and
// all counters begin with 0, so a rate is exact: Prometheus extrapolates neither below 0 nor beyond
// the last scrape, which is the time of the query.
const window = 3600

// values are the values of a panel, by the name of each line.
type values map[string]value

func (v values) and(name string, other value) values {
	v[name] = other
	return v
}

// A value lies between two numbers.
type value struct{ from, to float64 }

func between(from, to float64) value { return value{from, to} }

func exactly(v float64) value { return value{v - 1e-9*v, v + 1e-9*v} }

func perSecond(n float64) value { return exactly(n / window) }

func (v value) has(x float64) bool { return v.from <= x && x <= v.to }

// variables replaces the variables of the dashboard, as Grafana does after a choice.
var variables = strings.NewReplacer("$job", "(sendq)", "$instance", "(a|b|behind|cut)", "$__rate_interval", fmt.Sprint(window, "s"))

// requireShown compares the panels whose queries have a metric with that prefix, or that have not,
// with the values by title.
func (p *monitored) requireShown(t *testing.T, prefix string, hasPrefix bool, want map[string]values) {
	t.Helper()
	titles := 0
	for _, panel := range panels(t) {
		if len(panel.Targets) == 0 || strings.Contains(panel.Targets[0].Expr, prefix) != hasPrefix {
			continue
		}
		titles++
		got := make(map[string]float64)
		for _, target := range panel.Targets {
			query := variables.Replace(target.Expr)
			require.NotContains(t, query, "$")
			for _, s := range p.Query(t, query, p.at) {
				name := regexp.MustCompile(`{{\w+}}`).ReplaceAllStringFunc(target.LegendFormat, func(label string) string {
					return s.Labels[strings.Trim(label, "{}")]
				})
				require.NotContains(t, got, name, panel.Title)
				got[name] = s.Value
			}
		}
		require.Len(t, got, len(want[panel.Title]), "%s: %v", panel.Title, got)
		for name, v := range want[panel.Title] {
			require.Contains(t, got, name, panel.Title)
			assert.True(t, v.has(got[name]), "%s: %s: shown %v, want %v", panel.Title, name, got[name], v)
		}
	}
	require.Len(t, want, titles)
}

// requireVariables requires the choices that the dashboard offers for its variables.
func (p *monitored) requireVariables(t *testing.T, want map[string][]string) {
	t.Helper()
	var parsed struct {
		Templating struct {
			List []struct{ Name, Type, Query string }
		}
	}
	require.NoError(t, json.Unmarshal(dashboard, &parsed))
	got := make(map[string][]string)
	for _, v := range parsed.Templating.List {
		if v.Type != "query" {
			continue
		}
		match := regexp.MustCompile(`^label_values\((.*), (\w+)\)$`).FindStringSubmatch(variables.Replace(v.Query))
		require.NotNil(t, match, v.Query)
		var choices []string
		p.Get(t, "label/"+match[2]+"/values", url.Values{"match[]": {match[1]}}, &choices)
		got[v.Name] = choices
	}
	require.Equal(t, want, got)
}

// requireAlerts waits until exactly these alerts are pending or firing.
func (p *monitored) requireAlerts(t *testing.T, want ...string) {
	t.Helper()
	var active []string
	defer func() { require.Equal(t, want, active) }()
	lab.WaitFor(t, func() bool {
		var data struct {
			Groups []struct {
				Rules []struct{ Name, State, Health, LastError string }
			}
		}
		p.Get(t, "rules", url.Values{}, &data)
		rules := 0
		active = nil
		for _, g := range data.Groups {
			for _, r := range g.Rules {
				require.Empty(t, r.LastError, r.Name)
				if r.Health == "ok" {
					rules++
				}
				if r.State != "inactive" {
					active = append(active, r.Name)
				}
			}
		}
		return rules == len(alerts(t)) && assert.ObjectsAreEqual(want, active)
	})
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
