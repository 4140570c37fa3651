package promsendq

import (
	"math"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sendq-go/sendq"
)

// NewBrokerCollector returns a collector of the figures of b and its Writers.
func NewBrokerCollector(b *sendq.Broker) prometheus.Collector {
	return collector(func(out sink) {
		s := b.Stats()
		out.gauge(names, float64(s.Names))
		out.gauge(rooms, float64(s.Rooms))
		out.fanOuts(&s.FanOuts)
		out.tally(&s.TallyStats)
	})
}

// NewTallyCollector returns a collector of the figures of the Writers that were added to t.
func NewTallyCollector(t *sendq.Tally) prometheus.Collector {
	return collector(func(out sink) {
		s := t.Stats()
		out.tally(&s)
	})
}

var (
	writers          = desc("writers", "Writers that have not ended.")
	ends             = desc("writer_ends_total", "Writers that have ended, by cause.", "cause")
	acceptedMessages = desc("accepted_messages_total", "Messages that Writers have accepted.")
	acceptedBytes    = desc("accepted_bytes_total", "Bytes of the messages that Writers have accepted.")
	messages         = desc("messages_total", "Accepted messages that are not pending any more, by what became of them.", "outcome")
	bytes            = desc("bytes_total", "Bytes of the accepted messages that are not pending any more, by what became of them.", "outcome")
	undelivered      = desc("undelivered_messages_total", "Messages that were pending when their Writer ended, by the cause of its end.", "cause")
	undeliveredBytes = desc("undelivered_bytes_total", "Bytes of the messages that were pending when their Writer ended, by the cause of its end.", "cause")
	pendingMessages  = desc("pending_messages", "Messages that are queued or being written.")
	pendingBytes     = desc("pending_bytes", "Bytes of the messages that are queued or being written.")
	peakPendingBytes = desc("peak_pending_bytes", "The most bytes that one Writer has ever had pending.")
	oldestPending    = desc("oldest_pending_seconds", "How long the oldest pending message of all Writers has waited, at least.")
	connectionWrites = desc("connection_writes_total", "How often messages, or parts of them, were handed to a connection.")
	names            = desc("names", "Names in use.")
	rooms            = desc("rooms", "Rooms in use.")
	fanOutRecipients = desc("fan_out_recipients", "Recipients of each message to a room or to all.")
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("sendq_"+name, help, labels, nil)
}

// A collector sends all its metrics, the same each time, to a sink.
type collector func(sink)

func (c collector) Collect(ch chan<- prometheus.Metric) { c(ch) }

func (c collector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

type sink chan<- prometheus.Metric

func (out sink) gauge(d *prometheus.Desc, v float64) {
	out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v)
}

func (out sink) counter(d *prometheus.Desc, v int64, label ...string) {
	out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), label...)
}

func (out sink) tally(s *sendq.TallyStats) {
	out.gauge(writers, float64(s.Writers))
	for _, e := range []struct {
		cause string
		sendq.EndStats
	}{
		{"delivered", s.Ends.Delivered},
		{"closed", s.Ends.Closed},
		{"expired", s.Ends.Expired},
		{"slow_consumer", s.Ends.SlowConsumer},
		{"taken_over", s.Ends.TakenOver},
		{"failed", s.Ends.Failed},
	} {
		out.counter(ends, e.Writers, e.cause)
		out.counter(undelivered, e.Undelivered, e.cause)
		out.counter(undeliveredBytes, e.UndeliveredBytes, e.cause)
	}
	out.counter(acceptedMessages, s.Accepted)
	out.counter(acceptedBytes, s.AcceptedBytes)
	for _, o := range []struct {
		outcome         string
		messages, bytes int64
	}{
		{"written", s.Written, s.WrittenBytes},
		{"dropped", s.Dropped, s.DroppedBytes},
		{"undelivered", s.Undelivered, s.UndeliveredBytes},
	} {
		out.counter(messages, o.messages, o.outcome)
		out.counter(bytes, o.bytes, o.outcome)
	}
	out.gauge(pendingMessages, float64(s.Pending))
	out.gauge(pendingBytes, float64(s.PendingBytes))
	out.gauge(peakPendingBytes, float64(s.PeakPendingBytes))
	out.gauge(oldestPending, s.OldestPending.Seconds())
	out.counter(connectionWrites, s.Writes)
}

func (out sink) fanOuts(s *sendq.FanOutStats) {
	var upTo uint64
	buckets := make(map[float64]uint64)
	last := len(s.Sizes) - 1
	for i, n := range s.Sizes[:last] {
		upTo += uint64(n)
		buckets[math.Pow(4, float64(i))] = upTo
	}
	out <- prometheus.MustNewConstHistogram(fanOutRecipients, upTo+uint64(s.Sizes[last]), float64(s.Recipients), buckets)
}
