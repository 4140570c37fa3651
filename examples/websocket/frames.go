package websocket

import (
	"net"
	"sync/atomic"
	"time"

	"github.com/gobwas/ws"

	"github.com/sendq-go/sendq"
)

// Text returns a text message as the frame that a server sends. Made once, it goes to any number
// of Writers.
func Text(p []byte) []byte { return ws.MustCompileFrame(ws.NewTextFrame(p)) }

// A frameConn is what a Writer of frames writes to. It ends with the close handshake.
type frameConn struct {
	net.Conn
	answered atomic.Bool   // the peer has closed first, and the answer is among the frames
	read     chan struct{} // closed when nobody reads any more
}

// CloseWrite is called when all frames have arrived. It says goodbye, and waits for the answer.
func (c *frameConn) CloseWrite() error {
	if c.answered.Load() {
		return nil
	}
	_, err := c.Write(ws.CompiledCloseNormalClosure)
	<-c.read
	return err
}

// NetConn lets sendq see what the socket's peer has acknowledged.
func (c *frameConn) NetConn() net.Conn { return c.Conn }

// A queuedConn is the connection as a library sees it: the frames that it writes of its own
// accord, pongs and the answer to a close, are queued like all others.
type queuedConn struct {
	*frameConn
	w *sendq.Writer
}

func (c queuedConn) Write(p []byte) (int, error) {
	_, err := c.w.Write(p)
	if err == nil && p[0] == ws.CompiledClose[0] {
		c.answered.Store(true)
	}
	// A Writer that is closing accepts no more. That is no reason to stop reading.
	return len(p), nil
}

// SetWriteDeadline does nothing: a queue takes everything at once.
func (queuedConn) SetWriteDeadline(time.Time) error { return nil }
