package natsrelay

import (
	"testing"

	"github.com/sendq-go/sendq/relay"
	"github.com/stretchr/testify/require"
)

// TestStatsOfRemovedPeers checks that the sums never decrease when a node leaves, and that a node
// causes no loss by leaving.
func TestStatsOfRemovedPeers(t *testing.T) {
	d := relay.Delivery{Messages: [][]byte{[]byte("one"), []byte("two")}}
	p := newPeer(current)
	r := p.relay
	require.NoError(t, p.send(d, nil))
	other := r.peerFor("unreachable")
	require.Error(t, other.send(d, nil))

	s := r.Stats()
	require.Equal(t, MessageStats{Posted: 2, Dropped: 2}, s.MessageStats)
	queued := s.Nodes["other"].QueuedBytes
	require.Positive(t, queued)
	require.Equal(t, map[string]NodeStats{
		"other":       {QueuedBytes: queued, MessageStats: MessageStats{Posted: 2}},
		"unreachable": {Gone: true, MessageStats: MessageStats{Dropped: 2}},
	}, s.Nodes)

	p.handleBye()
	require.Error(t, p.send(d, nil))
	for range 2 {
		r.removePeer(p, ErrNodeLost)
	}
	s = r.Stats()
	require.Equal(t, MessageStats{Posted: 2, Dropped: 2}, s.MessageStats)
	require.Len(t, s.Nodes, 1)
}

// TestStatsOfUnreachablePeers checks that messages are abandoned if they are in transit when a node
// becomes unreachable, or when this node stops.
func TestStatsOfUnreachablePeers(t *testing.T) {
	for _, end := range []func(*peer){
		func(p *peer) { p.markUnreachable(ErrNodeLost) },
		func(p *peer) { p.relay.removePeer(p, ErrNodeLost) },
	} {
		p := newPeer(current)
		require.NoError(t, p.send(relay.Delivery{Messages: [][]byte{[]byte("lost")}}, nil))
		end(p)
		require.Equal(t, MessageStats{Posted: 1, Abandoned: 1}, p.relay.Stats().MessageStats)
	}
}
