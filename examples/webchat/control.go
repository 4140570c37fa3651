package main

import (
	"context"
	"encoding/binary"
	"net"
	"sync"
	"time"

	"github.com/gobwas/ws"
)

// maxControl bounds the control frames that wait, in bytes. Beyond it, new ones are dropped. Only a
// browser that pings and does not read gets there.
const maxControl = 4 << 10

// A framedConn sends the frames of a Writer, and control frames between them. Control frames are no
// lines, so they must not go through the Writer: it counts messages as the user counts lines.
type framedConn struct {
	net.Conn
	writing sync.Mutex // held during a write to Conn
	sent    frameEnds
	isOver  bool // the last frame is sent

	mu      sync.Mutex
	waiting []byte // control frames
}

// Write writes bytes of frames.
func (c *framedConn) Write(p []byte) (int, error) {
	n, err := c.writeFrames(p)
	c.sendWaiting()
	return n, err
}

func (c *framedConn) writeFrames(p []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	n, err := c.Conn.Write(p)
	c.sent.pass(p[:n])
	return n, err
}

// sendControl sends a control frame at the end of the frame that is being written.
func (c *framedConn) sendControl(frame []byte) {
	c.mu.Lock()
	if len(c.waiting)+len(frame) <= maxControl {
		c.waiting = append(c.waiting, frame...)
	}
	c.mu.Unlock()
	c.sendWaiting()
}

// sendWaiting sends the waiting control frames. If a write is in progress, or its frame is incomplete,
// they wait for the end of the next Write.
func (c *framedConn) sendWaiting() {
	for c.isWaiting() && c.writing.TryLock() {
		sent := c.sent.isEnd() && !c.isOver && c.writeWaiting()
		c.writing.Unlock()
		if !sent {
			return
		}
	}
}

func (c *framedConn) isWaiting() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.waiting) > 0
}

// writeWaiting writes the waiting control frames. If it fails, nothing can follow a part of a frame, so
// the connection ends. writing is held.
func (c *framedConn) writeWaiting() bool {
	c.mu.Lock()
	frames := c.waiting
	c.waiting = nil
	c.mu.Unlock()
	_ = c.Conn.SetWriteDeadline(time.Now().Add(silence))
	if _, err := c.Conn.Write(frames); err != nil {
		c.Conn.Close()
		return false
	}
	_ = c.Conn.SetWriteDeadline(time.Time{})
	return true
}

// sendLast sends the last frame. The Writer has sent everything else.
func (c *framedConn) sendLast(frame []byte) error {
	_ = c.Conn.SetWriteDeadline(time.Now().Add(farewellTimeout)) // also of a control frame
	c.writing.Lock()
	defer c.writing.Unlock()
	_ = c.Conn.SetWriteDeadline(time.Now().Add(farewellTimeout))
	c.isOver = true
	_, err := c.Conn.Write(frame)
	return err
}

// frameEnds finds the ends of frames in a stream.
type frameEnds struct {
	head     [ws.MaxHeaderSize]byte // the beginning of a header
	headSize int
	left     uint64 // the rest of a payload, in bytes
}

// isEnd reports whether the last frame was complete.
func (e *frameEnds) isEnd() bool { return e.headSize == 0 && e.left == 0 }

// pass takes the next bytes of the stream.
func (e *frameEnds) pass(p []byte) {
	for len(p) > 0 {
		if e.left > 0 {
			n := min(e.left, uint64(len(p)))
			e.left -= n
			p = p[n:]
			continue
		}
		e.head[e.headSize] = p[0]
		e.headSize++
		p = p[1:]
		if e.headSize >= 2 && e.headSize == headerSize(e.head[1]) {
			e.left, e.headSize = e.payload(), 0
		}
	}
}

// payload returns the size of the payload after a complete header.
func (e *frameEnds) payload() uint64 {
	switch size := e.head[1] & 0x7f; size {
	case 126:
		return uint64(binary.BigEndian.Uint16(e.head[2:]))
	case 127:
		return binary.BigEndian.Uint64(e.head[2:])
	default:
		return uint64(size)
	}
}

// ping sends a ping to all browsers at intervals, and they answer it. A browser without an answer
// reaches its read deadline.
func (s *site) ping(ctx context.Context) error {
	frame := compile(ws.NewPingFrame(nil))
	for tick := time.NewTicker(pingEvery); ; {
		select {
		case <-tick.C:
			for b := range s.browsers.Range {
				go b.(*browser).sendControl(frame) // a full connection must not hold up the others
			}
		case <-ctx.Done():
			return nil
		}
	}
}
