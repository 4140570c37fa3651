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

// A Way is one direction of a path.
type Way struct {
	from, to *os.File

	mu      sync.Mutex
	c       Conditions
	cut     bool
	chance  *rand.Rand // the same in each run
	freeAt  time.Time  // when Rate lets the next packet begin
	packets []packet   // under way, those that are due first in front
	lost    int
}

type packet struct {
	due   time.Time
	bytes []byte
}

func newWay(from, to *os.File, seed uint64) *Way {
	return &Way{from: from, to: to, chance: rand.New(rand.NewPCG(seed, 0))}
}

// Set sets the conditions for packets that come from now on, and heals what was cut.
func (w *Way) Set(c Conditions) {
	if c.Queue == 0 {
		c.Queue = defaultQueue
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.c, w.cut = c, false
}

// Cut loses the packets that are under way, and those that come until the next Set.
func (w *Way) Cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = true
	w.lost += len(w.packets)
	w.packets = nil
}

// Lost returns how many packets were lost.
func (w *Way) Lost() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lost
}

// carry carries packets until the device is closed.
func (w *Way) carry() {
	buf := make([]byte, 64<<10)
	for {
		_ = w.from.SetReadDeadline(w.deliver()) // fails as the Read does
		n, err := w.from.Read(buf)
		switch {
		case err == nil:
			w.take(buf[:n])
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return
		}
	}
}

// take takes a packet that a host sends.
func (w *Way) take(p []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	at := time.Now()
	if w.cut || w.chance.Float64() < w.c.Loss {
		w.lost++
		return
	}
	if w.c.Rate > 0 {
		if w.freeAt.Before(at) {
			w.freeAt = at
		}
		wait := w.freeAt.Sub(at).Seconds()
		if wait*float64(w.c.Rate) > float64(w.c.Queue) {
			w.lost++
			return
		}
		w.freeAt = w.freeAt.Add(time.Duration(len(p)) * time.Second / time.Duration(w.c.Rate))
		at = w.freeAt
	}
	due := at.Add(w.c.Delay)
	if w.c.Jitter > 0 {
		due = due.Add(time.Duration(w.chance.Int64N(int64(w.c.Jitter))))
	}
	i, _ := slices.BinarySearchFunc(w.packets, due, func(p packet, due time.Time) int {
		if p.due.After(due) {
			return 1
		}
		return -1 // behind those that are due at the same time
	})
	w.packets = slices.Insert(w.packets, i, packet{due, slices.Clone(p)})
}

// deliver brings the packets that are due, and returns when the next one is, or the zero
// time.
func (w *Way) deliver() (next time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	for len(w.packets) > 0 {
		if p := w.packets[0]; p.due.After(now) {
			return p.due
		}
		_, _ = w.to.Write(w.packets[0].bytes) // fails if the device is down, which is a loss as well
		w.packets = w.packets[1:]
	}
	return time.Time{}
}
