package natsrelay

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sendq-go/sendq"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The tests in this file measure rows of the tables in docs/cluster.md that no other test measures.

// TestBounds checks the bounds that follow from a Lease.
func TestBounds(t *testing.T) {
	const ms = time.Millisecond
	for lease, want := range map[time.Duration][5]time.Duration{
		time.Second:      {200 * ms, 250 * ms, 1000 * ms, 100 * ms, 1000 * ms},
		10 * time.Second: {1000 * ms, 1000 * ms, 2000 * ms, 1000 * ms, 2500 * ms},
		time.Minute:      {1000 * ms, 2000 * ms, 5000 * ms, 6000 * ms, 2500 * ms},
	} {
		o := Options{Lease: lease}
		require.NoError(t, o.setDefaults())
		got := [...]time.Duration{o.tickInterval(), o.pingInterval(), o.netTimeout(), o.renewInterval(), o.attemptTimeout()}
		assert.Equal(t, want, got, "heartbeat, ping, write, renewal and request with a lease of %v", lease)
	}
}

// TestJoinAtOnce joins a room on two nodes at the same time. A user who does not see the other one in
// the room after the join gets what the other one publishes first.
func TestJoinAtOnce(t *testing.T) {
	nodes := []*brokerNode{
		newBrokerNode(t, servers(t).url(0), Options{}, sendq.BrokerOptions{}),
		newBrokerNode(t, servers(t).url(1), Options{}, sendq.BrokerOptions{}),
	}
	names := []string{"alice", "bob"}
	users := []*user{nodes[0].join(t, "alice"), nodes[1].join(t, "bob")}
	for _, n := range nodes {
		eventually(t, func() bool { return n.hasNames("alice", "bob") })
	}
	const rooms = 100
	atOnce := 0
	for i := range rooms {
		var sees [2]bool
		var joining sync.WaitGroup
		start := make(chan struct{})
		for j, n := range nodes {
			joining.Go(func() {
				room := n.Room(fmt.Sprint(i))
				<-start
				assert.NoError(t, room.Join(names[j]))
				sees[j] = room.Has(names[1-j])
				room.PublishFrom(names[j], fmt.Appendf(nil, "%d from %s\n", i, names[j]))
			})
		}
		close(start)
		joining.Wait()
		for j, u := range users {
			line := fmt.Sprintf("%d from %s", i, names[1-j])
			eventually(t, func() bool { return sees[j] || slices.Contains(u.lines(), line) }, "%s: %s", names[j], line)
		}
		if !sees[0] && !sees[1] {
			atOnce++
		}
	}
	t.Logf("in %d of %d rooms, neither saw the other", atOnce, rooms)
}

// TestReplayWhilePublishing joins a room on a second node while the first one publishes. The history and
// later messages follow each other without a gap.
func TestReplayWhilePublishing(t *testing.T) {
	keep := sendq.BrokerOptions{ReplayMessages: 1 << 20}
	a := newBrokerNode(t, servers(t).url(0), Options{}, keep)
	b := newBrokerNode(t, servers(t).url(1), Options{}, keep)
	a.join(t, "alice")
	waitUntilConnected(t, a, b)
	twice := 0
	for i := range 20 {
		room := fmt.Sprint(i)
		require.NoError(t, a.Room(room).Join("alice"))
		stop, published := make(chan struct{}), make(chan int)
		go func() {
			for n := 0; ; n++ {
				a.Room(room).Publish(fmt.Appendln(nil, n))
				select {
				case <-stop:
					published <- n
					return
				case <-time.After(100 * time.Microsecond):
				}
			}
		}()
		eventually(t, func() bool { return b.Room(room).Has("alice") })
		name := "bob" + room
		u := b.join(t, name)
		_, err := b.Room(room).JoinReplay(name, 1<<20)
		require.NoError(t, err)
		close(stop)
		last := fmt.Sprint(<-published)
		eventually(t, func() bool { return slices.Contains(u.lines(), last) })
		got := make(map[string]bool)
		for _, line := range u.lines() {
			got[line] = true
		}
		twice += len(u.lines()) - len(got)
		for n := range len(got) {
			require.True(t, got[fmt.Sprint(n)], "%d of %d in room %s", n, len(got), room)
		}
	}
	t.Logf("%d messages came twice", twice)
}

// TestNamesArrive registers names on one node, and measures how long another one does not know them.
func TestNamesArrive(t *testing.T) {
	a := newBrokerNode(t, servers(t).url(0), Options{}, sendq.BrokerOptions{})
	b := newBrokerNode(t, servers(t).url(1), Options{}, sendq.BrokerOptions{})
	waitUntilConnected(t, a, b)
	var delays []time.Duration
	for i := range 200 {
		name := fmt.Sprint(i)
		a.join(t, name, "go")
		start := time.Now()
		for !b.Room("go").Has(name) {
			require.Less(t, time.Since(start), testTimeout)
			time.Sleep(100 * time.Microsecond)
		}
		delays = append(delays, time.Since(start))
	}
	slices.Sort(delays)
	t.Logf("known after %v, at most %v", delays[len(delays)/2], delays[len(delays)-1])
	require.Equal(t, slices.Sorted(a.Names()), slices.Sorted(b.Names()))
	require.Equal(t, slices.Sorted(a.Room("go").Members()), slices.Sorted(b.Room("go").Members()))
}
