package main

import (
	"context"
	"sync"
	"time"
)

// A stall makes a connection behave for some time as if its peer did not read. It is for -demo.
type stall struct {
	mu     sync.Mutex
	ctx    context.Context // done at the end of the stall; nil before the first
	cancel context.CancelFunc
}

// start holds up all writes for d.
func (s *stall) start(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx != nil {
		s.cancel()
	}
	s.ctx, s.cancel = context.WithTimeout(context.Background(), d)
}

// end ends the stall early.
func (s *stall) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx != nil {
		s.cancel()
	}
}

// over returns a channel that is closed at the end of the stall, or nil before the first.
func (s *stall) over() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx == nil {
		return nil
	}
	return s.ctx.Done()
}

// wait waits for the end of the stall.
func (s *stall) wait() {
	if over := s.over(); over != nil {
		<-over
	}
}

// isOn reports whether the stall is on.
func (s *stall) isOn() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ctx != nil && s.ctx.Err() == nil
}
