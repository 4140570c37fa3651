package promnatsrelay_test

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/natsrelay"
	"github.com/sendq-go/sendq/promsendq/internal/lab"
	"github.com/sendq-go/sendq/promsendq/promnatsrelay"
)

// The metrics of two nodes after known traffic.
func TestCollector(t *testing.T) {
	url := lab.StartNATS(t)
	a, b := lab.StartNode(t, url, natsrelay.Options{}), lab.StartNode(t, url, natsrelay.Options{})
	conn, _ := net.Pipe()
	require.NoError(t, b.Register("bob", sendq.NewWriter(conn, nil)))
	require.NoError(t, b.Room("room").Join("bob"))
	lab.WaitFor(t, func() bool { return a.Room("room").Has("bob") })
	for range 3 {
		a.Room("room").Publish([]byte("hi"))
	}
	require.NoError(t, a.Send("bob", []byte("direct")))
	lab.WaitFor(t, func() bool { return a.Relay.Stats().Nodes[b.ID()].QueuedBytes == 0 })

	want := map[string]float64{
		fmt.Sprintf("info{cluster=%q,node=%q}", "sendq", a.ID()): 1,
		fmt.Sprintf("queued_bytes{node=%q}", b.ID()):             0,

		"connected":                1,
		"names":                    0,
		`nodes{state="reachable"}`: 1,
		`nodes{state="gone"}`:      0,
		"posted_messages_total":    4,
		"dropped_messages_total":   0,
		"abandoned_messages_total": 0,
		"received_messages_total":  0,
		"missed_messages_total":    0,
		"malformed_items_total":    0,
	}
	require.Equal(t, want, gather(t, a))
	require.EqualValues(t, 4, gather(t, b)["received_messages_total"])
	require.EqualValues(t, 1, gather(t, b)["names"])

	problems, err := testutil.CollectAndLint(promnatsrelay.NewCollector(a.Relay))
	require.NoError(t, err)
	require.Empty(t, problems)
}

// Nodes that have left or were killed have no series of their own.
func TestSeriesAreBounded(t *testing.T) {
	url := lab.StartNATS(t)
	brief := natsrelay.Options{Lease: time.Second}
	a := lab.StartNode(t, url, brief)
	before := len(gather(t, a))
	for range 3 {
		leaving, killed := lab.StartNode(t, url, brief), lab.StartNode(t, url, brief)
		lab.WaitFor(t, func() bool { return len(gather(t, a)) == before+2 })
		require.NoError(t, leaving.Shutdown(t.Context()))
		killed.Cable.Cut()
		lab.WaitFor(t, func() bool { return len(gather(t, a)) == before })
	}
	require.GreaterOrEqual(t, gather(t, a)[`nodes{state="gone"}`], 3.0)
	a.Cable.Cut()
	lab.WaitFor(t, func() bool { return gather(t, a)["connected"] == 0 })
}

// gather returns the values of the node's series, keyed by name and labels, without the prefix.
func gather(t *testing.T, n *lab.Node) map[string]float64 {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	require.NoError(t, r.Register(promnatsrelay.NewCollector(n.Relay)))
	families, err := r.Gather()
	require.NoError(t, err)
	series := make(map[string]float64)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()[len("sendq_relay_"):]
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			if len(labels) > 0 {
				name += "{" + strings.Join(labels, ",") + "}"
			}
			series[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue() // one of them is 0
		}
	}
	return series
}
