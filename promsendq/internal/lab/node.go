package lab

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/natsrelay"
	"github.com/sendq-go/sendq/relay"
)

// A Node is a Broker in a cluster.
type Node struct {
	*sendq.Broker
	Relay *natsrelay.Relay
	Cable Cable      // to NATS
	Busy  sync.Mutex // delivers nothing from other nodes while it is locked
}

// StartNode starts a node, which ends with the test.
func StartNode(t testing.TB, url string, opts natsrelay.Options) *Node {
	t.Helper()
	n := new(Node)
	opts.Timeout = patience
	var err error
	n.Relay, err = natsrelay.Connect(url, &opts, nats.SetCustomDialer(&n.Cable))
	require.NoError(t, err)
	n.Broker = sendq.NewBroker(&sendq.BrokerOptions{Relay: transport{n.Relay, n}})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = n.Shutdown(ctx)
	})
	return n
}

// ID returns the name of the node in its cluster.
func (n *Node) ID() string { return n.Relay.Stats().Node }

// A transport is a Relay with a node that can be busy.
type transport struct {
	*natsrelay.Relay
	node *Node
}

func (t transport) Start(n relay.Node) string { return t.Relay.Start(busyNode{n, &t.node.Busy}) }

type busyNode struct {
	relay.Node
	busy *sync.Mutex
}

func (n busyNode) Deliver(node string, ds []relay.Delivery) []relay.Outcome {
	n.busy.Lock()
	defer n.busy.Unlock()
	return n.Node.Deliver(node, ds)
}
