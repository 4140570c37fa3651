package natsrelay

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sendq-go/sendq"
)

// twoNodes returns two connected nodes, and a user on the second one in a room.
func twoNodes(b *testing.B) (a, c *brokerNode, u *user) {
	a = newBrokerNode(b, servers(b).url(0), Options{}, sendq.BrokerOptions{})
	c = newBrokerNode(b, servers(b).url(1), Options{}, sendq.BrokerOptions{})
	waitUntilConnected(b, a, c)
	u = c.join(b, "bob", "go")
	eventually(b, func() bool { return a.Room("go").Has("bob") })
	return a, c, u
}

var message = []byte(strings.Repeat("x", 63) + "\n")

// BenchmarkSend sends one message at a time to a name on another node.
func BenchmarkSend(b *testing.B) {
	a, _, _ := twoNodes(b)
	for b.Loop() {
		if err := a.Send("bob", message); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkPublish publishes to a room with a member on another node.
func BenchmarkPublish(b *testing.B) {
	a, c, u := twoNodes(b)
	p := a.relay.peer(c.id)
	for b.Loop() {
		a.Room("go").Publish(message)
		for {
			p.mu.Lock()
			isFull := p.isFull()
			p.mu.Unlock()
			if !isFull { // otherwise dropped messages would be measured
				break
			}
			time.Sleep(time.Millisecond)
		}
	}
	eventually(b, func() bool { return u.writer.Stats().Written == int64(b.N) })
}

// BenchmarkClaim registers names concurrently.
func BenchmarkClaim(b *testing.B) {
	a, _, _ := twoNodes(b)
	var n atomic.Int64
	b.SetParallelism(64)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			name := fmt.Sprint(b.N, "-", n.Add(1))
			if err := a.Register(name, newUser(0).writer); err != nil {
				b.Error(err)
			}
		}
	})
}
