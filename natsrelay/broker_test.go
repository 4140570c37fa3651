package natsrelay

import (
	"bytes"
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

// A brokerNode is a node with a Broker.
type brokerNode struct {
	*sendq.Broker
	relay *Relay
	id    string

	mu         sync.Mutex
	events     []sendq.Event
	handedBack map[string][]string // messages passed to OnUndelivered, by name
}

func newBrokerNode(t testing.TB, url string, opts Options, broker sendq.BrokerOptions, natsOptions ...nats.Option) *brokerNode {
	if opts.Cluster == "" {
		opts.Cluster = clusterName(t)
	}
	if opts.Timeout == 0 {
		opts.Timeout = testTimeout
	}
	r := connect(t, url, opts, natsOptions)
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

// waitUntilConnected waits until each node has the snapshots of all others.
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

// hasSnapshotOf reports whether the snapshot of a node has arrived.
func (r *Relay) hasSnapshotOf(id string) bool {
	p := r.peer(id)
	if p == nil {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state.isReachable() && p.header.flags&flagNeedsSnapshot == 0
}

// hasEvent reports whether is returned true for an event so far.
func (c *brokerNode) hasEvent(is func(sendq.Event) bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.ContainsFunc(c.events, is)
}

// missed returns the number of messages missed according to the events.
func (c *brokerNode) missed() (messages int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.events {
		if e.Kind == sendq.EventGap && e.Missed > 0 {
			messages += e.Missed
		}
	}
	return messages
}

// hasNames reports whether the Broker knows exactly these names.
func (c *brokerNode) hasNames(names ...string) bool {
	return slices.Equal(slices.Sorted(c.Names()), names)
}

// A user is the connection of a Writer. It accepts everything.
type user struct {
	net.Conn   // for the methods that a Writer needs
	writer     *sendq.Writer
	writeDelay time.Duration // of each Write
	onLine     func(string)  // gets each line instead of written, unless it is nil

	mu      sync.Mutex
	written []byte
}

func (u *user) Write(p []byte) (int, error) {
	time.Sleep(u.writeDelay)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.written = append(u.written, p...)
	for u.onLine != nil {
		line, rest, found := bytes.Cut(u.written, []byte("\n"))
		if !found {
			break
		}
		u.written = rest
		u.onLine(string(line))
	}
	return len(p), nil
}

func newUser(writeDelay time.Duration) *user {
	conn, _ := net.Pipe()
	u := &user{Conn: conn, writeDelay: writeDelay}
	u.writer = sendq.NewWriter(u, nil)
	return u
}

// join registers a new user and joins rooms.
func (c *brokerNode) join(t testing.TB, name string, rooms ...string) *user {
	t.Helper()
	u := newUser(0)
	require.NoError(t, c.Register(name, u.writer))
	for _, room := range rooms {
		require.NoError(t, c.Room(room).Join(name))
	}
	return u
}

// lines returns the complete lines written so far.
func (u *user) lines() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	lines := strings.Split(string(u.written), "\n")
	return lines[:len(lines)-1]
}
