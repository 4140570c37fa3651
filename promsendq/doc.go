/*
Package promsendq brings the figures of sendq's Brokers and Writers to Prometheus.

	prometheus.MustRegister(promsendq.NewBrokerCollector(broker))

counts the Writers that have ever been given a name by the Broker, and

	prometheus.MustRegister(promsendq.NewTallyCollector(tally))

those that have been added to a [sendq.Tally], for programs without a Broker. Of several
Brokers or Tallies in one process, register each with a label of its own:

	prometheus.WrapRegistererWith(prometheus.Labels{"broker": "chat"}, registerer).
		MustRegister(promsendq.NewBrokerCollector(broker))

The metrics, all of which are there from the start:

	sendq_writers                               Writers that have not ended
	sendq_writer_ends_total{cause}              Writers that have ended
	sendq_accepted_messages_total               messages that Writers have accepted
	sendq_accepted_bytes_total
	sendq_messages_total{outcome}               what became of them: written, dropped or undelivered
	sendq_bytes_total{outcome}
	sendq_undelivered_messages_total{cause}     the undelivered ones, by why their Writer ended
	sendq_undelivered_bytes_total{cause}
	sendq_pending_messages                      the others
	sendq_pending_bytes
	sendq_peak_pending_bytes                    the most that one Writer ever had pending
	sendq_oldest_pending_seconds                how long the oldest pending message has waited, at least
	sendq_connection_writes_total               how often messages, or parts, were handed to a connection

and of a Broker alone:

	sendq_names                                 names in use
	sendq_rooms                                 rooms in use
	sendq_fan_out_recipients                    histogram: recipients of each message to a room or to all

A cause is one of delivered, closed, expired, slow_consumer, taken_over and failed, as
[sendq.Ends] has them. No label has a value that comes from outside, so the
number of series does not grow: neither with names nor with rooms nor with peers.

Messages are dropped for one cause alone: a Writer was at MaxPending. What is undelivered with
the cause taken_over is not lost: the Writer that came after has accepted it, and it counts
as accepted a second time.

A scrape asks one Writer after the other, each under its own lock for some tens of
nanoseconds: it stalls no sender, however many Writers there are.

dashboard.json, beside this file, is a dashboard for Grafana. [sendq.Broker.Stats] gives the same figures
to those who use no Prometheus, for example by package expvar.
*/
package promsendq
