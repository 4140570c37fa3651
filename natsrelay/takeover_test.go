package natsrelay

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/relay"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// owners returns the nodes in the entry of a name, once JetStream answers.
func (n *fakeNode) owners(t *testing.T, name string) []string {
	value, _ := n.readKey(t, nameKey(name))
	return strings.Fields(value)
}

// TestStaleEvict stalls a node until the node that takes a name over from it has given up. The name
// stays where it is, although the request arrives.
func TestStaleEvict(t *testing.T) {
	p, natsOptions := newProxy(t, servers(t).url(0))
	a := newFake(t, p.url(), Options{}, natsOptions...)
	b := newFake(t, servers(t).url(1), Options{})
	waitUntilAllKnow(t, a, b)
	evicted := make(chan struct{}, 10)
	a.onEvict = func(context.Context) { evicted <- struct{}{} }
	_, _, err := a.relay.Claim(t.Context(), "x", false)
	require.NoError(t, err)
	p.stall()
	ctx, cancel := context.WithCancel(t.Context())
	var token uint64
	ended := make(chan error)
	go func() {
		var err error
		token, _, err = b.relay.Claim(ctx, "x", true)
		ended <- err
	}()
	eventually(t, func() bool { return slices.Equal(b.owners(t, "x"), []string{b.relay.id, a.relay.id}) })
	cancel()
	require.ErrorIs(t, <-ended, context.Canceled)
	require.NotZero(t, token, "it was granted")
	eventually(t, func() bool { return slices.Equal(b.owners(t, "x"), []string{a.relay.id}) })
	p.restore()
	later, h, err := b.relay.Claim(t.Context(), "x", true) // asks after the stale request
	require.NoError(t, err)
	require.Greater(t, later, token)
	require.Equal(t, []string{"room"}, h.Rooms)
	require.Len(t, evicted, 1, "once, for the second claim")
}

// TestClaimIsGivenUp takes a name over from a node that answers too late. The entry goes back to that
// node, which no longer has the name, and to nobody from there.
func TestClaimIsGivenUp(t *testing.T) {
	for _, name := range []string{"x", strings.Repeat("x", 200)} {
		a := newFake(t, servers(t).url(0), Options{})
		b := newFake(t, servers(t).url(1), Options{})
		waitUntilAllKnow(t, a, b)
		_, _, err := a.relay.Claim(t.Context(), name, false)
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		a.block, a.onEvict = make(chan struct{}), func(context.Context) { cancel() }
		_, _, err = b.relay.Claim(ctx, name, true)
		require.ErrorIs(t, err, context.Canceled)
		eventually(t, func() bool { return slices.Equal(b.owners(t, name), []string{a.relay.id}) })
		close(a.block)
		eventually(t, func() bool { return len(b.owners(t, name)) == 0 })
	}
}

// TestClaimerDies lets a node die after it was granted a name and before it has asked for it. The
// name stays where it is, and another node gets it from there.
func TestClaimerDies(t *testing.T) {
	opts := Options{Lease: time.Second, Cluster: clusterName(t)}
	a := newFake(t, servers(t).url(0), opts)
	c := newFake(t, servers(t).url(2), opts)
	dying, err := Connect(servers(t).url(1), &opts)
	require.NoError(t, err)
	dies := startFake(t, dying)
	waitUntilAllKnow(t, a, c, dies)
	for _, name := range []string{"x", "y"} {
		_, _, err = a.relay.Claim(t.Context(), name, false)
		require.NoError(t, err)
		dying.registry.names[name] = holding{unknownRevision, true}
		_, _, err = dying.registry.acquire(t.Context(), name, 0, true)
		require.NoError(t, err)
	}
	require.Equal(t, []string{dying.id, a.relay.id}, c.owners(t, "x"))
	dying.stop()
	_, h, err := c.relay.Claim(t.Context(), "x", true)
	require.NoError(t, err)
	require.NotEmpty(t, h.Undelivered, "from the node that has the name")
	eventually(t, func() bool { return slices.Equal(c.owners(t, "y"), []string{a.relay.id}) })
	a.relay.Release("y")
	eventually(t, func() bool { return len(c.owners(t, "y")) == 0 })
}

