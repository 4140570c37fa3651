package natsrelay

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/relay"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestSimultaneousClaims claims a name on three nodes at once. Exactly one of them wins each round.
func TestSimultaneousClaims(t *testing.T) {
	var nodes []*fakeNode
	for i := range 3 {
		nodes = append(nodes, newFake(t, servers(t).url(i), Options{}))
	}
	for i := range 50 {
		var wg sync.WaitGroup
		errs := make([]error, len(nodes))
		for j, n := range nodes {
			wg.Go(func() { _, _, errs[j] = n.relay.Claim(t.Context(), "x", false) })
		}
		wg.Wait()
		winner := -1
		for j, err := range errs {
			if err == nil {
				require.Equal(t, -1, winner, "round %d: two have won", i)
				winner = j
			} else {
				require.ErrorIs(t, err, sendq.ErrNameTaken)
			}
		}
		require.NotEqual(t, -1, winner, "round %d: none has won", i)
		nodes[winner].relay.Release("x")
		free := func() bool {
			_, revision, err := nodes[0].relay.registry.bucket.read(t.Context(), nameKey("x"))
			return err == nil && revision == 0
		}
		eventually(t, free)
	}
}

// TestRegistryIsLost deletes the bucket with 2,000 names of two nodes. The nodes enter all names
// again, and a third node cannot claim one.
func TestRegistryIsLost(t *testing.T) {
	opts := Options{Lease: 3 * time.Second}
	a := newFake(t, servers(t).url(0), opts)
	b := newFake(t, servers(t).url(1), opts)
	const names = 1000 // of each
	claim := func(n *fakeNode, prefix string) {
		var wg sync.WaitGroup
		for w := range 50 {
			wg.Go(func() {
				for i := w; i < names; i += 50 {
					_, _, err := n.relay.Claim(t.Context(), fmt.Sprint(prefix, i), false)
					assert.NoError(t, err)
				}
			})
		}
		wg.Wait()
	}
	start := time.Now()
	claim(a, "a")
	claim(b, "b")
	t.Logf("claimed %d names in %v", 2*names, time.Since(start))
	g := a.relay.registry
	js := g.bucket.(*bucket).js
	require.NoError(t, js.DeleteStream(t.Context(), "KV_"+a.relay.opts.Cluster))
	start = time.Now()
	entered := func() int {
		s, err := js.Stream(t.Context(), "KV_"+a.relay.opts.Cluster)
		if err != nil {
			return 0
		}
		return int(s.CachedInfo().State.Msgs)
	}
	eventually(t, func() bool { return entered() == 2*names+2 })
	t.Logf("entered again after %v", time.Since(start))
	c := newFake(t, servers(t).url(2), opts)
	for i := range 100 {
		_, _, err := c.relay.Claim(t.Context(), fmt.Sprint("a", i), false)
		require.ErrorIs(t, err, sendq.ErrNameTaken)
	}
	assert.Empty(t, a.recorded().lost)
	assert.Empty(t, b.recorded().lost)
}

// TestNameInLostRegistry deletes the bucket and claims a name of another node before that node has
// entered it again. The other node loses the name.
func TestNameInLostRegistry(t *testing.T) {
	a := newRenewedFake(t, servers(t).url(0))
	b := newRenewedFake(t, servers(t).url(1))
	waitUntilAllKnow(t, a, b)
	first, _, err := a.relay.Claim(t.Context(), "x", false)
	require.NoError(t, err)
	require.NoError(t, a.relay.registry.bucket.(*bucket).js.DeleteStream(t.Context(), "KV_"+a.relay.opts.Cluster))
	eventually(t, func() bool { return b.relay.registry.renew(t.Context()) == nil })
	second, _, err := b.relay.Claim(t.Context(), "x", false)
	require.NoError(t, err)
	require.Greater(t, second, first)
	require.Empty(t, a.recorded().lost)
	eventually(t, func() bool { return a.relay.registry.renew(t.Context()) == nil })
	eventually(t, func() bool { return slices.Equal(a.recorded().lost, []string{"x"}) })
	assert.Empty(t, b.recorded().lost)
}

