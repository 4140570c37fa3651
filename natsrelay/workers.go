package natsrelay

import (
	"context"
	"sync"
)

// maxWorkers limits the concurrent requests to the bucket, except for claims.
const maxWorkers = 64

// workers call functions in at most maxWorkers goroutines, which end when the queue is empty.
type workers struct {
	mu          sync.Mutex
	queue       []func()
	running     int
	idleWaiters []chan struct{} // closed when no goroutine is running
}

// do queues f. It does not wait.
func (w *workers) do(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queue = append(w.queue, f)
	if w.running < maxWorkers {
		w.running++
		go w.work()
	}
}

func (w *workers) work() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.queue) > 0 {
		f := w.queue[0]
		w.queue[0] = nil
		w.queue = w.queue[1:]
		w.mu.Unlock()
		f()
		w.mu.Lock()
	}
	w.running--
	if w.running == 0 {
		for _, c := range w.idleWaiters {
			close(c)
		}
		w.idleWaiters = nil
	}
}

// wait waits until every function has returned, or ctx is done.
func (w *workers) wait(ctx context.Context) error {
	idle := make(chan struct{})
	w.mu.Lock()
	if w.running == 0 {
		close(idle)
	} else {
		w.idleWaiters = append(w.idleWaiters, idle)
	}
	w.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
