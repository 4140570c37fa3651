package natsrelay

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// A bucket is the key-value store of a cluster.
type bucket struct {
	js       jetstream.JetStream
	name     string
	replicas int

	mu     sync.Mutex
	kv     jetstream.KeyValue // nil: not opened
	stream jetstream.Stream   // behind kv
}

// An entry is what a key has: the id of a node.
type entry struct {
	key, node string
	revision  uint64
}

// nameKey returns the key for a name. A name may be anything; a key is part of a subject.
func nameKey(name string) string {
	if len(name) > 100 { // a subject must not be long
		sum := sha256.Sum256([]byte(name))
		return "name.h" + hex.EncodeToString(sum[:])
	}
	return "name.n" + base32.HexEncoding.WithPadding(base32.NoPadding).EncodeToString([]byte(name))
}

func leaseKey(node string) string { return "node." + node }

// maxAttempt bounds a request to NATS, of which the answer may be lost.
const attemptTimeout = time.Second

var errNotOpen = errors.New("JetStream unreachable")

// open makes sure that the bucket is there.
func (b *bucket) open(ctx context.Context) error {
	if kv, _ := b.handles(); kv != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	stream, err := b.js.Stream(ctx, "KV_"+b.name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		stream, err = b.create(ctx)
	}
	if err != nil {
		return fmt.Errorf("open bucket %s: %w", b.name, err)
	}
	kv, err := b.js.KeyValue(ctx, b.name)
	if err != nil {
		return fmt.Errorf("open bucket %s: %w", b.name, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.kv, b.stream = kv, stream
	return nil
}

// create makes the stream of the bucket, as jetstream.CreateKeyValue would, but without direct
// access: what is read comes from the leader, for others may be behind.
func (b *bucket) create(ctx context.Context) (jetstream.Stream, error) {
	replicas := b.replicas
	if replicas == 0 {
		replicas = 1
		if b.js.Conn().ConnectedClusterName() != "" {
			replicas = 3
		}
	}
	stream, err := b.js.CreateStream(ctx, jetstream.StreamConfig{
		Name:              "KV_" + b.name,
		Subjects:          []string{"$KV." + b.name + ".>"},
		Storage:           jetstream.MemoryStorage,
		Replicas:          replicas,
		MaxMsgsPerSubject: 1,
		Discard:           jetstream.DiscardNew,
		AllowRollup:       true,
		DenyDelete:        true,
	})
	if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) { // another node was faster, with other Replicas
		return b.js.Stream(ctx, "KV_"+b.name)
	}
	return stream, err
}

// reset makes the next open look whether the bucket is there.
func (b *bucket) reset() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.kv, b.stream = nil, nil
}

func (b *bucket) handles() (jetstream.KeyValue, jetstream.Stream) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.kv, b.stream
}

// write enters node at a key, if that has the revision, or nothing if it is 0, and returns the
// new one. Otherwise isConflict tells of the error.
func (b *bucket) write(ctx context.Context, key, node string, revision uint64) (uint64, error) {
	kv, _ := b.handles()
	if kv == nil {
		return 0, errNotOpen
	}
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	if revision == 0 {
		return kv.Create(ctx, key, []byte(node))
	}
	return kv.Update(ctx, key, []byte(node), revision)
}

func isConflict(err error) bool {
	return errors.Is(err, jetstream.ErrKeyExists) || errors.Is(err, jetstream.ErrKeyRevisionMismatch)
}

// read returns what is at a key: an empty node at revision 0 if there is nothing.
func (b *bucket) read(ctx context.Context, key string) (node string, revision uint64, err error) {
	kv, _ := b.handles()
	if kv == nil {
		return "", 0, errNotOpen
	}
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	e, err := kv.Get(ctx, key)
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound):
		return "", 0, nil
	case err != nil:
		return "", 0, err
	}
	return string(e.Value()), e.Revision(), nil
}

// remove removes the entry at a key unless it has been written after that revision. It purges
// the stream, for a Delete of the bucket would leave a marker, which takes as much memory.
func (b *bucket) remove(ctx context.Context, key string, revision uint64) error {
	_, stream := b.handles()
	if stream == nil {
		return errNotOpen
	}
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	return stream.Purge(ctx, jetstream.WithPurgeSubject("$KV."+b.name+"."+key), jetstream.WithPurgeSequence(revision+1))
}

// list calls f with all entries whose keys match.
func (b *bucket) list(ctx context.Context, keys string, f func(entry)) error {
	kv, _ := b.handles()
	if kv == nil {
		return errNotOpen
	}
	w, err := kv.Watch(ctx, keys, jetstream.IgnoreDeletes())
	if err != nil {
		return err
	}
	defer w.Stop()
	for {
		select {
		case e := <-w.Updates():
			if e == nil { // these were all
				return nil
			}
			f(entry{e.Key(), string(e.Value()), e.Revision()})
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// backOff waits before an attempt that is not the first, the longer the more there were, and
// returns an error if ctx is done.
func backOff(ctx context.Context, attempt int) error {
	if attempt > 0 {
		longest := min(time.Millisecond<<min(attempt, 10), 250*time.Millisecond)
		select {
		case <-time.After(longest/2 + rand.N(longest/2)):
		case <-ctx.Done():
		}
	}
	return context.Cause(ctx)
}