// newRenewedFake returns a node that does not renew its lease by itself for the time of a test.
func newRenewedFake(t *testing.T, url string) *fakeNode {
	r, err := Connect(url, &Options{Cluster: clusterName(t), Lease: time.Hour, Timeout: testTimeout})
	require.NoError(t, err)
	first := r.registry.leaseRevision()
	n := startFake(t, r)
	eventually(t, func() bool { return r.registry.leaseRevision() != first }) // renewed by renewLoop
	return n
}

// TestSlowClock deletes a bucket that was created by a fast clock. The tokens of the new one are greater
// nevertheless.
func TestSlowClock(t *testing.T) {
	a := newRenewedFake(t, servers(t).url(0))
	g := a.relay.registry
	highest := uint64(time.Now().Add(time.Hour).UnixMicro())
	g.mu.Lock()
	g.highest = highest
	g.mu.Unlock()
	require.NoError(t, g.bucket.(*bucket).js.DeleteStream(t.Context(), "KV_"+a.relay.opts.Cluster))
	eventually(t, func() bool { return g.renew(t.Context()) == nil })
	token, _, err := a.relay.Claim(t.Context(), "x", false)
	require.NoError(t, err)
	require.Greater(t, token, highest)
}

// TestOlderLease finds the lease older than it was. Part of the bucket is lost, so all names are verified.
func TestOlderLease(t *testing.T) {
	a := newFakeWithoutNATS()
	g := a.relay.registry
	g.lease, g.highest = 10, 10
	g.names["x"] = holding{revision: 9}
	s := &olderStore{node: a.relay.id}
	g.bucket = s
	require.NoError(t, g.renew(t.Context()))
	require.NoError(t, g.workers.wait(t.Context()))
	require.Equal(t, []string{leaseKey(a.relay.id), leaseKey(a.relay.id), nameKey("x")}, s.written)
}

// An olderStore has a lease at revision 5. Other nodes have written up to 19.
type olderStore struct {
	store
	node    string
	written []string
}

func (s *olderStore) open(context.Context, uint64) error { return nil }

func (s *olderStore) read(context.Context, string) (string, uint64, error) { return s.node, 5, nil }

func (s *olderStore) write(_ context.Context, key, _ string, revision uint64) (uint64, error) {
	s.written = append(s.written, key)
	if revision > 5 {
		return 0, jetstream.ErrKeyExists
	}
	return uint64(19 + len(s.written)), nil
}

// TestClaimEndsWithClose closes a node while a claim waits for JetStream.
func TestClaimEndsWithClose(t *testing.T) {
	p, natsOptions := newProxy(t, servers(t).url(0))
	a := newFake(t, p.url(), Options{Lease: time.Hour, Timeout: time.Hour}, natsOptions...)
	p.stall()
	claimed := make(chan error)
	go func() {
		_, _, err := a.relay.Claim(t.Context(), "x", false)
		claimed <- err
	}()
	eventually(t, func() bool { return a.relay.Stats().Names == 1 })
	done, cancel := context.WithCancel(t.Context())
	cancel()
	require.Error(t, a.relay.Close(done), "the name may still be taken")
	select {
	case err := <-claimed:
		require.ErrorIs(t, err, sendq.ErrClosed)
	case <-time.After(testTimeout):
		require.Fail(t, "Claim still waits")
	}
}

