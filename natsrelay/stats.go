package natsrelay

// Stats are the figures of a Relay.
type Stats struct {
	Cluster   string // name of the cluster
	Node      string // name of this node
	Connected bool   // whether this node has reached NATS within a Lease
	Names     int    // names of this node, including names being registered
	Malformed int64  // envelopes and items that could not be parsed

	// Nodes has the other nodes, by name. A node that has left disappears after two Leases. A node
	// that became unreachable stays, because a partition may heal.
	Nodes map[string]NodeStats

	// Sums over all other nodes so far, including those that are no longer in Nodes. They never
	// decrease.
	MessageStats
}

// NodeStats are the figures of another node.
type NodeStats struct {
	Gone        bool // unreachable for a Lease, or has left
	QueuedBytes int  // bytes waiting to be sent to the node or acknowledged by it

	MessageStats
}

// MessageStats count the messages between this node and another one. A message to several nodes
// counts once for each. When both nodes are connected and everything has arrived,
//
//	Posted + Dropped = Received + Missed
//
// holds between the sums of the sending node and those of the receiving node.
type MessageStats struct {
	Posted    int64 // queued for the node or sent to it
	Dropped   int64 // to a room or to everyone, while the queue was full or the node unreachable
	Abandoned int64 // posted, but unacknowledged when the node became unreachable or this one ended
	Received  int64 // received from the node
	Missed    int64 // from the node, but dropped there or lost in transit
}

func (s *MessageStats) add(o MessageStats) {
	s.Posted += o.Posted
	s.Dropped += o.Dropped
	s.Abandoned += o.Abandoned
	s.Received += o.Received
	s.Missed += o.Missed
}

// Stats returns the current figures.
func (r *Relay) Stats() Stats {
	r.registry.mu.Lock()
	names := len(r.registry.names)
	r.registry.mu.Unlock()
	s := Stats{
		Cluster:   r.opts.Cluster,
		Node:      r.id,
		Connected: !r.isCutOff(),
		Names:     names,
		Malformed: r.malformed.Load(),
		Nodes:     make(map[string]NodeStats),
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	s.MessageStats = r.removed
	for id, p := range r.peers {
		n := p.stats()
		s.Nodes[id] = n
		s.add(n.MessageStats)
	}
	return s
}

func (p *peer) stats() NodeStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	return NodeStats{Gone: !p.state.isReachable(), QueuedBytes: p.outbox.bytes, MessageStats: p.counts}
}
