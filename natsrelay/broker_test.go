package natsrelay

import (
	"context"
	"iter"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/sendq-go/sendq"
	"github.com/stretchr/testify/require"
)

// A brokerNode is a Broker in a cluster, as a process has one.
type brokerNode struct {
	*sendq.Broker
	relay *Relay
	id    string

	mu         sync.Mutex
	events     []sendq.Event
	handedBack map[string][]string // by OnUndelivered
}

func newBrokerNode(t testing.TB, url string, opts Options, broker sendq.BrokerOptions, natsOptions ...nats.Option) *brokerNode {
	if opts.Cluster == "" {
		opts.Cluster = clusterName(t)
	}
	if opts.Timeout == 0 {
		opts.Timeout = testTimeout
	}
	r, err := Connect(url, &opts, natsOptions...)
	require.NoError(t, err)
	c := &brokerNode{relay: r, id: r.id, handedBack: make(map[string][]string)}
	broker.Relay = r
	broker.OnUndelivered = func(name string, messages iter.Seq[[]byte], _ error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		for p := range messages {
			c.handedBack[name] = append(c.handedBack[name], strings.TrimSuffix(string(p), "\n"))
		}
	}
	c.Broker = sendq.NewBroker(&broker)
	go func() {
		for e := range c.Events(t.Context()) {
			c.mu.Lock()
			c.events = append(c.events, e)
			c.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = c.Shutdown(ctx)
	})
	return c
}

// waitUntilConnected waits until all know each other.
func waitUntilConnected(t testing.TB, chats ...*brokerNode) {
	t.Helper()
	eventually(t, func() bool {
		for _, c := range chats {
			for _, o := range chats {
				if c != o && !c.relay.hasSnapshotOf(o.id) {
					return false
				}
			}
		}
		return true
	})
}

// hasSnapshotOf tells whether the snapshot of a node is here.
func (r *Relay) hasSnapshotOf(id string) bool {
	p := r.peer(id)
	if p == nil {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state.isReachable() && p.header.flags&flagNeedsSnapshot == 0
}

// hasEvent tells whether an event has been told for which is returns true.
func (c *brokerNode) hasEvent(is func(sendq.Event) bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.ContainsFunc(c.events, is)
}

// missed returns how many messages were missed.
func (c *brokerNode) missed() (messages int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.events {
		if e.Kind == sendq.Gap {
			messages += e.Missed
		}
	}
	return messages
}

// hasNames tells whether the Broker knows exactly these names.
func (c *brokerNode) hasNames(names ...string) bool {
	return slices.Equal(slices.Sorted(c.Names()), names)
}

// A user is the connection of a Writer, which takes everything.
type user struct {
	net.Conn   // for what a Writer asks a connection
	writer     *sendq.Writer
	writeDelay time.Duration // that a Write takes

	mu      sync.Mutex
	written []byte
}

func (u *user) Write(p []byte) (int, error) {
	time.Sleep(u.writeDelay)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.written = append(u.written, p...)
	return len(p), nil
}

func newUser(writeDelay time.Duration) *user {
	conn, _ := net.Pipe()
	u := &user{Conn: conn, writeDelay: writeDelay}
	u.writer = sendq.NewWriter(u, nil)
	return u
}

// join returns a user with a name, in some rooms.
func (c *brokerNode) join(t testing.TB, name string, rooms ...string) *user {
	t.Helper()
	u := newUser(0)
	require.NoError(t, c.Register(name, u.writer))
	for _, room := range rooms {
		require.NoError(t, c.Room(room).Join(name))
	}
	return u
}

// lines returns the whole lines that have come.
func (u *user) lines() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	lines := strings.Split(string(u.written), "\n")
	return lines[:len(lines)-1]
}
