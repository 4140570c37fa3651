package natsrelay

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// A store holds the names and leases of a cluster. A bucket is one, and the simulation has another.
type store interface {
	open(ctx context.Context, highest uint64) error
	reset()
	write(ctx context.Context, key, node string, revision uint64) (uint64, error)
	read(ctx context.Context, key string) (node string, revision uint64, err error)
	remove(ctx context.Context, key string, revision uint64) error
	list(ctx context.Context, keys string, f func(entry)) error
}

// A bucket is a store in JetStream's key-value store.
type bucket struct {
	js       jetstream.JetStream
	name     string
	replicas int           // 0: as many as possible, at most 3
	timeout  time.Duration // of an attempt
	log      *slog.Logger

	mu          sync.Mutex
	kv          jetstream.KeyValue // nil if the bucket is not open
	stream      jetstream.Stream   // of kv
	hasFew      bool               // whether the log says that the bucket has too few replicas
	tooFewSince time.Time          // when the servers were too few for the replicas first; zero if they are not
	refusal     error              // why JetStream refused the last write with an answer; nil if it did not
}

// An entry is a key and its value: the id of a node, or of several.
type entry struct {
	key, node string
	revision  uint64
}

// nameKey returns the key for a name. It encodes the name, because a key is part of a subject and a
// name can be any string.
func nameKey(name string) string {
	if len(name) > maxPlain {
		sum := sha256.Sum256([]byte(name))
		return "name.h" + hex.EncodeToString(sum[:])
	}
	return plainKey + keyEncoding.EncodeToString([]byte(name))
}

// decodeKey returns the name with that key, or false if the key has only a hash of the name.
func decodeKey(key string) (name string, ok bool) {
	encoded, ok := strings.CutPrefix(key, plainKey)
	b, err := keyEncoding.DecodeString(encoded)
	return string(b), ok && err == nil
}

const (
	maxPlain = 100 // bytes in the name of a plain key; subjects must be short
	plainKey = "name.n"
)

var keyEncoding = base32.HexEncoding.WithPadding(base32.NoPadding)

func leaseKey(node string) string { return "node." + node }

var errNotOpen = errors.New("JetStream unreachable")

// open opens the bucket, and creates it first if necessary. highest is the highest revision that this node
// knows of an earlier bucket.
func (b *bucket) open(ctx context.Context, highest uint64) error {
	if kv, _ := b.handles(); kv != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	stream, err := b.js.Stream(ctx, "KV_"+b.name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		stream, err = b.create(ctx, firstRevision(highest))
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
	n, hadFew := stream.CachedInfo().Config.Replicas, b.hasFew
	b.hasFew = n < b.wanted()
	if b.hasFew && !hadFew {
		b.log.Warn("bucket has fewer replicas than wanted", "bucket", b.name, "replicas", n, "wanted", b.wanted())
	}
	return nil
}

// firstRevision returns the first revision of a new bucket, so that tokens grow even if a bucket was lost.
// The time is not enough if that bucket began with a fast clock. It has had fewer than a million
// writes since this node knew its highest revision.
func firstRevision(highest uint64) uint64 {
	return max(uint64(time.Now().UnixMicro()), highest+1e6)
}

// wanted returns the number of replicas that the bucket should have.
func (b *bucket) wanted() int {
	switch {
	case b.replicas > 0:
		return b.replicas
	case b.js.Conn().ConnectedClusterName() != "":
		return 3
	}
	return 1
}

// create creates the stream of the bucket as jetstream.CreateKeyValue would, but without direct
// access: reads go to the leader, because the other replicas may lag.
func (b *bucket) create(ctx context.Context, first uint64) (jetstream.Stream, error) {
	config := jetstream.StreamConfig{
		Name:              "KV_" + b.name,
		Subjects:          []string{"$KV." + b.name + ".>"},
		Storage:           jetstream.MemoryStorage,
		Replicas:          b.wanted(),
		FirstSeq:          first,
		MaxMsgsPerSubject: 1,
		Discard:           jetstream.DiscardNew,
		AllowRollup:       true,
		DenyDelete:        true,
	}
	stream, err := b.js.CreateStream(ctx, config)
	for b.mayHaveFewer(err) && config.Replicas > 1 {
		config.Replicas--
		stream, err = b.js.CreateStream(ctx, config)
	}
	if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) { // by another node with other Replicas
		return b.js.Stream(ctx, "KV_"+b.name)
	}
	return stream, err
}

