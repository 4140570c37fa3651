package main

import (
	"net"
	"sync/atomic"
	"time"

	"github.com/sendq-go/sendq"
)

// A session is a Writer and its peer.
type session struct {
	w     *sendq.Writer
	peer  net.Conn
	inner net.Conn     // peer, or the connection below its TLS
	until atomic.Int64 // end of the peer's stall, in Unix nanoseconds
	lossy atomic.Bool  // the peer resets the connection

	// Valid once received is closed.
	received chan struct{}
	stream   stream
	rest     []byte // bytes after the last whole message
	err      error  // the first bad message
}

// receive reads and checks messages until the end. After a bad message it discards the rest.
func (l *session) receive() {
	defer close(l.received)
	defer l.peer.Close()
	buf := make([]byte, 32<<10)
	have := 0
	for {
		for l.isStalled() {
			time.Sleep(time.Millisecond)
		}
		n, err := l.peer.Read(buf[have:])
		if l.err == nil {
			var rest []byte
			rest, l.err = l.stream.take(buf[:have+n])
			have = copy(buf, rest)
		}
		if l.err != nil {
			have = 0
		}
		if err != nil {
			l.rest = append(l.rest, buf[:have]...)
			return
		}
	}
}

func (l *session) isStalled() bool {
	until := l.until.Load()
	return until > 0 && time.Now().UnixNano() < until
}

// stall stops the peer from reading for d.
func (l *session) stall(d time.Duration) { l.until.Store(time.Now().Add(d).UnixNano()) }

// reset ends the connection abruptly, as a crashing peer does.
func (l *session) reset() {
	l.lossy.Store(true)
	if c, ok := l.inner.(*net.TCPConn); ok {
		_ = c.SetLinger(0) // fails if the connection has ended
	}
	l.inner.Close()
}
