package sendq

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// A crew is the Writers that a fan-out has found idle, whose flushers must be started. A few
// goroutines write for all of them what the kernel takes at once; only a Writer that it makes
// wait gets a flusher of its own. A goroutine for each took two thirds more time.
type crew struct {
	writers []*Writer
	busy    atomic.Int32 // goroutines at work
}

var crews = sync.Pool{New: func() any { return new(crew) }}

func newCrew() *crew { return crews.Get().(*crew) }

// minShare is how many Writers are worth a goroutine.
const minShare = 8

// start starts the flushers. The crew must not be used any more.
func (c *crew) start() {
	goroutines := min(runtime.GOMAXPROCS(0), (len(c.writers)+minShare-1)/minShare)
	if goroutines == 0 {
		crews.Put(c)
		return
	}
	c.busy.Store(int32(goroutines))
	for i := range goroutines {
		go c.work(i*len(c.writers)/goroutines, (i+1)*len(c.writers)/goroutines)
	}
}

// work starts the flushers of the Writers [first, last).
func (c *crew) work(first, last int) {
	for _, w := range c.writers[first:last] {
		w.mu.Lock()
		w.tryFlush()
		w.mu.Unlock()
	}
	if c.busy.Add(-1) == 0 {
		clear(c.writers)
		c.writers = c.writers[:0]
		crews.Put(c)
	}
}
