package sendq

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/sendq-go/sendq/internal/sock"
)

// StreamConn returns a net.Conn for a stream that is none, such as an http.ResponseWriter, an SSH
// channel or a QUIC stream. Give the net.Conn to NewWriter.
//
// Each Write of the net.Conn is a Write of w, followed by Flush if w has it in one of the forms
// Flush(), Flush() error and FlushError() error. If Flush fails, no byte of that Write counts as
// written, although the peer may have received some.
//
// The net.Conn uses these methods of w if there are any:
//
//   - Close. It is called once.
//   - SetWriteDeadline. If Close interrupts a Write, it first sets a deadline in the past. One of
//     Close and SetWriteDeadline must make a stuck Write return, because otherwise neither
//     CloseNow nor a limit can end the Writer.
//   - CloseWrite. A Writer that closes calls it when everything is written.
//   - Read, SetReadDeadline. Without them, these and deadlines of writing fail with
//     errors.ErrUnsupported.
//
// Its addresses say nothing about w. When Close has returned, w is no longer in use, and a later
// Write fails with net.ErrClosed. A Writer's Close does not know what has arrived. It returns as
// soon as w has taken everything and is closed, without the wait of half a second described at
// Shutdown, because Close of a stream discards nothing.
//
// The methods of an http.ResponseWriter must not be called after its handler has returned, so the
// handler must first wait for the Writer's Done, for example by Close. The client gets the header
// with the first message, unless the handler flushes it before. The WriteTimeout of an http.Server
// ends the stream, unless the handler calls SetWriteDeadline with the zero time. In front of an
// http.ResponseWriter that may be wrapped, use an http.ResponseController:
//
//	sendq.StreamConn(struct {
//		io.Writer
//		*http.ResponseController // Flush and SetWriteDeadline
//	}{rw, http.NewResponseController(rw)})
//
// StreamConn panics if w is nil.
func StreamConn(w io.Writer) net.Conn {
	if w == nil {
		panic("sendq: StreamConn: w is nil")
	}
	return &streamConn{w: w, network: sock.Stream, done: make(chan struct{})}
}

// MessageConn returns a net.Conn for what sends whole messages, such as a gRPC stream. Give it to
// NewWriter. Every message of the Writer is one call of write, because MessageFramed is implied.
// Calls do not overlap. The function write must not keep p. If it fails, the Writer ends, and the
// message is undelivered.
//
// Close of the net.Conn calls the function close once. If a call of write is stuck, close must
// make it return, because otherwise neither CloseNow nor a limit can end the Writer. When close
// is called, no further call of write begins. In all else, the net.Conn is like that of
// StreamConn.
//
// MessageConn panics if a function is nil.
func MessageConn(write func(p []byte) error, close func() error) net.Conn {
	if write == nil || close == nil {
		panic("sendq: MessageConn: a function is nil")
	}
	return &streamConn{w: messages{write, close}, network: sock.Messages, done: make(chan struct{})}
}

// messages is the stream of a MessageConn.
type messages struct {
	write func(p []byte) error
	close func() error
}

func (m messages) Write(p []byte) (int, error) {
	if err := m.write(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (m messages) Close() error { return m.close() }

// A streamConn is the net.Conn of StreamConn and MessageConn.
type streamConn struct {
	w       io.Writer
	network streamAddr
	done    chan struct{} // closed when Close has finished

	// mu guards the fields below. Close holds it while it interrupts the calls under way, so they
	// do not return before that: the owner of w may destroy it then.
	mu     sync.Mutex
	busy   int // calls of w.Write and w.Close under way
	closed bool
}

// Write writes p to w and flushes w.
func (c *streamConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return 0, net.ErrClosed
	}
	c.busy++
	c.mu.Unlock()
	defer c.finish()
	n, err := c.w.Write(p)
	if err != nil {
		return n, err
	}
	if err := flush(c.w); err != nil {
		return 0, err
	}
	return n, nil
}

// finish ends a call counted in busy.
func (c *streamConn) finish() {
	c.mu.Lock()
	c.busy--
	c.mu.Unlock()
}

// flush makes w send what it has, if w can.
func flush(w io.Writer) error {
	switch w := w.(type) {
	case interface{ FlushError() error }:
		return w.FlushError()
	case interface{ Flush() error }:
		return w.Flush()
	case interface{ Flush() }:
		w.Flush()
	}
	return nil
}

// Close interrupts a Write, or an earlier Close, and closes w. It returns when that has finished.
func (c *streamConn) Close() error {
	c.mu.Lock()
	isFirst := !c.closed
	c.closed = true
	if c.busy > 0 {
		_ = c.SetWriteDeadline(time.Unix(1, 0))
	}
	if !isFirst {
		c.mu.Unlock()
		<-c.done
		return net.ErrClosed
	}
	c.busy++
	c.mu.Unlock()
	defer close(c.done)
	defer c.finish()
	if w, ok := c.w.(io.Closer); ok {
		return w.Close()
	}
	return nil
}

// CloseWrite ends the sending half of w.
func (c *streamConn) CloseWrite() error {
	if w, ok := c.w.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return errors.ErrUnsupported
}

// Read reads from w.
func (c *streamConn) Read(p []byte) (int, error) {
	if r, ok := c.w.(io.Reader); ok {
		return r.Read(p)
	}
	return 0, errors.ErrUnsupported
}

// SetDeadline sets both deadlines of w.
func (c *streamConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline sets the deadline of w.
func (c *streamConn) SetReadDeadline(t time.Time) error {
	if r, ok := c.w.(interface{ SetReadDeadline(time.Time) error }); ok {
		return r.SetReadDeadline(t)
	}
	return errors.ErrUnsupported
}

// SetWriteDeadline sets the deadline of w.
func (c *streamConn) SetWriteDeadline(t time.Time) error {
	if w, ok := c.w.(interface{ SetWriteDeadline(time.Time) error }); ok {
		return w.SetWriteDeadline(t)
	}
	return errors.ErrUnsupported
}

func (c *streamConn) LocalAddr() net.Addr  { return c.network }
func (c *streamConn) RemoteAddr() net.Addr { return c.network }

// A streamAddr is the address of a streamConn.
type streamAddr string

// Network returns the name by which NewWriter knows the connection, also inside a wrapper.
func (a streamAddr) Network() string { return string(a) }
func (a streamAddr) String() string  { return string(a) }
