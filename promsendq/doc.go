/*
Package promsendq exports the metrics of sendq's Brokers and Writers to Prometheus.

A Broker's collector counts the Writers that were given a name by the Broker:

	prometheus.MustRegister(promsendq.NewBrokerCollector(broker))

A program without a Broker adds its Writers to a [sendq.Tally] and registers the Tally:

	prometheus.MustRegister(promsendq.NewTallyCollector(tally))

If a process has several Brokers or Tallies, give each a label:

	prometheus.WrapRegistererWith(prometheus.Labels{"broker": "chat"}, registerer).
		MustRegister(promsendq.NewBrokerCollector(broker))

# Metrics

All metrics exist from the start:

	sendq_writers                              gauge      Writers that have not ended
	sendq_writer_ends_total{cause}             counter    Writers that have ended
	sendq_accepted_messages_total              counter    messages accepted by Writers
	sendq_accepted_bytes_total                 counter    their bytes
	sendq_messages_total{outcome}              counter    accepted messages that are no longer pending
	sendq_bytes_total{outcome}                 counter    their bytes
	sendq_undelivered_messages_total{cause}    counter    messages pending when their Writer ended
	sendq_undelivered_bytes_total{cause}       counter    their bytes
	sendq_pending_messages                     gauge      messages queued or being written
	sendq_pending_bytes                        gauge      their bytes
	sendq_kept_bytes                           gauge      bytes written and kept for peers that come back
	sendq_peak_pending_bytes                   gauge      highest number of bytes one Writer had pending
	sendq_oldest_pending_seconds               gauge      age of the oldest pending message, at least
	sendq_connection_writes_total              counter    writes to connections

A Broker's collector adds:

	sendq_names                                gauge      names in use on this Broker
	sendq_rooms                                gauge      rooms in use on this Broker
	sendq_names_away                           gauge      names that wait for their peer to come back
	sendq_fan_out_recipients                   histogram  recipients of each message to a room or to everyone

An outcome is written, dropped or undelivered. A message is dropped only if its Writer was at
MaxPending.

A cause is delivered, closed, expired, slow_consumer, taken_over or failed, as defined by
[sendq.Ends]. Undelivered messages with the cause taken_over are passed on, not lost: the new
Writer, if alive, has accepted them, and they count as accepted a second time.

The number of series is fixed. No label value comes from outside, so it does not grow with
names, rooms or peers.

Package promnatsrelay, in the same module, exports the metrics of a cluster.

# Fan-outs

The mean number of recipients, sendq_fan_out_recipients_sum / sendq_fan_out_recipients_count, is
exact. A quantile estimated by histogram_quantile is less than one recipient too low up to 10
recipients, so ceil makes it exact. Above, it is off by less than a factor of 1.5. Fan-outs to more
than a million look like a million. (TestQuantilesAreNear)

# Cost

A scrape reads one Writer after another and holds each Writer's lock for tens of nanoseconds.
It does not stall senders, however many Writers there are.

# Dashboard and alerts

The file dashboard.json in this directory is a Grafana dashboard, and alerts.yml has alerts for
Prometheus. README.md explains them.

# Without Prometheus

Programs without Prometheus get the same figures from [sendq.Broker.Stats], for example for
package expvar.
*/
package promsendq
