package natsrelay

// Stats tells what a Relay has done.
type Stats struct {
	Node      string // the name of this node
	Connected bool   // it reaches NATS; not: for a Lease it has not
	Names     int    // of this node, those that are being claimed included
	Malformed int64  // envelopes, and items in them, that were not understood
	Nodes     map[string]NodeStats
}

// NodeStats count messages between this node and another one, each for every time that it is sent to
// that node. When both are connected and everything has arrived,
//
//	Posted + Omitted = Received + Missed
//
// with what the one has posted and omitted and the other received and missed.
type NodeStats struct {
	Gone      bool  // it is not heard of
	Posted    int64 // for it
	Omitted   int64 // not sent: it, or NATS, did not take what was for it already
	Abandoned int64 // of Posted: when it was gone, it was not known to have them
	Received  int64 // from it
	Missed    int64 // from it, that did not arrive
	Queued    int   // bytes for it, those on the way included
}

// Stats returns what the Relay has counted so far.
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
		n.Gone, n.Queued = !p.state.isReachable(), p.outbox.bytes
		p.mu.Unlock()
		s.Nodes[p.id] = n
	}
	return s
}