// TestSilentOwner takes a name over while an earlier owner is silent. That node may have the name and
// be alive, so it loses its lease and notices.
func TestSilentOwner(t *testing.T) {
	a := newFake(t, servers(t).url(0), Options{Lease: time.Hour})
	b := newFake(t, servers(t).url(1), Options{Lease: time.Hour})
	waitUntilAllKnow(t, a, b)
	bucket := a.relay.registry.bucket
	a.relay.peerFor("silent").unansweredBeats.Store(a.relay.leaseBeats())
	_, err := bucket.write(t.Context(), leaseKey("silent"), "silent", 0)
	require.NoError(t, err)
	_, err = bucket.write(t.Context(), nameKey("x"), b.relay.id+" silent", 0)
	require.NoError(t, err)
	_, _, err = a.relay.Claim(t.Context(), "x", true)
	require.NoError(t, err)
	_, revision := a.readKey(t, leaseKey("silent"))
	require.Zero(t, revision)
}

// TestNewerClaimDoesNotWait asks a node for a name that it claims itself. If its claim is newer, the
// answer must not wait for it, because that claim waits for this node.
func TestNewerClaimDoesNotWait(t *testing.T) {
	a := newFake(t, servers(t).url(0), Options{Lease: time.Hour})
	g := a.relay.registry
	token, err := g.bucket.write(t.Context(), nameKey("x"), "other", 0)
	require.NoError(t, err)
	claims := func(revision uint64) {
		g.mu.Lock()
		g.names["x"] = holding{unknownRevision, true}
		g.mu.Unlock()
		g.recordRevision("x", revision)
	}
	asked := make(chan struct{}, 1)
	a.onEvict = func(ctx context.Context) {
		asked <- struct{}{}
		<-ctx.Done()
	}
	answered := make(chan response)
	ask := func() { answered <- g.evict(t.Context(), "x", "other", token) }
	claims(token - 1)
	go ask()
	<-asked
	claims(token + 1)
	<-answered
	claims(token + 1) // the fake has released the name
	go ask()
	require.False(t, (<-answered).found) // perhaps refused, because the fake has withdrawn the entry
	require.Empty(t, asked)
}

// TestLateTakeover takes a name over, and loses the answer to the write and the patience. The
// entry goes back.
func TestLateTakeover(t *testing.T) {
	a := newFake(t, servers(t).url(0), Options{Lease: time.Hour})
	b := newFake(t, servers(t).url(1), Options{Lease: time.Hour})
	waitUntilAllKnow(t, a, b)
	_, _, err := a.relay.Claim(t.Context(), "x", false)
	require.NoError(t, err)
	before, revision := a.readKey(t, nameKey("x"))
	ctx, cancel := context.WithCancel(t.Context())
	store := &lateStore{store: b.relay.registry.bucket, cancel: cancel}
	b.relay.registry.bucket = store
	_, _, err = b.relay.Claim(ctx, "x", true)
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, b.relay.registry.workers.wait(t.Context()))
	_, err = store.late()
	require.True(t, isConflict(err), "the write arrives at last")
	owner, now := a.readKey(t, nameKey("x"))
	require.Equal(t, before, owner)
	require.Greater(t, now, revision)
	eventually(t, func() bool {
		g := a.relay.registry
		g.mu.Lock()
		defer g.mu.Unlock()
		return g.names["x"].revision == now
	})
}

// A lateStore delays the first update of an entry.
type lateStore struct {
	store
	cancel func()
	late   func() (uint64, error)
}

func (s *lateStore) write(ctx context.Context, key, node string, revision uint64) (uint64, error) {
	if revision != 0 && s.late == nil {
		s.late = func() (uint64, error) { return s.store.write(context.Background(), key, node, revision) }
		s.cancel()
		return 0, context.Canceled
	}
	return s.store.write(ctx, key, node, revision)
}