// TestPartition cuts a node off for longer than a Lease, so that others can claim its names. When the
// node comes back it loses such names and keeps the rest.
func TestPartition(t *testing.T) {
	opts := Options{Lease: time.Second}
	p, natsOptions := newProxy(t, servers(t).url(0))
	a := newFake(t, p.url(), opts, natsOptions...)
	b := newFake(t, servers(t).url(1), opts)
	c := newFake(t, servers(t).url(2), opts)
	eventually(t, func() bool { return a.knows(b, c) && b.knows(a, c) && c.knows(a, b) })
	for _, name := range []string{"x", "y"} {
		_, _, err := a.relay.Claim(t.Context(), name, false)
		require.NoError(t, err)
		a.announce(relay.Event{Kind: relay.EventJoined, Name: name})
	}
	_, _, err := b.relay.Claim(t.Context(), "x", false)
	require.ErrorIs(t, err, sendq.ErrNameTaken)

	p.cut()
	eventually(t, func() bool { return !b.knows(a) })
	_, _, err = b.relay.Claim(t.Context(), "x", false)
	require.NoError(t, err, "the name is free after a Lease")
	eventually(t, func() bool { return !a.knows(b) && !a.knows(c) && !c.knows(a) })
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, _, err = a.relay.Claim(ctx, "z", false)
	require.Error(t, err, "a node that is cut off claims no names")
	b.announce(relay.Event{Kind: relay.EventJoined, Name: "x"})

	p.restore()
	eventually(t, func() bool { return slices.Equal(a.recorded().lost, []string{"x"}) })
	eventually(t, func() bool { return a.knows(b, c) && b.knows(a, c) && c.knows(a, b) })
	assert.Equal(t, []string{"Joined x "}, a.recorded().learned[b.relay.id])
	eventually(t, func() bool {
		holder, _, err := c.relay.registry.bucket.read(t.Context(), nameKey("y"))
		return err == nil && holder == a.relay.id
	})
	assert.Empty(t, b.recorded().lost)
	_, _, err = c.relay.Claim(t.Context(), "y", false)
	require.ErrorIs(t, err, sendq.ErrNameTaken)
}

// TestLateHandover takes over a name from a node that answers too late. The undelivered messages of
// the name are handed back.
func TestLateHandover(t *testing.T) {
	a := newFake(t, servers(t).url(0), Options{})
	b := newFake(t, servers(t).url(1), Options{})
	waitUntilAllKnow(t, a, b)
	_, _, err := a.relay.Claim(t.Context(), "x", false)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	a.block, a.onEvict = make(chan struct{}), func(context.Context) { cancel() }
	_, _, err = b.relay.Claim(ctx, "x", true)
	require.ErrorIs(t, err, context.Canceled)
	close(a.block)
	eventually(t, func() bool { return slices.Equal(b.recorded().handedBack, []string{"x"}) })
	assert.Empty(t, a.recorded().handedBack)
	eventually(t, func() bool {
		_, _, err := b.relay.Claim(t.Context(), "x", true)
		return err == nil
	})
}

// TestLateEvict asks for a name that is not free in time, because a registration there takes long. The
// name must not move later, when nobody waits for it any longer.
func TestLateEvict(t *testing.T) {
	a := newFake(t, servers(t).url(0), Options{Timeout: 5 * time.Second}) // longer, so it never answers b in time
	b := newFake(t, servers(t).url(1), Options{Timeout: 3 * time.Second})
	waitUntilAllKnow(t, a, b)
	_, _, err := a.relay.Claim(t.Context(), "x", false)
	require.NoError(t, err)
	gaveUp := make(chan struct{}, 10)
	a.onEvict = func(ctx context.Context) {
		<-ctx.Done()
		gaveUp <- struct{}{}
	}
	_, _, err = b.relay.Claim(t.Context(), "x", true)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	select {
	case <-gaveUp:
	case <-time.After(testTimeout):
		require.Fail(t, "Evict still waits")
	}
}

