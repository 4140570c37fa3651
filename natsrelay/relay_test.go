package natsrelay

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/relay"
	"github.com/stretchr/testify/require"
)

// A fakeNode is a node without a Broker.
type fakeNode struct {
	relay *Relay
	block chan struct{} // Evict and Replay wait until it is closed, if it is not nil

	onEvict func(context.Context) // called by Evict, if it is not nil

	mu     sync.Mutex
	events []relay.Event // for the snapshot
	calls
}

// calls records the arguments of calls to a fakeNode.
type calls struct {
	got        []string
	learned    map[string][]string // events by node
	missed     int
	gaps       int // of unknown size
	lost       []string
	handedBack []string
}

func (n *fakeNode) Deliver(_ string, ds []relay.Delivery) (os []relay.Outcome) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, d := range ds {
		for _, m := range d.Messages {
			n.got = append(n.got, d.To.Name+": "+string(m))
		}
		os = append(os, relay.Outcome{Accepted: len(d.Messages), Err: fmt.Errorf("%w: really", sendq.ErrSlowConsumer)})
	}
	return os
}

func (n *fakeNode) Apply(node string, events []relay.Event, snapshot bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if snapshot {
		n.learned[node] = []string{}
	}
	for _, e := range events {
		n.learned[node] = append(n.learned[node], fmt.Sprint(e.Kind, " ", e.Name, " ", e.Room, e.To))
	}
}

func (n *fakeNode) NodeGone(node string, cause error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.learned, node)
}

func (n *fakeNode) Snapshot(f func(events []relay.Event)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f(n.events)
}

func (n *fakeNode) announce(e relay.Event) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.events = append(n.events, e)
	n.relay.Announce([]relay.Event{e})
}

func (n *fakeNode) MessagesLost(node string, messages int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if messages < 0 {
		n.gaps++
		return
	}
	n.missed += messages
}

func (n *fakeNode) Evict(ctx context.Context, name, by string, token uint64) (relay.Handover, bool) {
	if n.onEvict != nil {
		n.onEvict(ctx)
	}
	n.wait()
	n.relay.Release(name)
	return relay.Handover{Undelivered: [][]byte{[]byte("left by " + name)}, Rooms: []string{"room"}}, true
}

func (n *fakeNode) HandBack(name string, undelivered [][]byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.handedBack = append(n.handedBack, name)
}

func (n *fakeNode) NameLost(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lost = append(n.lost, name)
}

func (n *fakeNode) wait() {
	if n.block != nil {
		<-n.block
	}
}

func (n *fakeNode) Replay(room string, messages int) [][]byte {
	n.wait()
	return slices.Repeat([][]byte{[]byte(room)}, messages)
}

// newFake returns a node in a cluster that only this test uses.
func newFake(t *testing.T, url string, opts Options, natsOptions ...nats.Option) *fakeNode {
	if opts.Cluster == "" {
		opts.Cluster = clusterName(t)
	}
	if opts.Timeout == 0 {
		opts.Timeout = testTimeout
	}
	return startFake(t, connect(t, url, opts, natsOptions))
}

// connect calls Connect until it succeeds, because a busy machine may exceed its bounds.
func connect(t testing.TB, url string, opts Options, natsOptions []nats.Option) (r *Relay) {
	require.NoError(t, insist(func() (err error) {
		r, err = Connect(url, &opts, natsOptions...)
		return err
	}))
	return r
}

func startFake(t *testing.T, r *Relay) *fakeNode {
	n := &fakeNode{relay: r, calls: calls{learned: make(map[string][]string)}}
	r.Start(n)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = r.Close(ctx)
	})
	return n
}

// recorded returns a copy of the calls so far.
func (n *fakeNode) recorded() (s calls) {
	n.mu.Lock()
	defer n.mu.Unlock()
	s.got, s.lost, s.handedBack = slices.Clone(n.got), slices.Clone(n.lost), slices.Clone(n.handedBack)
	s.learned, s.missed, s.gaps = maps.Clone(n.learned), n.missed, n.gaps
	return s
}

// knows reports whether n has the snapshots of the others.
func (n *fakeNode) knows(others ...*fakeNode) bool {
	view := n.recorded().learned
	for _, o := range others {
		if view[o.relay.id] == nil {
			return false
		}
	}
	return true
}

// newFakeWithoutNATS returns a node with a Relay that is not connected.
func newFakeWithoutNATS() *fakeNode {
	r, err := newRelay(Options{})
	if err != nil {
		panic(err)
	}
	n := &fakeNode{relay: r, calls: calls{learned: make(map[string][]string)}}
	r.node, r.nc, r.registry.bucket = n, (*nats.Conn)(nil), new(bucket) // every call returns an error
	return n
}

// TestNode calls the methods of a Relay on two nodes.
func TestNode(t *testing.T) {
	c := servers(t)
	a := newFake(t, c.url(0), Options{Node: "a"})
	b := newFake(t, c.url(1), Options{Node: "b"})
	a.announce(relay.Event{Kind: relay.EventJoined, Name: "x"})
	eventually(t, func() bool { return len(b.recorded().learned[a.relay.id]) == 1 })
	outcomes := make(chan relay.Outcome, 1)
	b.relay.Post(a.relay.id, relay.Delivery{To: relay.Target{Name: "x"}, Messages: [][]byte{[]byte("hi")}}, func(o relay.Outcome) { outcomes <- o })
	o := <-outcomes
	require.ErrorIs(t, o.Err, sendq.ErrSlowConsumer)
	require.Equal(t, 1, o.Accepted)
	kept, err := a.relay.Replay(t.Context(), b.relay.id, "room", 3)
	require.NoError(t, err)
	require.Len(t, kept, 3)
	require.NoError(t, a.relay.Close(t.Context()))
	require.NoError(t, b.relay.Close(t.Context()))
}

// TestReplayContext stops waiting for the history of a room.
func TestReplayContext(t *testing.T) {
	a, b := newFake(t, servers(t).url(0), Options{}), newFake(t, servers(t).url(1), Options{})
	waitUntilAllKnow(t, a, b)
	b.block = make(chan struct{})
	defer close(b.block)
	ctx, cancel := context.WithTimeoutCause(t.Context(), time.Millisecond, errGivenUp)
	defer cancel()
	_, err := a.relay.Replay(ctx, b.relay.id, "room", 1)
	require.ErrorIs(t, err, errGivenUp)
}

var errGivenUp = errors.New("given up")
