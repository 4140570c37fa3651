//go:build linux

package main

import (
	"bytes"
	"context"
	"net"
	"sync"

	"github.com/sendq-go/sendq"
)

// A sender passes messages from any number of goroutines to a connection.
type sender interface {
	send(message []byte) error // from any goroutine; message is never changed
	end() error                // writes what is left, after the last send
	close()                    // closes the connection, after end or without it
}

// A writerRival is a kind of sender.
type writerRival struct {
	name      string
	start     func(conn net.Conn) (sender, error)
	overhead  func(size int) int // bytes added to a message of that size
	alone     bool               // only one goroutine may send
	handshake bool               // the peer must read an HTTP response first
}

// canIdle reports whether idle senders of this kind can be measured, on a connection without a
// peer.
func (r *writerRival) canIdle() bool { return !r.alone && !r.handshake }

const (
	boundedName   = "sendq, MaxPending of 1 MiB, Block"
	unboundedName = "sendq, unbounded"
	channelName   = "channel, one write per message"
	limitName     = "the limit: one goroutine, no lock"
)

func writerRivals() []writerRival {
	raw := func(int) int { return 0 }
	return []writerRival{
		{name: boundedName, start: startBounded, overhead: raw},
		{name: unboundedName, start: startUnbounded, overhead: raw},
		{name: channelName, start: startChannel, overhead: raw},
		{name: "mutex around conn.Write", start: startMutex, overhead: raw},
		{name: "mutex, bufio, flusher (as nats.go)", start: startBuffered, overhead: raw},
		{name: "queue, 16 at a time (as centrifuge)", start: startMerging, overhead: raw},
		{name: "gws WriteAsync", start: startGWS, overhead: webSocketHeader, handshake: true},
		{name: limitName, start: startLimit, overhead: raw, alone: true},
	}
}

// sendqSender is a Writer.
type sendqSender struct{ w *sendq.Writer }

func startBounded(conn net.Conn) (sender, error) {
	return sendqSender{sendq.NewWriter(conn, &sendq.WriterOptions{MaxPending: 1 << 20, Overflow: sendq.Block})}, nil
}

func startUnbounded(conn net.Conn) (sender, error) {
	return sendqSender{sendq.NewWriter(conn, nil)}, nil
}

func (s sendqSender) send(message []byte) error {
	_, err := s.w.Write(message)
	return err
}
func (s sendqSender) end() error { return s.w.Flush(context.Background()) }
func (s sendqSender) close()     { s.w.CloseNow() }

// channelSender has a goroutine that writes the messages from a channel one by one, as most
// programs do. Like Writer.Write it copies messages, so callers may reuse their buffers.
type channelSender struct {
	conn       net.Conn
	queue      chan []byte
	closeQueue func()
	written    chan error // gets the result once the queue is closed and empty
}

func startChannel(conn net.Conn) (sender, error) {
	s := &channelSender{conn: conn, queue: make(chan []byte, 256), written: make(chan error, 1)}
	s.closeQueue = sync.OnceFunc(func() { close(s.queue) })
	go func() {
		var failed error
		for message := range s.queue {
			if failed == nil {
				_, failed = conn.Write(message)
			}
		}
		s.written <- failed
	}()
	return s, nil
}

func (s *channelSender) send(message []byte) error {
	s.queue <- bytes.Clone(message)
	return nil
}

func (s *channelSender) end() error {
	s.closeQueue()
	return <-s.written
}

func (s *channelSender) close() {
	s.closeQueue()
	s.conn.Close()
}

// mutexSender writes in send, under a mutex.
type mutexSender struct {
	conn net.Conn
	mu   sync.Mutex
}

func startMutex(conn net.Conn) (sender, error) { return &mutexSender{conn: conn}, nil }

func (s *mutexSender) send(message []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err := s.conn.Write(message)
	return err
}
func (s *mutexSender) end() error { return nil }
func (s *mutexSender) close()     { s.conn.Close() }

// limitSender is the upper limit of speed: a buffer for a single goroutine.
type limitSender struct {
	conn net.Conn
	buf  []byte
}

func startLimit(conn net.Conn) (sender, error) {
	return &limitSender{conn, make([]byte, 0, 256<<10)}, nil
}

func (s *limitSender) send(message []byte) error {
	if len(s.buf)+len(message) > cap(s.buf) {
		if err := s.end(); err != nil {
			return err
		}
	}
	s.buf = append(s.buf, message...)
	return nil
}

func (s *limitSender) end() error {
	_, err := s.conn.Write(s.buf)
	s.buf = s.buf[:0]
	return err
}

func (s *limitSender) close() { s.conn.Close() }
