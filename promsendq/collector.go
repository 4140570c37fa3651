package promsendq

import (
	"math"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sendq-go/sendq"
)

// NewBrokerCollector returns a collector for the metrics of b and its Writers.
func NewBrokerCollector(b *sendq.Broker) prometheus.Collector {
	return collector(func(out sink) {
		s := b.Stats()
		out.gauge(names, float64(s.Names))
		out.gauge(rooms, float64(s.Rooms))
		out.gauge(namesAway, float64(s.Away))
		out.fanOuts(&s.FanOuts)
		out.tally(&s.TallyStats)
	})
}

// NewTallyCollector returns a collector for the metrics of the Writers added to t.
func NewTallyCollector(t *sendq.Tally) prometheus.Collector {
	return collector(func(out sink) {
		s := t.Stats()
		out.tally(&s)
	})
}

var (
	writers = desc("writers",
		"Number of Writers that have not ended.")
	ends = desc("writer_ends_total",
		"Total number of Writers that have ended, by cause: delivered (Close or Shutdown delivered "+
			"everything), closed (CloseNow, or the connection was closed), expired (CloseTimeout or "+
			"the context of Shutdown ran out), slow_consumer (a limit was reached), taken_over, and failed "+
			"(any other error, most often of the connection).", "cause")
	acceptedMessages = desc("accepted_messages_total",
		"Total number of messages accepted by Writers. A message to several recipients counts once for "+
			"each, and messages dropped at MaxPending are included.")
	acceptedBytes = desc("accepted_bytes_total",
		"Total bytes of the messages accepted by Writers.")
	messages = desc("messages_total",
		"Total number of accepted messages that are no longer pending, by outcome: written (the "+
			"connection took every byte), dropped (the Writer was at MaxPending), and undelivered (the Writer "+
			"ended first).", "outcome")
	bytes = desc("bytes_total",
		"Total bytes of the accepted messages that are no longer pending, by outcome: written, dropped, "+
			"or undelivered.", "outcome")
	undelivered = desc("undelivered_messages_total",
		"Total number of messages that were pending when their Writer ended, by the cause of its end. "+
			"With the cause taken_over, the new Writer has accepted them again if it was alive.", "cause")
	undeliveredBytes = desc("undelivered_bytes_total",
		"Total bytes of the messages that were pending when their Writer ended, by the cause of its end.", "cause")
	pendingMessages = desc("pending_messages",
		"Number of accepted messages that are queued or being written.")
	pendingBytes = desc("pending_bytes",
		"Bytes of the accepted messages that are queued or being written.")
	keptBytes = desc("kept_bytes",
		"Bytes of the written messages that are kept until the peer acknowledges them.")
	peakPendingBytes = desc("peak_pending_bytes",
		"Highest number of bytes that one Writer has had pending, including Writers that have ended. "+
			"Never decreases.")
	oldestPending = desc("oldest_pending_seconds",
		"Age in seconds of the oldest pending message, or 0 if none is pending. It is sampled, so the "+
			"true age may be higher but not lower.")
	connectionWrites = desc("connection_writes_total",
		"Total number of writes to connections. A write carries one or more messages, or a part of one.")

	// Of a Broker alone.
	names = desc("names",
		"Number of names in use on this Broker.")
	rooms = desc("rooms",
		"Number of rooms in use on this Broker.")
	namesAway = desc("names_away",
		"Number of names on this Broker that wait for their peer to come back.")
	fanOutRecipients = desc("fan_out_recipients",
		"Recipients of each message to a room or to everyone, on this Broker, whether or not they "+
			"accepted it. A message without recipients is not counted.")
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("sendq_"+name, help, labels, nil)
}

// A collector sends its metrics to a sink, the same set on every call.
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
	out.gauge(keptBytes, float64(s.KeptBytes))
	out.gauge(peakPendingBytes, float64(s.PeakPendingBytes))
	out.gauge(oldestPending, s.OldestPending.Seconds())
	out.counter(connectionWrites, s.Writes)
}

func (out sink) fanOuts(s *sendq.FanOutStats) {
	var messages uint64
	buckets := make(map[float64]uint64)
	for _, b := range s.Sizes {
		messages += uint64(b.Messages)
		if b.UpTo < math.MaxInt64 { // otherwise it is the histogram's own last bucket
			buckets[float64(b.UpTo)] = messages
		}
	}
	out <- prometheus.MustNewConstHistogram(fanOutRecipients, messages, float64(s.Recipients), buckets)
}
