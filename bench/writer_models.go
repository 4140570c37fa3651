//go:build linux

package main

import (
	"bufio"
	"net"
	"sync"
)

// bufferedSender is a model of nats.go. Senders fill a buffer of 32 KiB and wake a goroutine
// that flushes it. If the buffer is full, a sender writes it while the others wait.
type bufferedSender struct {
	conn net.Conn
	mu   sync.Mutex
	buf  *bufio.Writer
	kick chan struct{}
	quit chan struct{}
	stop func()
}

func startBuffered(conn net.Conn) (sender, error) {
	s := &bufferedSender{conn: conn, buf: bufio.NewWriterSize(conn, 32<<10), kick: make(chan struct{}, 1), quit: make(chan struct{})}
	s.stop = sync.OnceFunc(func() { close(s.quit) })
	go func() {
		for {
			select {
			case <-s.kick:
				_ = s.flush() // bufio keeps the error for the next send
			case <-s.quit:
				return
			}
		}
	}()
	return s, nil
}

func (s *bufferedSender) send(message []byte) error {
	s.mu.Lock()
	_, err := s.buf.Write(message)
	s.mu.Unlock()
	if len(s.kick) == 0 {
		select {
		case s.kick <- struct{}{}:
		default:
		}
	}
	return err
}

func (s *bufferedSender) flush() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Flush()
}

func (s *bufferedSender) end() error { return s.flush() }

func (s *bufferedSender) close() {
	s.stop()
	s.conn.Close()
}

// mergingSender is a model of the client writer in centrifuge, because the original cannot be
// imported. A goroutine takes up to 16 messages at a time from an unbounded queue and writes
// them as one. Messages are not copied into the queue.
type mergingSender struct {
	conn   net.Conn
	mu     sync.Mutex
	filled sync.Cond
	queue  [][]byte // a ring
	head   int
	count  int
	ended  bool
	failed error
}

func startMerging(conn net.Conn) (sender, error) {
	s := &mergingSender{conn: conn, queue: make([][]byte, 2)}
	s.filled.L = &s.mu
	go s.run()
	return s, nil
}

func (s *mergingSender) send(message []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.count == len(s.queue) {
		twice := make([][]byte, 2*len(s.queue))
		n := copy(twice, s.queue[s.head:])
		copy(twice[n:], s.queue[:s.head])
		s.queue, s.head = twice, 0
	}
	s.queue[(s.head+s.count)%len(s.queue)] = message
	s.count++
	s.filled.Signal()
	return s.failed
}

func (s *mergingSender) run() {
	const most = 16
	var merged []byte
	for {
		merged = merged[:0]
		s.mu.Lock()
		for s.count == 0 && !s.ended {
			s.filled.Wait()
		}
		if s.count == 0 {
			s.mu.Unlock()
			return
		}
		for range min(s.count, most) {
			merged = append(merged, s.queue[s.head]...)
			s.queue[s.head] = nil
			s.head = (s.head + 1) % len(s.queue)
			s.count--
		}
		s.mu.Unlock()
		if _, err := s.conn.Write(merged); err != nil {
			s.mu.Lock()
			s.failed, s.ended, s.count = err, true, 0
			s.mu.Unlock()
		}
	}
}

func (s *mergingSender) end() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	s.filled.Signal()
	return s.failed
}

func (s *mergingSender) close() {
	_ = s.end()
	s.conn.Close()
}
