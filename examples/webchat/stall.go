package main

import (
	"context"
	"sync"
	"time"
)

// A stall makes a connection behave for a time as if its peer did not read. It is there for
// -demo.
type stall struct {
	mu     sync.Mutex
	ctx    context.Context // done when it is over; nil if there was none yet
	cancel context.CancelFunc
}

// start lets no write begin for so long.
func (s *stall) start(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx != nil {
		s.cancel()
	}
	s.ctx, s.cancel = context.WithTimeout(context.Background(), d)
}

// end ends it early.
func (s *stall) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx != nil {
		s.cancel()
	}
}

// over returns a channel that is closed when it is over, or nil if there was none.
func (s *stall) over() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx == nil {
		return nil
	}
	return s.ctx.Done()
}

// wait waits until it is over.
func (s *stall) wait() {
	if over := s.over(); over != nil {
		<-over
	}
}

// isOn tells whether there is one.
func (s *stall) isOn() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ctx != nil && s.ctx.Err() == nil
}
