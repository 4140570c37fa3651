/*
Package promnatsrelay exports the metrics of a natsrelay.Relay to Prometheus.

	prometheus.MustRegister(promnatsrelay.NewCollector(relay))

It is a package of its own, so programs without a Relay do not compile the client of NATS.

# Metrics

	sendq_relay_info{node,cluster}          gauge    always 1; the labels name this node and its cluster
	sendq_relay_connected                   gauge    1 if this node has reached NATS within a Lease, otherwise 0
	sendq_relay_names                       gauge    names of this node, including names being registered
	sendq_relay_nodes{state}                gauge    other nodes
	sendq_relay_queued_bytes{node}          gauge    bytes waiting to be sent to a reachable node or acknowledged by it
	sendq_relay_posted_messages_total       counter  messages queued for other nodes or sent to them
	sendq_relay_dropped_messages_total      counter  messages dropped, with a full queue or an unreachable node
	sendq_relay_abandoned_messages_total    counter  posted messages unacknowledged when a node became unreachable
	sendq_relay_received_messages_total     counter  messages received from other nodes
	sendq_relay_missed_messages_total       counter  messages for this node dropped elsewhere or lost in transit
	sendq_relay_malformed_items_total       counter  envelopes and items that could not be parsed

A state is reachable or gone, as defined by [natsrelay.NodeStats]. A killed node counts as gone
until this process ends, because a restarted process is another node.

The counters are sums over all nodes, as in [natsrelay.Stats]. Only reachable nodes have a series of
their own, so the number of series is bounded by the size of the cluster, however often nodes
restart.

The dashboard and the alerts of promsendq cover these metrics too.
*/
package promnatsrelay
