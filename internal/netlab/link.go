package netlab

import (
	"errors"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"time"
)

// Conditions are the properties of a Link. The zero value is a perfect link.
type Conditions struct {
	Delay  time.Duration // minimum time a packet takes
	Jitter time.Duration // maximum random addition to Delay; packets may overtake each other
	Loss   float64       // probability of losing a packet
	Rate   int           // bytes per second; 0 means no limit
	Queue  int           // bytes that may wait for Rate before packets are lost; 0 means 64 KiB
}

const defaultQueue = 64 << 10

// A Link is one direction of a path.
type Link struct {
	to *os.File

	mu      sync.Mutex
	c       Conditions
	cut     bool
	rng     *rand.Rand // seeded, so every run makes the same choices
	freeAt  time.Time  // when Rate allows the next packet to start
	packets []packet   // in transit, ordered by due time
	lost    int
}

type packet struct {
	due   time.Time
	bytes []byte
}

func newLink(to *os.File, seed uint64) *Link {
	return &Link{to: to, rng: rand.New(rand.NewPCG(seed, 0))}
}

// Set sets the conditions for later packets and ends a Cut.
func (l *Link) Set(c Conditions) {
	if c.Queue == 0 {
		c.Queue = defaultQueue
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.c, l.cut = c, false
}

// Cut drops the packets in transit and all later ones until the next Set.
func (l *Link) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = true
	l.lost += len(l.packets)
	l.packets = nil
}

// Lost returns the number of lost packets.
func (l *Link) Lost() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lost
}

// forward forwards packets from a device until it is closed. route returns the link of a packet, one
// of links, or nil to lose it.
func forward(from *os.File, links []*Link, route func(packet []byte) *Link) {
	buf := make([]byte, 64<<10)
	for {
		_ = from.SetReadDeadline(deliver(links)) // if it fails, the Read does too
		n, err := from.Read(buf)
		switch {
		case err == nil:
			if l := route(buf[:n]); l != nil {
				l.receive(buf[:n])
			}
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return
		}
	}
}

// deliver delivers the packets that are due. It returns the due time of the next packet, or the zero
// time if there is none.
func deliver(links []*Link) (next time.Time) {
	for _, l := range links {
		if due := l.deliver(); next.IsZero() || !due.IsZero() && due.Before(next) {
			next = due
		}
	}
	return next
}

// receive puts a packet from the sending host in transit, or loses it.
func (l *Link) receive(p []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := time.Now()
	if l.cut || l.rng.Float64() < l.c.Loss {
		l.lost++
		return
	}
	if l.c.Rate > 0 {
		if l.freeAt.Before(at) {
			l.freeAt = at
		}
		wait := l.freeAt.Sub(at).Seconds()
		if wait*float64(l.c.Rate) > float64(l.c.Queue) {
			l.lost++
			return
		}
		l.freeAt = l.freeAt.Add(time.Duration(len(p)) * time.Second / time.Duration(l.c.Rate))
		at = l.freeAt
	}
	due := at.Add(l.c.Delay)
	if l.c.Jitter > 0 {
		due = due.Add(time.Duration(l.rng.Int64N(int64(l.c.Jitter))))
	}
	i, _ := slices.BinarySearchFunc(l.packets, due, func(p packet, due time.Time) int {
		if p.due.After(due) {
			return 1
		}
		return -1 // after packets due at the same time
	})
	l.packets = slices.Insert(l.packets, i, packet{due, slices.Clone(p)})
}

// deliver delivers the packets that are due. It returns the due time of the next packet, or
// the zero time if there is none.
func (l *Link) deliver() (next time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	for len(l.packets) > 0 {
		if p := l.packets[0]; p.due.After(now) {
			return p.due
		}
		_, _ = l.to.Write(l.packets[0].bytes) // fails if the device is down; then the packet is lost
		l.packets = l.packets[1:]
	}
	return time.Time{}
}
