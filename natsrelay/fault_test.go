package natsrelay

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sendq-go/sendq"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestCluster registers, sends, publishes and replays on three nodes.
func TestCluster(t *testing.T) {
	var nodes []*brokerNode
	for i := range 3 {
		nodes = append(nodes, newBrokerNode(t, servers(t).url(i), Options{Node: string(rune('a' + i))}, sendq.BrokerOptions{ReplayMessages: 10}))
	}
	a, b, c := nodes[0], nodes[1], nodes[2]
	alice, bob := a.join(t, "alice", "go"), b.join(t, "bob", "go")
	for _, n := range nodes {
		eventually(t, func() bool { return n.hasNames("alice", "bob") && n.Room("go").Len() == 2 })
	}
	assert.ErrorIs(t, c.Register("alice", newUser(0).writer), sendq.ErrNameTaken)
	assert.NoError(t, a.Send("bob", []byte("direct\n")))
	assert.ErrorIs(t, a.Send("carol", []byte("direct\n")), sendq.ErrUnknownName)
	r := c.SendTo([]string{"alice", "carol", "bob"}, []byte("letter\n"))
	assert.Equal(t, 2, r.Accepted)
	assert.Len(t, r.Refused, 1)
	// Messages from several nodes may arrive in any order.
	eventually(t, func() bool { return len(alice.lines()) == 1 && len(bob.lines()) == 2 })
	assert.Zero(t, c.Room("go").Publish([]byte("room\n")), "members on this node")
	eventually(t, func() bool { return len(alice.lines()) == 2 && len(bob.lines()) == 3 })
	b.BroadcastFrom("bob", []byte("all\n"))
	eventually(t, func() bool { return len(alice.lines()) == 3 })
	assert.Equal(t, []string{"letter", "room", "all"}, alice.lines())
	assert.Equal(t, []string{"direct", "letter", "room"}, bob.lines())
	carol := c.join(t, "carol")
	n, err := c.Room("go").JoinReplay("carol", 10)
	assert.NoError(t, err)
	assert.Equal(t, 1, n)
	eventually(t, func() bool { return slices.Equal(carol.lines(), []string{"room"}) })
	require.NoError(t, b.Shutdown(t.Context()))
	<-bob.writer.Done()
	for _, n := range []*brokerNode{a, c} {
		eventually(t, func() bool { return n.hasNames("alice", "carol") })
	}
	dave := c.join(t, "bob")
	eventually(t, func() bool { return a.Send("bob", []byte("again\n")) == nil })
	eventually(t, func() bool { return slices.Equal(dave.lines(), []string{"again"}) })
}

// TestOddNames uses names with a special meaning in NATS, and names that NATS does not allow.
func TestOddNames(t *testing.T) {
	odd := []string{
		"", " ", "a b", ".", "..", "a.b", ".a", ">", "*", "a.>", "a.*", "$SYS", "A", "a", "\x00", "\r\n", "ä", "日本", "\xff\xfe",
		strings.Repeat("x", 100), strings.Repeat("x", 101), strings.Repeat("x", 500), strings.Repeat("x", 499) + "y",
		strings.Repeat("x", 100_000),
	}
	a := newBrokerNode(t, servers(t).url(0), Options{}, sendq.BrokerOptions{})
	b := newBrokerNode(t, servers(t).url(1), Options{}, sendq.BrokerOptions{})
	waitUntilConnected(t, a, b)
	users := make(map[string]*user)
	for _, name := range odd {
		users[name] = a.join(t, name, name)
	}
	slices.Sort(odd)
	eventually(t, func() bool { return b.hasNames(odd...) })
	for _, name := range odd {
		require.ErrorIs(t, b.Register(name, newUser(0).writer), sendq.ErrNameTaken, "%q", name)
		require.NoError(t, b.Send(name, []byte("direct\n")), "%q", name)
		b.Room(name).PublishFrom("somebody", []byte("room\n"))
	}
	for name, u := range users {
		eventually(t, func() bool { return slices.Equal(u.lines(), []string{"direct", "room"}) }, "%q", name)
		require.True(t, a.Unregister(name, u.writer))
	}
	eventually(t, func() bool { return b.Len() == 0 })
	for _, name := range odd {
		eventually(t, func() bool { return b.Register(name, newUser(0).writer) == nil }, "%q", name)
	}
}