// TestUnheardNode claims names of nodes that have not been heard yet. If such a node is heard, the
// name is taken. Otherwise it is free a Lease later, because the node died before this one started.
func TestUnheardNode(t *testing.T) {
	opts := Options{Lease: 2 * time.Second, Timeout: time.Minute, Cluster: clusterName(t)}
	a := newFake(t, servers(t).url(0), opts)
	holder := func(name string) *Relay {
		r, err := Connect(servers(t).url(1), &opts)
		require.NoError(t, err)
		_, err = r.registry.bucket.write(t.Context(), nameKey(name), r.id, 0)
		require.NoError(t, err)
		return r
	}
	comes, silent := holder("x"), holder("y")
	t.Cleanup(silent.stop)
	claimed := make(chan error)
	go func() {
		_, _, err := a.relay.Claim(t.Context(), "x", false)
		claimed <- err
	}()
	eventually(t, func() bool { return a.relay.peer(comes.id) != nil })
	startFake(t, comes)
	require.ErrorIs(t, <-claimed, sendq.ErrNameTaken)
	_, _, err := a.relay.Claim(t.Context(), "y", false)
	require.NoError(t, err)
	assert.GreaterOrEqual(t, a.relay.peer(silent.id).unansweredBeats.Load(), a.relay.leaseBeats())
}

// TestLateEntry claims a name while JetStream does not answer, and lets the write happen after all
// later requests. In the end the name is free.
func TestLateEntry(t *testing.T) {
	a := newFake(t, servers(t).url(0), Options{Lease: time.Hour})
	g := a.relay.registry
	b := g.bucket.(*bucket)
	kv, _ := b.handles()
	late := &lateKV{KeyValue: kv}
	b.mu.Lock()
	b.kv = late
	b.mu.Unlock()
	late.isLate.Store(true)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, _, err := g.claim(ctx, "x", false)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	late.isLate.Store(false)
	require.NoError(t, g.workers.wait(t.Context()))
	late.write()
	_, revision := a.readKey(t, nameKey("x"))
	assert.Zero(t, revision)
}

// readKey returns the value and revision of a key, once JetStream answers.
func (n *fakeNode) readKey(t *testing.T, key string) (holder string, revision uint64) {
	eventually(t, func() (isRead bool) {
		var err error
		holder, revision, err = n.relay.registry.bucket.read(t.Context(), key)
		return err == nil
	})
	return holder, revision
}

// TestReleaseOfPassedEntry releases a name whose entry has a revision that its node was not told. The
// entry is removed.
func TestReleaseOfPassedEntry(t *testing.T) {
	a := newFake(t, servers(t).url(0), Options{Lease: time.Hour})
	token, _, err := a.relay.Claim(t.Context(), "x", false)
	require.NoError(t, err)
	_, err = a.relay.registry.bucket.write(t.Context(), nameKey("x"), a.relay.id, token)
	require.NoError(t, err)
	a.relay.Release("x")
	eventually(t, func() bool {
		_, revision := a.readKey(t, nameKey("x"))
		return revision == 0
	})
}

// TestGhostEntry registers a name whose entry has a node without the name, as after a very late write.
// The entry is removed.
func TestGhostEntry(t *testing.T) {
	a := newFake(t, servers(t).url(0), Options{})
	b := newFake(t, servers(t).url(1), Options{})
	waitUntilAllKnow(t, a, b)
	_, err := b.relay.registry.bucket.write(t.Context(), nameKey("x"), a.relay.id, 0)
	require.NoError(t, err)
	_, _, err = b.relay.Claim(t.Context(), "x", false)
	require.ErrorIs(t, err, sendq.ErrNameTaken)
	eventually(t, func() bool {
		_, _, err := b.relay.Claim(t.Context(), "x", false)
		return err == nil
	})
}

// TestVerifyAgain loses the lease while a node looks up a name that another one has announced. The name
// is lost.
func TestVerifyAgain(t *testing.T) {
	a := newFakeWithoutNATS()
	g := a.relay.registry
	a.relay.peerFor("b").state = current
	g.names["x"] = holding{revision: 5}
	g.bucket = &takenStore{owners: "b " + a.relay.id, onRead: func() { g.names["x"] = holding{revision: unknownRevision} }}
	require.NoError(t, g.verify(t.Context(), "x", 5, "b"))
	assert.Equal(t, []string{"x"}, a.recorded().lost)
}

