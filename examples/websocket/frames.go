package websocket

import (
	"net"
	"sync/atomic"
	"time"

	"github.com/gobwas/ws"

	"github.com/sendq-go/sendq"
)

// Text returns a text message as a frame of a server. One frame can go to any number of Writers.
func Text(p []byte) []byte { return ws.MustCompileFrame(ws.NewTextFrame(p)) }

// A frameConn is a connection for a Writer of frames. It ends with the close handshake.
type frameConn struct {
	net.Conn
	answered atomic.Bool   // the peer has closed first, and the answer is in the queue
	read     chan struct{} // closed when reading has ended
}

// CloseWrite is called after all frames have arrived. It says goodbye, and waits for the answer.
func (c *frameConn) CloseWrite() error {
	if c.answered.Load() {
		return nil
	}
	_, err := c.Write(ws.CompiledCloseNormalClosure)
	<-c.read
	return err
}

// NetConn lets sendq see the acknowledgements of the peer.
func (c *frameConn) NetConn() net.Conn { return c.Conn }

// A queuedConn is the connection for a library. The library's own frames are queued like all others:
// pongs, and the answer to a close.
type queuedConn struct {
	*frameConn
	w *sendq.Writer
}

func (c queuedConn) Write(p []byte) (int, error) {
	_, err := c.w.Write(p)
	if err == nil && p[0] == ws.CompiledClose[0] {
		c.answered.Store(true)
	}
	// A closing Writer accepts no more frames. Reading goes on.
	return len(p), nil
}

// SetWriteDeadline does nothing: a queue takes everything at once.
func (queuedConn) SetWriteDeadline(time.Time) error { return nil }