// TestKilledNode kills a process with SIGKILL. The other nodes see its names leave, and can register
// them.
func TestKilledNode(t *testing.T) {
	const lease = 2 * time.Second
	if url := os.Getenv("NATSRELAY_TEST_URL"); url != "" {
		c := newBrokerNode(t, url, Options{Lease: lease, Cluster: os.Getenv("NATSRELAY_TEST_CLUSTER")}, sendq.BrokerOptions{})
		c.join(t, "doomed", "go")
		c.join(t, "doomed too")
		<-t.Context().Done() // never
	}
	child := exec.Command(os.Args[0], "-test.run=^TestKilledNode$", "-test.timeout=1m")
	child.Env = append(os.Environ(), "NATSRELAY_TEST_URL="+servers(t).url(2), "NATSRELAY_TEST_CLUSTER="+clusterName(t))
	require.NoError(t, child.Start())
	defer child.Wait()
	defer child.Process.Kill()
	opts := Options{Lease: lease, Timeout: 5 * time.Second}
	a := newBrokerNode(t, servers(t).url(0), opts, sendq.BrokerOptions{})
	b := newBrokerNode(t, servers(t).url(1), opts, sendq.BrokerOptions{})
	for _, n := range []*brokerNode{a, b} {
		eventually(t, func() bool { return n.hasNames("doomed", "doomed too") && n.Room("go").Has("doomed") })
	}
	require.NoError(t, a.Send("doomed", []byte("hello\n")))
	require.ErrorIs(t, a.Register("doomed", newUser(0).writer), sendq.ErrNameTaken)

	start := time.Now()
	require.NoError(t, child.Process.Kill())
	err := a.Send("doomed", []byte("there?\n"))
	assert.True(t, errors.Is(err, sendq.ErrUnconfirmed) || errors.Is(err, sendq.ErrUnknownName), "%v", err)
	for _, n := range []*brokerNode{a, b} {
		eventually(t, func() bool {
			return n.hasEvent(func(e sendq.Event) bool {
				return e.Kind == sendq.EventLeft && e.Name == "doomed" && errors.Is(e.Cause, ErrNodeLost)
			})
		})
	}
	t.Logf("seen to leave after %v", time.Since(start))
	assert.ErrorIs(t, a.Send("doomed", []byte("there?\n")), sendq.ErrUnknownName)
	u := newUser(0)
	eventually(t, func() bool { return b.Register("doomed", u.writer) == nil })
	t.Logf("free after %v", time.Since(start))
	eventually(t, func() bool { return a.Send("doomed", []byte("welcome\n")) == nil })
	eventually(t, func() bool { return slices.Equal(u.lines(), []string{"welcome"}) })
	eventually(t, func() bool {
		_, revision, err := a.relay.registry.bucket.read(t.Context(), nameKey("doomed too"))
		return err == nil && revision == 0
	}, "entries of the dead node are swept")
}

// TestPartitionedUser registers a name on both sides of a partition that is longer than a Lease. When
// the partition heals, the first user loses the name.
func TestPartitionedUser(t *testing.T) {
	opts := Options{Lease: time.Second}
	p, natsOptions := newProxy(t, servers(t).url(0))
	a := newBrokerNode(t, p.url(), opts, sendq.BrokerOptions{}, natsOptions...)
	b := newBrokerNode(t, servers(t).url(1), opts, sendq.BrokerOptions{})
	first, other := a.join(t, "x", "go"), a.join(t, "y", "go")
	b.join(t, "z", "go")
	eventually(t, func() bool { return b.hasNames("x", "y", "z") && a.hasNames("x", "y", "z") })
	p.cut()
	eventually(t, func() bool { return a.hasNames("x", "y") && b.hasNames("z") })
	assert.NoError(t, a.Send("x", []byte("local\n")))
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	assert.Error(t, a.RegisterContext(ctx, "w", newUser(0).writer))
	second := newUser(0)
	eventually(t, func() bool { return b.Register("x", second.writer) == nil })
	p.restore()
	healed := time.Now()
	<-first.writer.Done()
	t.Logf("lost %v after it was over", time.Since(healed))
	assert.ErrorIs(t, first.writer.Err(), sendq.ErrNameLost)
	for _, n := range []*brokerNode{a, b} {
		eventually(t, func() bool { return n.hasNames("x", "y", "z") && n.Room("go").Len() == 2 })
		require.NoError(t, n.Send("x", []byte("second\n")))
		require.NoError(t, n.Send("y", []byte("other\n")))
	}
	eventually(t, func() bool { return len(second.lines()) == 2 && len(other.lines()) == 2 })
	assert.Equal(t, []string{"local"}, first.lines())
	assert.NoError(t, second.writer.Err())
}

