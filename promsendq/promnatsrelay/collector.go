package promnatsrelay

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sendq-go/sendq/natsrelay"
)

// NewCollector returns a collector for the metrics of r.
func NewCollector(r *natsrelay.Relay) prometheus.Collector { return collector{r} }

var (
	info = desc("info",
		"Always 1. The labels have the names of this node and its cluster.", "node", "cluster")
	connected = desc("connected",
		"Whether this node has reached NATS within a Lease: 1 or 0.")
	names = desc("names",
		"Number of names of this node, including names being registered.")
	nodes = desc("nodes",
		"Number of other nodes, by state: reachable, or gone. A node is gone for two Leases after it "+
			"has left, and until it comes back after it became unreachable.", "state")
	queuedBytes = desc("queued_bytes",
		"Bytes waiting to be sent to a reachable node or to be acknowledged by it.", "node")
	posted = desc("posted_messages_total",
		"Total number of messages queued for other nodes or sent to them. A message to several nodes "+
			"counts once for each.")
	dropped = desc("dropped_messages_total",
		"Total number of messages to rooms or to everyone that were dropped, because the queue for a "+
			"node was full or the node unreachable.")
	abandoned = desc("abandoned_messages_total",
		"Total number of posted messages that a node had not acknowledged when it became unreachable.")
	received = desc("received_messages_total",
		"Total number of messages received from other nodes.")
	missed = desc("missed_messages_total",
		"Total number of messages for this node that other nodes dropped, or that were lost in transit.")
	malformed = desc("malformed_items_total",
		"Total number of envelopes and items from other nodes that could not be parsed.")
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("sendq_relay_"+name, help, labels, nil)
}

type collector struct{ relay *natsrelay.Relay }

func (c collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		info, connected, names, nodes, queuedBytes, posted, dropped, abandoned, received, missed, malformed,
	} {
		ch <- d
	}
}

func (c collector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v int, label ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), label...)
	}
	counter := func(d *prometheus.Desc, v int64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v))
	}
	s := c.relay.Stats()
	reachable := 0
	for node, n := range s.Nodes {
		if !n.Gone { // otherwise each process that was killed would leave a series
			reachable++
			gauge(queuedBytes, n.QueuedBytes, node)
		}
	}
	gauge(info, 1, s.Node, s.Cluster)
	if s.Connected {
		gauge(connected, 1)
	} else {
		gauge(connected, 0)
	}
	gauge(names, s.Names)
	gauge(nodes, reachable, "reachable")
	gauge(nodes, len(s.Nodes)-reachable, "gone")
	counter(posted, s.Posted)
	counter(dropped, s.Dropped)
	counter(abandoned, s.Abandoned)
	counter(received, s.Received)
	counter(missed, s.Missed)
	counter(malformed, s.Malformed)
}
