package natsrelay

import (
	"testing"

	"github.com/sendq-go/sendq/relay"
	"github.com/stretchr/testify/require"
)

// TestStatsOfRemovedPeers checks that the sums never decrease when a node leaves.
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
	for range 2 {
		r.removePeer(p, ErrNodeLost)
	}
	s = r.Stats()
	require.Equal(t, MessageStats{Posted: 2, Dropped: 2, Abandoned: 2}, s.MessageStats)
	require.Len(t, s.Nodes, 1)
}