// TestPartitionUnderLoad publishes to a room while a node is cut off for longer than a Lease. The node
// learns how many messages its members have missed.
func TestPartitionUnderLoad(t *testing.T) {
	opts := Options{Lease: 3 * time.Second}
	p, natsOptions := newProxy(t, servers(t).url(0))
	a := newBrokerNode(t, p.url(), opts, sendq.BrokerOptions{}, natsOptions...)
	b := newBrokerNode(t, servers(t).url(1), opts, sendq.BrokerOptions{})
	u := a.join(t, "x", "go")
	eventually(t, func() bool { return b.Room("go").Has("x") })
	sent := 0
	publish := func() {
		b.Room("go").Publish(fmt.Appendf(nil, "%d\n", sent))
		sent++
	}
	for range 1000 {
		publish()
	}
	addressed := func() int64 {
		s := b.relay.Stats().Nodes[a.relay.id]
		return s.Posted + s.Dropped
	}
	require.EqualValues(t, sent, addressed())
	p.cut()
	for {
		publish()
		if addressed() < int64(sent) { // x has left, so nobody has missed the message
			sent--
			break
		}
		time.Sleep(time.Millisecond)
	}
	p.restore()
	eventually(t, func() bool { return b.Room("go").Has("x") })
	for range 1000 {
		publish()
	}
	require.EqualValues(t, sent, addressed())
	eventually(t, func() bool { return len(u.lines())+a.missed() == sent })
	requireAscending(t, u.lines())
	assert.Positive(t, a.missed())
}

func requireAscending(t *testing.T, lines []string) {
	t.Helper()
	last := -1
	for _, l := range lines {
		var i int
		_, err := fmt.Sscan(l, &i)
		require.NoError(t, err)
		require.Greater(t, i, last)
		last = i
	}
}

// TestTakeover registers one name again and again on all nodes while others send to it. Each message
// arrives once and in the order of its sender.
func TestTakeover(t *testing.T) {
	var nodes []*brokerNode
	for i := range 3 {
		nodes = append(nodes, newBrokerNode(t, servers(t).url(i), Options{}, sendq.BrokerOptions{NamePolicy: sendq.NameTakeover}))
	}
	var users []*user
	login := func(n *brokerNode) {
		u := newUser(100 * time.Microsecond) // so that each user leaves messages to the next one
		users = append(users, u)
		require.NoError(t, n.Register("x", u.writer))
	}
	waitUntilConnected(t, nodes...)
	login(nodes[0])
	require.NoError(t, nodes[0].Room("go").Join("x"))
	for _, n := range nodes {
		eventually(t, func() bool { return n.hasNames("x") })
	}
	stop := make(chan struct{})
	var senders sync.WaitGroup
	accepted := make([][]int, 6)
	for i := range accepted {
		senders.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				err := nodes[i%3].Send("x", fmt.Appendf(nil, "%d:%d\n", i, n))
				if err == nil {
					accepted[i] = append(accepted[i], n)
				} else { // the name may have moved on each time before the message arrived
					assert.ErrorIs(t, err, sendq.ErrUnknownName)
				}
				if n%50 == 0 {
					time.Sleep(100 * time.Microsecond)
				}
			}
		})
	}
	for i := range 30 {
		time.Sleep(time.Millisecond)
		login(nodes[(i+1)%3])
		login(nodes[(i+1)%3])
	}
	close(stop)
	senders.Wait()
	assert.True(t, nodes[1].Room("go").Has("x"))
	for _, n := range nodes {
		require.NoError(t, n.Shutdown(t.Context()))
		assert.Empty(t, n.handedBack)
	}
	got := make([][]int, len(accepted))
	for i, u := range users {
		if i < len(users)-1 {
			assert.ErrorIs(t, u.writer.Err(), sendq.ErrTakenOver)
		}
		for _, line := range u.lines() {
			var sender, n int
			_, err := fmt.Sscanf(line, "%d:%d", &sender, &n)
			require.NoError(t, err)
			got[sender] = append(got[sender], n)
		}
	}
	for i := range accepted {
		assert.True(t, slices.Equal(accepted[i], got[i]), "of sender %d", i)
	}
}

// TestDrainOfBroker shuts a node down while it and others publish. All accepted messages arrive.
func TestDrainOfBroker(t *testing.T) {
	a := newBrokerNode(t, servers(t).url(0), Options{}, sendq.BrokerOptions{})
	b := newBrokerNode(t, servers(t).url(1), Options{}, sendq.BrokerOptions{})
	x, y := a.join(t, "x", "go"), b.join(t, "y", "go")
	eventually(t, func() bool { return a.hasNames("x", "y") && b.hasNames("x", "y") })
	const messages = 20000
	accepted := 0
	for i := range messages {
		a.Room("go").PublishFrom("x", fmt.Appendf(nil, "%d\n", i))
		if i%100 == 0 && b.Send("x", []byte("hello\n")) == nil {
			accepted++
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	require.NoError(t, a.Shutdown(ctx))
	<-x.writer.Done()
	assert.Len(t, x.lines(), accepted)
	eventually(t, func() bool { return len(y.lines()) == messages })
	requireAscending(t, y.lines())
	eventually(t, func() bool { return b.hasNames("y") })
	assert.ErrorIs(t, b.Send("x", []byte("hello\n")), sendq.ErrUnknownName)
	u := b.join(t, "x")
	assert.Empty(t, u.lines())
}
