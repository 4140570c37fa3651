package natsrelay

// Stats are the figures of a Relay.
type Stats struct {
	Node      string               // name of this node
	Connected bool                 // whether this node has reached NATS within a Lease
	Names     int                  // names of this node, including names being registered
	Malformed int64                // envelopes and items that could not be parsed
	Nodes     map[string]NodeStats // the other nodes, by name
}

// NodeStats count the messages between this node and another one. A message to several nodes
// counts once for each. When both nodes are connected and everything has arrived,
//
//	Posted + Dropped = Received + Missed
//
// holds between the sums of the sending node and those of the receiving node.
type NodeStats struct {
	Gone        bool  // unreachable for a Lease, or has left
	Posted      int64 // queued for the node or sent to it
	Dropped     int64 // to a room or to everyone, while the queue was full or the node unreachable
	Abandoned   int64 // posted, but unacknowledged when the node became unreachable or left
	Received    int64 // received from the node
	Missed      int64 // from the node, but dropped there or lost in transit
	QueuedBytes int   // bytes waiting to be sent to the node or acknowledged by it
}

// Stats returns the current figures.
func (r *Relay) Stats() Stats {
	r.registry.mu.Lock()
	names := len(r.registry.names)
	r.registry.mu.Unlock()
	s := Stats{
		Node:      r.id,
		Connected: !r.isCutOff(),
		Names:     names,
		Malformed: r.malformed.Load(),
		Nodes:     make(map[string]NodeStats),
	}
	for _, p := range r.allPeers() {
		p.mu.Lock()
		n := p.counts
		n.Gone, n.QueuedBytes = !p.state.isReachable(), p.outbox.bytes
		p.mu.Unlock()
		s.Nodes[p.id] = n
	}
	return s
}
