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

// A chat is a Broker in a cluster, as a process has one.
type chat struct {
	*sendq.Broker
	relay *Relay
	id    string

	mu     sync.Mutex
	events []sendq.Event
	handed map[string][]string // by OnUndelivered
}

func newChat(t testing.TB, url string, opts Options, broker sendq.BrokerOptions, natsOptions ...nats.Option) *chat {
	if opts.Cluster == "" {
		opts.Cluster = ownCluster(t)
	}
	if opts.Timeout == 0 {
		opts.Timeout = within
	}
	r, err := Connect(url, &opts, natsOptions...)
	require.NoError(t, err)
	c := &chat{relay: r, id: r.id, handed: make(map[string][]string)}
	broker.Relay = r
	broker.OnUndelivered = func(name string, messages iter.Seq[[]byte], _ error) {
		c.mu.Lock()
		defer c.mu.Unlock()
		for p := range messages {
			c.handed[name] = append(c.handed[name], strings.TrimSuffix(string(p), "\n"))
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

// meet waits until all know each other.
func meet(t testing.TB, chats ...*chat) {
	t.Helper()
	eventually(t, func() bool {
		for _, c := range chats {
			for _, o := range chats {
				if c != o && !c.relay.knows(o.id) {
					return false
				}
			}
		}
		return true
	})
}

// knows tells whether the snapshot of a node is here.
func (r *Relay) knows(id string) bool {
	p := r.peer(id)
	if p == nil {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state.isReachable() && p.header.flags&flagStranger == 0
}

// saw tells whether an event has been told for which is returns true.
func (c *chat) saw(is func(sendq.Event) bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.ContainsFunc(c.events, is)
}

// gaps returns how many messages were missed.
func (c *chat) gaps() (messages int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.events {
		if e.Kind == sendq.Gap {
			messages += e.Missed
		}
	}
	return messages
}

// has tells whether the Broker knows exactly these names.
func (c *chat) has(names ...string) bool {
	return slices.Equal(slices.Sorted(c.Names()), names)
}

// A user is the connection of a Writer, which takes everything.
type user struct {
	net.Conn // for what a Writer asks a connection
	writer   *sendq.Writer
	pace     time.Duration // that a Write takes

	mu    sync.Mutex
	taken []byte
}

func (u *user) Write(p []byte) (int, error) {
	time.Sleep(u.pace)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.taken = append(u.taken, p...)
	return len(p), nil
}

func newUser(pace time.Duration) *user {
	conn, _ := net.Pipe()
	u := &user{Conn: conn, pace: pace}
	u.writer = sendq.NewWriter(u, nil)
	return u
}

// join returns a user with a name, in some rooms.
func (c *chat) join(t testing.TB, name string, rooms ...string) *user {
	t.Helper()
	u := newUser(0)
	require.NoError(t, c.Register(name, u.writer))
	for _, room := range rooms {
		require.NoError(t, c.Room(room).Join(name))
	}
	return u
}

// got returns the whole lines that have come.
func (u *user) got() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	lines := strings.Split(string(u.taken), "\n")
	return lines[:len(lines)-1]
}
