package natsrelay

import (
	"hash/fnv"
	"math/rand/v2"
	"sync"
	"time"
)

// A simNetwork carries envelopes between machines, and requests between machines and the bucket.
// Each direction between two places is a link of its own. A link keeps its messages in order.
//
// A delay depends on the seed, the link and the time alone, so it stays the same if goroutines run in
// another order.
type simNetwork struct {
	seed  uint64
	delay time.Duration // usual delay on a link, at most

	mu    sync.Mutex
	links map[simRoute]*simLink
}

// A simRoute is the way from one place to another.
type simRoute struct{ from, to int }

// bucketPlace is the place of the bucket; machines have the numbers from 0 on.
const bucketPlace = -1

// A simLink is the state of a route.
type simLink struct {
	last  time.Time     // arrival of the newest message
	extra time.Duration // added to each delay
	loss  float64       // share of messages lost
	cuts  int           // faults that cut the link
	holds bool          // cut messages arrive after the cut, as TCP sends them again
	held  []func()

	inTransit []func() // those in order, oldest first
	arriving  sync.Mutex
}

func newSimNetwork(seed uint64, delay time.Duration) *simNetwork {
	return &simNetwork{seed: seed, delay: delay, links: make(map[simRoute]*simLink)}
}

// link returns the link of a route. mu is held.
func (n *simNetwork) link(r simRoute) *simLink {
	l := n.links[r]
	if l == nil {
		l = &simLink{}
		n.links[r] = l
	}
	return l
}

// draw returns random numbers that are the same for the same arguments at the same time.
func (n *simNetwork) draw(r simRoute, what string) *rand.Rand {
	h := fnv.New64a()
	h.Write([]byte(what))
	return rand.New(rand.NewPCG(n.seed^h.Sum64(), uint64(time.Now().UnixNano())^uint64(r.from+1)<<48^uint64(r.to+1)<<56))
}

// send calls arrive when a message has crossed a route, unless it is lost. If inOrder is true, no later
// message overtakes it.
func (n *simNetwork) send(r simRoute, what string, inOrder bool, arrive func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.link(r)
	random := n.draw(r, what)
	if l.cuts > 0 {
		if l.holds {
			l.held = append(l.held, func() { n.pass(l, random, inOrder, arrive) })
		}
		return
	}
	n.pass(l, random, inOrder, arrive)
}

// pass lets a message cross a link. mu is held.
func (n *simNetwork) pass(l *simLink, random *rand.Rand, inOrder bool, arrive func()) {
	if random.Float64() < l.loss {
		return
	}
	delay := n.delay/4 + time.Duration(random.Int64N(int64(n.delay))) + l.extra
	if random.IntN(50) == 0 {
		delay += min(5*n.delay, 200*time.Millisecond)
	}
	at := time.Now().Add(delay)
	if inOrder {
		if at.Before(l.last) {
			at = l.last
		}
		l.last = at
		l.inTransit = append(l.inTransit, arrive)
		arrive = func() { n.arriveNext(l) }
	}
	time.AfterFunc(time.Until(at), arrive)
}

// arriveNext lets the oldest message on a link arrive. Several may arrive at the same time.
func (n *simNetwork) arriveNext(l *simLink) {
	l.arriving.Lock()
	defer l.arriving.Unlock()
	n.mu.Lock()
	arrive := l.inTransit[0]
	l.inTransit = l.inTransit[1:]
	n.mu.Unlock()
	arrive()
}

// cut cuts a route until the returned function is called.
func (n *simNetwork) cut(r simRoute, holds bool) (heal func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.link(r)
	l.cuts++
	l.holds = holds
	return func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		if l.cuts--; l.cuts > 0 {
			return
		}
		held := l.held
		l.held = nil
		for _, pass := range held {
			pass()
		}
	}
}

// disturb changes a route until the returned function is called.
func (n *simNetwork) disturb(r simRoute, extra time.Duration, loss float64) (heal func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.link(r)
	l.extra, l.loss = extra, loss
	return func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		l.extra, l.loss = 0, 0
	}
}
