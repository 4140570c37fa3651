package sendq

import "sync"

// calls makes calls of the program's functions, in order and one after the other. A goroutine makes
// them, which exists only while there are any. The lock guards calls, and is not held during a call.
type calls struct {
	lock   sync.Locker
	queued []func()
	idle   func() // called when the last call has returned, under the lock
	busy   bool   // the goroutine exists
}

// add queues a call. The lock is held.
func (c *calls) add(call func()) {
	c.queued = append(c.queued, call)
	if !c.busy {
		c.busy = true
		go c.run()
	}
}

// run makes the calls until there are none.
func (c *calls) run() {
	finished := false
	defer func() {
		if !finished { // a call has ended this goroutine by runtime.Goexit, or panics
			go c.run()
		}
	}()
	for {
		c.lock.Lock()
		if len(c.queued) == 0 {
			break
		}
		call := c.queued[0]
		c.queued[0] = nil
		c.queued = c.queued[1:]
		c.lock.Unlock()
		call()
	}
	c.queued = nil // its memory may be large
	c.busy, finished = false, true
	c.idle()
	c.lock.Unlock()
}
