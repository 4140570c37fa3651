package websocket

import (
	"bytes"
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
	goodbye atomic.Pointer[[]byte] // the last frame; nil means code 1000
	read    chan struct{}          // closed when reading has ended
}

// sayGoodbye makes frame the last one, unless there is another.
func (c *frameConn) sayGoodbye(frame []byte) { c.goodbye.CompareAndSwap(nil, &frame) }

// CloseWrite is called after all frames have arrived. It says goodbye, and waits for the answer.
func (c *frameConn) CloseWrite() error {
	c.sayGoodbye(ws.CompiledCloseNormalClosure)
	_, err := c.Write(*c.goodbye.Load())
	<-c.read
	return err
}

// NetConn lets sendq see the acknowledgements of the peer.
func (c *frameConn) NetConn() net.Conn { return c.Conn }

// A queuedConn is the connection for a library. The library's pongs are queued like all other
// frames. Its goodbye comes after the queue, and is not for another Writer that takes over.
type queuedConn struct {
	*frameConn
	w *sendq.Writer // nil during the handshake
}

func (c *queuedConn) Write(p []byte) (int, error) {
	switch {
	case c.w == nil:
		return c.Conn.Write(p)
	case p[0] == ws.CompiledClose[0]:
		c.sayGoodbye(bytes.Clone(p))
	default:
		// A closing Writer accepts no more frames. Reading goes on.
		_, _ = c.w.Write(p)
	}
	return len(p), nil
}

// SetWriteDeadline does nothing: a queue takes everything at once.
func (*queuedConn) SetWriteDeadline(time.Time) error { return nil }