// TestVerifyWhileFull lets a node register more names again than there are workers, while JetStream
// is full. Meanwhile it releases another name, which makes room. Then it registers all of them.
func TestVerifyWhileFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newFakeWithoutNATS()
		g, s := a.relay.registry, new(fullStore)
		s.isFull.Store(true)
		g.bucket = s
		names := make(map[string]holding)
		for i := range 2 * maxWorkers {
			names[fmt.Sprint(i)] = holding{revision: 5}
		}
		g.names = maps.Clone(names)
		for name := range names {
			g.verifyLater(name, "")
		}
		time.Sleep(time.Second)
		g.removeLater("y", 5)
		time.Sleep(time.Minute)
		synctest.Wait()
		for name := range names {
			assert.EqualValues(t, 9, g.names[name].revision, name)
		}
		a.relay.stop()
	})
}

// A fullStore has no room for a write until an entry is removed.
type fullStore struct {
	store
	isFull atomic.Bool
}

func (s *fullStore) write(context.Context, string, string, uint64) (uint64, error) {
	if s.isFull.Load() {
		return 0, &jetstream.APIError{ErrorCode: 10047}
	}
	return 9, nil
}

func (s *fullStore) read(context.Context, string) (string, uint64, error) { return "", 0, nil }

func (s *fullStore) remove(context.Context, string, uint64) error {
	s.isFull.Store(false)
	return nil
}

// A takenStore has one entry. It calls onRead when that is read.
type takenStore struct {
	store
	owners string
	onRead func()
}

func (s *takenStore) write(context.Context, string, string, uint64) (uint64, error) {
	return 0, jetstream.ErrKeyExists
}

func (s *takenStore) read(context.Context, string) (string, uint64, error) {
	s.onRead()
	return s.owners, 7, nil
}

// TestCloseOnReturn closes a node before it has opened the bucket again. Its lease is removed.
func TestCloseOnReturn(t *testing.T) {
	a := newFake(t, servers(t).url(0), Options{})
	eventually(t, func() bool { return a.relay.lastEcho.Load() > 0 })
	a.relay.registry.bucket.reset()
	require.NoError(t, a.relay.Close(t.Context()))
	b := newFake(t, servers(t).url(0), Options{})
	_, revision := b.readKey(t, leaseKey(a.relay.id))
	assert.Zero(t, revision)
}

// TestCloseUnused closes a Relay that no Broker uses. Its lease is removed.
func TestCloseUnused(t *testing.T) {
	r, err := Connect(servers(t).url(0), &Options{Cluster: clusterName(t)})
	require.NoError(t, err)
	b := newFake(t, servers(t).url(1), Options{})
	_, revision := b.readKey(t, leaseKey(r.id))
	require.NotZero(t, revision)
	require.NoError(t, r.Close(t.Context()))
	_, revision = b.readKey(t, leaseKey(r.id))
	assert.Zero(t, revision)
}

// TestLateRenewal closes a node after a renewal of its lease without its knowledge. The lease is
// removed.
func TestLateRenewal(t *testing.T) {
	a := newFake(t, servers(t).url(0), Options{Lease: time.Hour})
	b := newFake(t, servers(t).url(1), Options{Lease: time.Hour})
	key := leaseKey(a.relay.id)
	eventually(t, func() bool { // fails if the node renews it at the same time
		_, revision := b.readKey(t, key)
		_, err := b.relay.registry.bucket.write(t.Context(), key, a.relay.id, revision)
		return err == nil
	})
	require.NoError(t, a.relay.Close(t.Context()))
	_, revision := b.readKey(t, key)
	assert.Zero(t, revision)
}