// mayHaveFewer reports whether the bucket may be created with fewer replicas after an error, because
// the cluster has too few servers. It returns false for a moment after the first such error, because
// the others may be starting.
func (b *bucket) mayHaveFewer(err error) bool {
	const noSuitablePeers = 10005
	b.mu.Lock()
	defer b.mu.Unlock()
	api, ok := errors.AsType[*jetstream.APIError](err)
	if b.replicas > 0 || !ok || api.ErrorCode != noSuitablePeers {
		b.tooFewSince = time.Time{}
		return false
	}
	if b.tooFewSince.IsZero() {
		b.tooFewSince = time.Now()
	}
	return time.Since(b.tooFewSince) > b.timeout
}

// reset closes the bucket, so the next open checks whether it still exists.
func (b *bucket) reset() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.kv, b.stream = nil, nil
}

// notOpen returns the error of a request while the bucket is not open.
func (b *bucket) notOpen() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.refusal != nil {
		return b.refusal
	}
	return errNotOpen
}

// handles returns nil values if the bucket is not open.
func (b *bucket) handles() (jetstream.KeyValue, jetstream.Stream) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.kv, b.stream
}

// write sets the value of a key to node if the key is at the given revision, and returns the new
// one. Revision 0 means that the key must not exist. If the key is at another revision, isConflict
// returns true for the error.
func (b *bucket) write(ctx context.Context, key, node string, revision uint64) (uint64, error) {
	kv, _ := b.handles()
	if kv == nil {
		return 0, b.notOpen()
	}
	ctx, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	var written uint64
	var err error
	if revision == 0 {
		written, err = kv.Create(ctx, key, []byte(node))
	} else {
		written, err = kv.Update(ctx, key, []byte(node), revision)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch _, isAnswer := errors.AsType[*jetstream.APIError](err); {
	case err == nil || isConflict(err):
		b.refusal = nil
	case isAnswer:
		b.refusal = err
	}
	return written, err
}

func isConflict(err error) bool {
	return errors.Is(err, jetstream.ErrKeyExists) || errors.Is(err, jetstream.ErrKeyRevisionMismatch)
}

// isFull reports whether JetStream has refused a write because its memory is full.
func isFull(err error) bool {
	const insufficientResources, memoryExceeded = 10023, 10047
	api, ok := errors.AsType[*jetstream.APIError](err)
	return ok && (api.ErrorCode == insufficientResources || api.ErrorCode == memoryExceeded)
}

// read returns the value and the revision of a key, or "" and 0 if the key does not exist.
func (b *bucket) read(ctx context.Context, key string) (node string, revision uint64, err error) {
	kv, _ := b.handles()
	if kv == nil {
		return "", 0, b.notOpen()
	}
	ctx, cancel := context.WithTimeout(ctx, b.timeout)
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

// remove removes a key unless it was written after the given revision. It purges the stream, because
// a Delete of the bucket leaves a marker, which takes as much memory as the entry.
func (b *bucket) remove(ctx context.Context, key string, revision uint64) error {
	_, stream := b.handles()
	if stream == nil {
		return b.notOpen()
	}
	ctx, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	return stream.Purge(ctx, jetstream.WithPurgeSubject("$KV."+b.name+"."+key), jetstream.WithPurgeSequence(revision+1))
}

// list calls f with each entry with a matching key.
func (b *bucket) list(ctx context.Context, keys string, f func(entry)) error {
	kv, _ := b.handles()
	if kv == nil {
		return b.notOpen()
	}
	w, err := kv.Watch(ctx, keys, jetstream.IgnoreDeletes())
	if err != nil {
		return err
	}
	defer w.Stop()
	for {
		select {
		case e := <-w.Updates():
			if e == nil { // after the last entry
				return nil
			}
			f(entry{e.Key(), string(e.Value()), e.Revision()})
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// jitter returns a random duration below its argument. The simulation replaces it, to repeat a run.
var jitter = rand.N[time.Duration]

// backOff waits before each attempt except the first, and longer before later ones. It returns an
// error if ctx is done.
func backOff(ctx context.Context, attempt int) error {
	if attempt > 0 {
		longest := min(time.Millisecond<<min(attempt, 10), 250*time.Millisecond)
		select {
		case <-time.After(longest/2 + jitter(longest/2)):
		case <-ctx.Done():
		}
	}
	return context.Cause(ctx)
}
