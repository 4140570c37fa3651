package natsrelay

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// A simBucket is the bucket of a simulated cluster. It may be lost, and is made anew by the next
// node that opens it.
type simBucket struct {
	mu       sync.Mutex
	exists   bool
	isAway   bool // nothing is answered
	revision uint64
	entries  map[string]entry
}

var errNoBucket = errors.New("nats: no response from stream")

// lose loses the bucket.
func (b *simBucket) lose() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.exists, b.entries = false, nil
}

func (b *simBucket) setAway(isAway bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.isAway = isAway
}

// keys returns the keys of all entries.
func (b *simBucket) keys() (keys []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for k := range b.entries {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// A simStore is the access of a process to the bucket. It implements store.
type simStore struct {
	process *simProcess

	mu     sync.Mutex
	isOpen bool
}

// A simReply is the answer to a request to the bucket.
type simReply struct {
	entries []entry
	err     error
}

// call sends a request to the bucket and waits for the reply. Either may be lost or late. Only
// writes arrive in order.
func (s *simStore) call(ctx context.Context, request, key string, f func(*simBucket) simReply) simReply {
	p, n := s.process, s.process.sim.network
	b := p.sim.bucket
	p.gate()
	defer p.gate()
	ctx, cancel := context.WithTimeout(ctx, p.sim.relayOptions.attemptTimeout())
	defer cancel()
	reply := make(chan simReply, 1)
	isWrite := request == "write"
	what := request
	if !isWrite { // requests that may overtake each other
		what += key
	}
	there, back := simRoute{p.machine, bucketPlace}, simRoute{bucketPlace, p.machine}
	if !p.isDead() {
		n.send(there, what, isWrite, func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			if b.isAway {
				return
			}
			if !b.exists && request != "open" {
				f = func(*simBucket) simReply { return simReply{err: errNoBucket} }
			}
			r := f(b)
			n.send(back, what, isWrite, func() { reply <- r })
		})
	}
	select {
	case r := <-reply:
		return r
	case <-ctx.Done():
		return simReply{err: ctx.Err()}
	}
}

func (s *simStore) setOpen(isOpen bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.isOpen = isOpen
}

func (s *simStore) canUse() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.isOpen
}

func (s *simStore) open(ctx context.Context, _ uint64) error {
	if s.canUse() {
		return nil
	}
	r := s.call(ctx, "open", "", func(b *simBucket) (r simReply) {
		if !b.exists {
			b.exists, b.entries, b.revision = true, make(map[string]entry), uint64(time.Now().UnixMicro()) // as in create
		}
		return r
	})
	s.setOpen(r.err == nil)
	return r.err
}

func (s *simStore) reset() { s.setOpen(false) }

func (s *simStore) write(ctx context.Context, key, node string, revision uint64) (uint64, error) {
	if !s.canUse() {
		return 0, errNotOpen
	}
	r := s.call(ctx, "write", key, func(b *simBucket) simReply {
		s.process.sim.ledger.tell("bucket: %s writes %s = %q at %d, has %v", s.process.id, plain(key), node, revision, b.entries[key])
		if b.entries[key].revision != revision {
			return simReply{err: jetstream.ErrKeyExists}
		}
		b.revision++
		b.entries[key] = entry{key, node, b.revision}
		return simReply{entries: []entry{b.entries[key]}}
	})
	if r.err != nil {
		return 0, r.err
	}
	return r.entries[0].revision, nil
}

func (s *simStore) read(ctx context.Context, key string) (node string, revision uint64, err error) {
	if !s.canUse() {
		return "", 0, errNotOpen
	}
	r := s.call(ctx, "read", key, func(b *simBucket) simReply { return simReply{entries: []entry{b.entries[key]}} })
	if r.err != nil {
		return "", 0, r.err
	}
	return r.entries[0].node, r.entries[0].revision, nil
}

// plain returns a key as a person reads it.
func plain(key string) string {
	if name, ok := decodeKey(key); ok {
		return name
	}
	return key
}

func (s *simStore) remove(ctx context.Context, key string, revision uint64) error {
	if !s.canUse() {
		return errNotOpen
	}
	return s.call(ctx, "remove", key, func(b *simBucket) (r simReply) {
		s.process.sim.ledger.tell("bucket: %s removes %s at %d, has %v", s.process.id, plain(key), revision, b.entries[key])
		if b.entries[key].revision <= revision {
			delete(b.entries, key)
		}
		return r
	}).err
}

func (s *simStore) list(ctx context.Context, keys string, f func(entry)) error {
	if !s.canUse() {
		return errNotOpen
	}
	r := s.call(ctx, "list", keys, func(b *simBucket) (r simReply) {
		for key, e := range b.entries {
			if strings.HasPrefix(key, strings.TrimSuffix(keys, "*")) {
				r.entries = append(r.entries, e)
			}
		}
		slices.SortFunc(r.entries, func(a, b entry) int { return strings.Compare(a.key, b.key) })
		return r
	})
	for _, e := range r.entries {
		f(e)
	}
	return r.err
}