// TestLostAnswer loses the answer to the renewal of a lease that had vanished with a name of its node.
// The name is entered again nevertheless.
func TestLostAnswer(t *testing.T) {
	a := newRenewedFake(t, servers(t).url(0))
	_, _, err := a.relay.Claim(t.Context(), "x", false)
	require.NoError(t, err)
	g := a.relay.registry
	for _, key := range []string{leaseKey(a.relay.id), nameKey("x")} {
		_, revision := a.readKey(t, key)
		require.NoError(t, g.bucket.remove(t.Context(), key, revision))
	}
	b := g.bucket.(*bucket)
	kv, _ := b.handles()
	b.mu.Lock()
	b.kv = deafKV{kv}
	b.mu.Unlock()
	require.ErrorIs(t, g.renew(t.Context()), nats.ErrTimeout)
	eventually(t, func() bool { return g.renew(t.Context()) == nil })
	eventually(t, func() bool {
		holder, _ := a.readKey(t, nameKey("x"))
		return holder == a.relay.id
	})
}

// A deafKV creates keys but loses the answers.
type deafKV struct{ jetstream.KeyValue }

func (kv deafKV) Create(ctx context.Context, key string, value []byte, opts ...jetstream.KVCreateOpt) (uint64, error) {
	_, _ = kv.KeyValue.Create(ctx, key, value, opts...)
	return 0, nats.ErrTimeout
}

// TestCauseIsNoAnswer cancels a claim whose entry is written, with a cause that looks like an answer. The
// entry is removed nevertheless.
func TestCauseIsNoAnswer(t *testing.T) {
	a := newFake(t, servers(t).url(0), Options{Lease: time.Hour})
	ctx, cancel := context.WithCancelCause(t.Context())
	b := a.relay.registry.bucket.(*bucket)
	b.mu.Lock()
	kv := &cancelingKV{KeyValue: b.kv, cancel: sync.OnceFunc(func() { cancel(sendq.ErrNameTaken) })}
	b.kv = kv
	b.mu.Unlock()
	_, _, err := a.relay.Claim(ctx, "x", false)
	require.ErrorIs(t, err, sendq.ErrNameTaken)
	eventually(t, func() bool {
		holder, _ := a.readKey(t, nameKey("x"))
		return kv.written.Load() && holder == ""
	})
}

// A cancelingKV loses the first answer, and calls cancel.
type cancelingKV struct {
	jetstream.KeyValue
	cancel  func()
	written atomic.Bool
}

func (kv *cancelingKV) Create(ctx context.Context, key string, value []byte, opts ...jetstream.KVCreateOpt) (uint64, error) {
	revision, err := kv.KeyValue.Create(ctx, key, value, opts...)
	kv.cancel()
	if !kv.written.Swap(true) {
		return 0, nats.ErrTimeout
	}
	return revision, err
}

// A lateKV does not answer while isLate is set, and delays that write until the next one.
type lateKV struct {
	jetstream.KeyValue
	isLate atomic.Bool
	mu     sync.Mutex
	late   func() // the delayed write
}

func (kv *lateKV) Create(ctx context.Context, key string, value []byte, opts ...jetstream.KVCreateOpt) (uint64, error) {
	if kv.isLate.Load() {
		kv.mu.Lock()
		kv.late = sync.OnceFunc(func() { _, _ = kv.KeyValue.Create(context.Background(), key, value) })
		kv.mu.Unlock()
		<-ctx.Done()
		return 0, ctx.Err()
	}
	kv.write()
	return kv.KeyValue.Create(ctx, key, value, opts...)
}

func (kv *lateKV) Update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	kv.write()
	return kv.KeyValue.Update(ctx, key, value, revision)
}

// write makes the delayed write happen.
func (kv *lateKV) write() {
	kv.mu.Lock()
	late := kv.late
	kv.mu.Unlock()
	if late != nil {
		late()
	}
}
