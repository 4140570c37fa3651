package natsrelay

import (
	"context"
	"errors"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/sendq-go/sendq/relay"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A mapStore is a store without NATS. It calls before with the name of each operation, which fails if
// that returns an error.
type mapStore struct {
	before func(operation string) error

	mu       sync.Mutex // not held during before
	entries  map[string]entry
	revision uint64
}

// newMapStore returns a node without NATS, and its store.
func newMapStore() (*registry, *mapStore) {
	g := newFakeWithoutNATS().relay.registry
	s := &mapStore{entries: make(map[string]entry), before: func(string) error { return nil }}
	g.bucket = s
	return g, s
}

func (s *mapStore) open(context.Context, uint64) error { return nil }

func (s *mapStore) reset() {}

func (s *mapStore) put(key, node string) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.putLocked(key, node)
}

func (s *mapStore) putLocked(key, node string) uint64 {
	s.revision++
	s.entries[key] = entry{key, node, s.revision}
	return s.revision
}

func (s *mapStore) write(_ context.Context, key, node string, revision uint64) (uint64, error) {
	s.mu.Lock()
	if s.entries[key].revision != revision {
		s.mu.Unlock()
		return 0, jetstream.ErrKeyExists
	}
	written := s.putLocked(key, node)
	s.mu.Unlock()
	return written, s.before("write")
}

func (s *mapStore) read(_ context.Context, key string) (node string, revision uint64, err error) {
	s.mu.Lock()
	e := s.entries[key]
	s.mu.Unlock()
	return e.node, e.revision, s.before("read")
}

func (s *mapStore) remove(_ context.Context, key string, revision uint64) error {
	err := s.before("remove")
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.entries[key].revision <= revision {
		delete(s.entries, key)
	}
	return err
}

func (s *mapStore) list(_ context.Context, keys string, f func(entry)) error {
	s.mu.Lock()
	entries := maps.Clone(s.entries)
	s.mu.Unlock()
	for key, e := range entries {
		if strings.HasPrefix(key, strings.TrimSuffix(keys, "*")) {
			f(e)
		}
	}
	return s.before("list")
}

// silence makes a node look dead.
func (g *registry) silence(node string) *peer {
	p := g.relay.peerFor(node)
	p.unansweredBeats.Store(g.relay.leaseBeats())
	return p
}

// TestLeaseIsRenewedAtLast renews the lease of a silent node before its removal. The node is not dead.
func TestLeaseIsRenewedAtLast(t *testing.T) {
	g, s := newMapStore()
	s.put(leaseKey("b"), "b")
	s.before = func(operation string) error {
		if operation == "remove" {
			s.put(leaseKey("b"), "b")
		}
		return nil
	}
	isDead, err := g.isDead(t.Context(), g.silence("b"))
	require.NoError(t, err)
	assert.False(t, isDead)
}

// TestSweepTriesAgain sweeps while the first answer about a dead node is lost. Its entries are removed.
func TestSweepTriesAgain(t *testing.T) {
	g, s := newMapStore()
	g.silence("b")
	s.put(leaseKey("b"), "b")
	s.put(nameKey("x"), "b")
	answers := 0
	s.before = func(operation string) error {
		if operation == "read" {
			if answers++; answers == 1 {
				return errors.New("no answer")
			}
		}
		return nil
	}
	g.sweep()
	require.NoError(t, g.workers.wait(t.Context()))
	assert.Empty(t, s.entries)
}

// TestSweepPassesToSelf sweeps an entry in which this node comes after the dead one. It gets the entry if
// it has the name.
func TestSweepPassesToSelf(t *testing.T) {
	g, s := newMapStore()
	g.silence("b")
	g.names["x"] = holding{revision: 1}
	s.put(leaseKey("b"), "b")
	s.put(nameKey("x"), "b "+g.relay.id)
	s.put(nameKey("y"), "b "+g.relay.id)
	g.sweep()
	require.NoError(t, g.workers.wait(t.Context()))
	assert.Equal(t, g.relay.id, s.entries[nameKey("x")].node)
	assert.Equal(t, s.entries[nameKey("x")].revision, g.names["x"].revision)
	assert.Len(t, s.entries, 1)
}

// TestWithdrawalToSilentNode withdraws from an entry whose other node is silent. If that node is alive, it
// notices that the entry is gone, because its lease is.
func TestWithdrawalToSilentNode(t *testing.T) {
	g, s := newMapStore()
	g.silence("b")
	s.put(leaseKey("b"), "b")
	s.put(nameKey("x"), g.relay.id+" b")
	require.NoError(t, g.withdraw(t.Context(), nameKey("x"), false))
	assert.Empty(t, s.entries)
}

// TestWithdrawalFromOther withdraws after a lost answer. The entry of another node stays, even if this
// node takes that one for dead.
func TestWithdrawalFromOther(t *testing.T) {
	g, s := newMapStore()
	g.silence("b")
	s.put(nameKey("x"), "b")
	require.NoError(t, g.withdraw(t.Context(), nameKey("x"), true))
	assert.Equal(t, "b", s.entries[nameKey("x")].node)
}

// TestBucketBeginsAboveOthersTokens loses the bucket. A node whose clock is slow creates it again, above
// the token that another node has announced.
func TestBucketBeginsAboveOthersTokens(t *testing.T) {
	g, s := newMapStore()
	opened := &openedStore{mapStore: s}
	g.bucket = opened
	token := uint64(time.Now().Add(time.Hour).UnixMicro())
	events := appendList(nil, []relay.Event{{Kind: relay.EventJoined, Name: "x", Token: token}}, appendEvent)
	g.relay.peerFor("b").handleEvents(&parser{b: append(appendUint(nil, 0), events...)}, true)
	require.NoError(t, g.renew(t.Context()))
	assert.Equal(t, token, opened.highest)
}

// An openedStore notes what it was opened with.
type openedStore struct {
	*mapStore
	highest uint64
}

func (s *openedStore) open(_ context.Context, highest uint64) error {
	s.highest = highest
	return nil
}