// TestNewestInherits asks a node for a name that another one has asked for and given up, before the
// Writer of the name has ended. The newer one gets what the Writer leaves.
func TestNewestInherits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newFakeWithoutNATS()
		n.relay.node = &slowNode{fakeNode: n, turn: make(chan struct{}, 1)}
		n.relay.registry.bucket = &takenStore{owners: "c b", onRead: func() {}}
		answers := make(chan response, 2)
		for i, by := range []string{"b", "c"} {
			go func() { answers <- n.relay.registry.evict(t.Context(), "x", by, uint64(6+i)) }()
			time.Sleep(time.Millisecond)
		}
		require.Equal(t, response{}, <-answers)
		require.Equal(t, response{found: true, rooms: []string{"room"}}, <-answers)
	})
}

// TestNewestInheritsFromBoth is TestNewestInherits of a name that was registered again in between. The
// newest node gets what both Writers leave.
func TestNewestInheritsFromBoth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newFakeWithoutNATS()
		n.onEvict = func(context.Context) { time.Sleep(time.Second) }
		g := n.relay.registry
		g.bucket = &takenStore{owners: "c b", onRead: func() {}}
		answers := make(chan response, 2)
		evict := func(by string, token uint64) { answers <- g.evict(t.Context(), "x", by, token) }
		go evict("b", 6)
		time.Sleep(time.Millisecond)
		go evict("c", 7)
		require.Equal(t, response{}, <-answers)
		left := []byte("left by x")
		require.Equal(t, response{found: true, messages: [][]byte{left, left}, rooms: []string{"room"}}, <-answers)
	})
}

// A slowNode has a name, and gives it up slowly.
type slowNode struct {
	*fakeNode
	turn   chan struct{} // has a value while somebody has the turn
	isGone bool
}

func (n *slowNode) Evict(context.Context, string, string, uint64) (relay.Handover, bool) {
	n.turn <- struct{}{}
	defer func() { <-n.turn }()
	if n.isGone {
		return relay.Handover{}, false
	}
	time.Sleep(time.Second)
	n.isGone = true
	return relay.Handover{Rooms: []string{"room"}}, true
}

// TestTakeoverRace registers a name on three nodes again and again, while somebody sends to it.
// Every registration succeeds, each Writer gets messages in order, and one node has the name in the
// end.
func TestTakeoverRace(t *testing.T) {
	var nodes []*brokerNode
	for i := range 3 {
		nodes = append(nodes, newBrokerNode(t, servers(t).url(i), Options{}, sendq.BrokerOptions{NamePolicy: sendq.NameTakeover}))
	}
	waitUntilConnected(t, nodes...)
	nodes[0].join(t, "x")
	var mu sync.Mutex
	users := []*user{}
	var racing sync.WaitGroup
	for i, n := range nodes {
		racing.Go(func() {
			for range 15 {
				u := newUser(time.Duration(i) * time.Millisecond)
				if assert.NoError(t, n.Register("x", u.writer)) {
					mu.Lock()
					users = append(users, u)
					mu.Unlock()
				}
			}
		})
	}
	done := make(chan struct{})
	go func() {
		racing.Wait()
		close(done)
	}()
	sent := 0
	for isRacing := true; isRacing; {
		select {
		case <-done:
			isRacing = false
		default:
			sent++
			if err := nodes[sent%3].Send("x", fmt.Appendln(nil, sent)); err != nil {
				assert.ErrorIs(t, err, sendq.ErrUnknownName, "it has moved twice since")
			}
		}
	}
	for _, n := range nodes {
		eventually(t, func() bool { return n.hasNames("x") })
	}
	here := 0
	for _, n := range nodes {
		if _, ok := n.Lookup("x"); ok {
			here++
			owner, _ := (&fakeNode{relay: n.relay}).readKey(t, nameKey("x"))
			require.Equal(t, n.id, strings.Fields(owner)[0])
		}
	}
	require.Equal(t, 1, here)
	for _, u := range users {
		last := 0
		for _, line := range u.lines() {
			i := 0
			_, err := fmt.Sscan(line, &i)
			require.NoError(t, err)
			require.Greater(t, i, last)
			last = i
		}
	}
	t.Logf("%d messages to %d Writers", sent, len(users))
}
