package netlab

import (
	"errors"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"time"
)

// Conditions say what becomes of packets.
type Conditions struct {
	Delay  time.Duration // how long each takes
	Jitter time.Duration // what each takes longer, at most and at random, so that some overtake
	Loss   float64       // the share of packets that are lost, at random
	Rate   int           // bytes a second; 0 means no limit
	Queue  int           // bytes that may wait for Rate, beyond which packets are lost; 0 means 64 KiB
}

const defaultQueue = 64 << 10

// A Link is one direction of a path.
type Link struct {
	from, to *os.File

	mu      sync.Mutex
	c       Conditions
	cut     bool
	rng     *rand.Rand // the same in each run
	freeAt  time.Time  // when Rate lets the next packet begin
	packets []packet   // under way, those that are due first in front
	lost    int
}

type packet struct {
	due   time.Time
	bytes []byte
}

func newLink(from, to *os.File, seed uint64) *Link {
	return &Link{from: from, to: to, rng: rand.New(rand.NewPCG(seed, 0))}
}

// Set sets the conditions for packets that come from now on, and heals what was cut.
func (l *Link) Set(c Conditions) {
	if c.Queue == 0 {
		c.Queue = defaultQueue
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.c, l.cut = c, false
}

// Cut loses the packets that are under way, and those that come until the next Set.
func (l *Link) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = true
	l.lost += len(l.packets)
	l.packets = nil
}

// Lost returns how many packets were lost.
func (l *Link) Lost() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lost
}

// carry carries packets until the device is closed.
func (l *Link) forward() {
	buf := make([]byte, 64<<10)
	for {
		_ = l.from.SetReadDeadline(l.deliver()) // fails as the Read does
		n, err := l.from.Read(buf)
		switch {
		case err == nil:
			l.receive(buf[:n])
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return
		}
	}
}

// take takes a packet that a host sends.
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
		return -1 // behind those that are due at the same time
	})
	l.packets = slices.Insert(l.packets, i, packet{due, slices.Clone(p)})
}

// deliver brings the packets that are due, and returns when the next one is, or the zero
// time.
func (l *Link) deliver() (next time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	for len(l.packets) > 0 {
		if p := l.packets[0]; p.due.After(now) {
			return p.due
		}
		_, _ = l.to.Write(l.packets[0].bytes) // fails if the device is down, which is a loss as well
		l.packets = l.packets[1:]
	}
	return time.Time{}
}
