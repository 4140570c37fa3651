package natsrelay

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A simBucket is the bucket of a simulated cluster. It may be lost. Then the next node that opens it
// creates it again.
type simBucket struct {
	mu       sync.Mutex
	exists   bool
	isAway   bool // nothing is answered
	revision uint64
	entries  map[string]entry
	had      map[string]time.Time // when the entry of a name had a node last, by name and node
	undo     []simUndo            // of the last writes, oldest first
	isOlder  bool                 // it has lost writes
}

// A simUndo is the state before a write.
type simUndo struct {
	at     time.Time
	before entry // with the key; the rest is zero if there was no entry
}

var errNoBucket = errors.New("nats: no response from stream")

// lose loses the bucket.
func (b *simBucket) lose() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.entries {
		b.note(e)
	}
	b.exists, b.entries, b.undo = false, nil, nil
}

// forget loses the writes of the last d, as a new leader may do. Their revisions are not used again: if
// they were, tokens would not grow. If it loses an entry of a node, it loses a renewal of its lease too:
// otherwise the node could not notice.
func (b *simBucket) forget(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	unaware := make(map[string]bool) // nodes that have lost an entry and no renewal
	aware := make(map[string]bool)
	for len(b.undo) > 0 {
		last := b.undo[len(b.undo)-1]
		if time.Since(last.at) > d && len(unaware) == 0 {
			return
		}
		owner, _, _ := strings.Cut(b.entries[last.before.key].node, " ")
		switch {
		case last.before.key == leaseKey(owner):
			aware[owner] = true
			delete(unaware, owner)
		case owner != "" && !aware[owner]:
			unaware[owner] = true
		}
		b.isOlder = true
		b.put(last.before)
		b.undo = b.undo[:len(b.undo)-1]
	}
}

// lastHad returns when the entry of a name had a node last.
func (b *simBucket) lastHad(name, node string) time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	if slices.Contains(strings.Fields(b.entries[nameKey(name)].node), node) {
		return time.Now()
	}
	return b.had[nameKey(name)+" "+node]
}

// note notes which nodes an entry has until now. mu is held.
func (b *simBucket) note(e entry) {
	if b.had == nil {
		b.had = make(map[string]time.Time)
	}
	for node := range strings.FieldsSeq(e.node) {
		b.had[e.key+" "+node] = time.Now()
	}
}

func (b *simBucket) hasForgotten() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.isOlder
}

// put sets an entry, or removes it if it has no revision. mu is held.
func (b *simBucket) put(e entry) {
	b.note(b.entries[e.key])
	if e.revision > 0 {
		b.entries[e.key] = e
	} else {
		delete(b.entries, e.key)
	}
}

// set is put, and can be undone. mu is held.
func (b *simBucket) set(e entry) {
	before := b.entries[e.key]
	before.key = e.key
	b.undo = append(b.undo, simUndo{time.Now(), before})
	b.revision = max(b.revision, e.revision)
	b.put(e)
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
	server, isConnected := p.registry.place()
	if !isConnected {
		return simReply{err: nats.ErrReconnectBufExceeded}
	}
	leader := p.sim.servers.leads()
	arrive := func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.isAway {
			return
		}
		if !b.exists && request != "open" {
			f = func(*simBucket) simReply { return simReply{err: errNoBucket} }
		}
		r := f(b)
		p.sim.servers.pass(leader, server, func() { n.send(back, what, isWrite, func() { reply <- r }) })
	}
	if leader != noServer && !p.isDead() {
		p.sim.servers.pass(server, leader, func() { n.send(there, what, isWrite, arrive) })
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

func (s *simStore) open(ctx context.Context, highest uint64) error {
	if s.canUse() {
		return nil
	}
	sent := time.Now()
	r := s.call(ctx, "open", "", func(b *simBucket) (r simReply) {
		if !b.exists {
			b.exists, b.entries = true, make(map[string]entry)
			first := max(firstRevision(highest), uint64(time.Now().Add(s.process.sim.skews[s.process.machine]).UnixMicro()))
			// The clock of a node that has just started must not be behind, and a request that its node has
			// given up must not come after a bucket that was made and lost in between.
			if highest == 0 || time.Since(sent) > s.process.sim.relayOptions.attemptTimeout() {
				first = max(first, b.revision)
			}
			b.revision = first
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
		b.set(entry{key, node, b.revision + 1})
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
			b.set(entry{key: key})
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
