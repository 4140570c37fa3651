package sendq_test

import (
	"context"
	"iter"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
)

// A solitude is a Relay without other nodes, which panics in the methods of the given names.
type solitude struct {
	node   *sendq.Node
	broken map[string]bool
	kept   [][]byte // the answer of other nodes to Replay
}

// alone returns the node of a Broker with such a Relay.
func alone(t *testing.T, opts *sendq.BrokerOptions) (*sendq.Node, *sendq.Broker) {
	var o sendq.BrokerOptions
	if opts != nil {
		o = *opts
	}
	var s solitude
	o.Relay = &s
	b := sendq.NewBroker(&o)
	t.Cleanup(func() { b.Close() })
	return s.node, b
}

func (s *solitude) enter(method string) {
	if s.broken[method] {
		panic(method)
	}
}

func (s *solitude) Start(node *sendq.Node) string {
	s.node = node
	s.enter("Start")
	return "here"
}

func (s *solitude) Claim(string, bool) (sendq.Estate, error) {
	s.enter("Claim")
	return sendq.Estate{}, nil
}

func (s *solitude) Release(string)                                   { s.enter("Release") }
func (s *solitude) Tell([]sendq.Event)                               { s.enter("Tell") }
func (s *solitude) Post(string, sendq.Delivery, func(sendq.Outcome)) { s.enter("Post") }
func (s *solitude) Replay(string, string, int) ([][]byte, error) {
	s.enter("Replay")
	return s.kept, nil
}
func (s *solitude) Close(context.Context) error { s.enter("Close"); return nil }

// look begins to iterate over the Events of b, which has a name, and takes no more than the first
// until stop is called.
func look(t *testing.T, b *sendq.Broker) (stop func()) {
	next, stop := iter.Pull(b.Events(t.Context()))
	next()
	return stop
}

// A number of messages may be as far from what makes sense as an int can be.
func TestReplayExtremes(t *testing.T) {
	opts := sendq.BrokerOptions{ReplayMessages: math.MaxInt, ReplayBytes: math.MaxInt}
	for ask, want := range map[int]int{math.MinInt: 0, math.MinInt + 1: 0, -1: 0, math.MaxInt - 1: 10, math.MaxInt: 10} {
		node, b := alone(t, &opts)
		room := b.Room("room")
		register(t, b, "bob", readingPeer())
		require.NoError(t, room.Join("bob"))
		for range 10 {
			room.Publish([]byte("hello\n"))
		}
		peer := readingPeer()
		carol := register(t, b, "carol", peer)
		replayed, err := room.JoinReplay("carol", ask)
		require.NoError(t, err)
		require.Equal(t, want, replayed, ask)
		require.NoError(t, carol.Close())
		require.Len(t, linesOf(peer), want)
		require.Len(t, node.Replay("room", ask), want, ask)
	}
}
