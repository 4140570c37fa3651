package sendqtest

import (
	"errors"
	"io"
	"net"
	"os"
	"time"

	"github.com/sendq-go/sendq/internal/sock"
)

// Write returns when the peer has taken p, or when it fails. Then n bytes were taken.
func (c *Conn) Write(p []byte) (n int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sizes = append(c.sizes, len(p))
	for {
		switch {
		case c.closed:
			return n, net.ErrClosed
		case c.writeBy.isPast():
			return n, os.ErrDeadlineExceeded
		case c.hungUp:
			return n, sock.ErrBroken
		}
		taken, ok := c.mayTake(len(p) - n)
		if !ok {
			c.waitForPeer()
			continue
		}
		if c.fails {
			if c.left == 0 && n < len(p) {
				return n, c.err
			}
			taken = min(taken, c.left)
			c.left -= taken
		}
		taken, err = c.pass(p[n : n+taken])
		n += taken
		if err != nil || n == len(p) {
			return n, err
		}
	}
}

// waitForPeer waits until the peer may take something. It releases mu while it waits.
func (c *Conn) waitForPeer() {
	if c.pace.waiting != nil {
		close(c.pace.waiting)
		c.pace.waiting = nil
	}
	if c.pace.interval > 0 {
		timer := time.AfterFunc(time.Until(c.pace.next), c.wake)
		defer timer.Stop()
	}
	c.wait()
}

// pass passes p to the peer. mu is held, but released during a write to another connection.
func (c *Conn) pass(p []byte) (n int, err error) {
	if c.inner == nil {
		c.bytes = append(c.bytes, p...)
		return len(p), nil
	}
	c.mu.Unlock()
	defer c.mu.Lock()
	return c.inner.Write(p)
}

// Read returns what the peer sends.
func (c *Conn) Read(p []byte) (int, error) {
	if c.inner != nil {
		return c.inner.Read(p)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case c.closed:
			return 0, net.ErrClosed
		case c.readBy.isPast():
			return 0, os.ErrDeadlineExceeded
		case len(c.input) > 0 || len(p) == 0:
			n := copy(p, c.input)
			c.input = c.input[n:]
			return n, nil
		case c.hungUp:
			return 0, io.EOF
		}
		c.wait()
	}
}

// Close ends all calls that wait. A second Close fails with net.ErrClosed.
func (c *Conn) Close() error {
	err := error(nil)
	c.change(func() {
		if c.closed {
			err = net.ErrClosed
		}
		c.closed = true
	})
	if c.inner != nil {
		return c.inner.Close()
	}
	return err
}

// LocalAddr returns the address of the connection.
func (c *Conn) LocalAddr() net.Addr {
	if c.inner != nil {
		return c.inner.LocalAddr()
	}
	return addr{}
}

// RemoteAddr returns the address of the peer.
func (c *Conn) RemoteAddr() net.Addr {
	if c.inner != nil {
		return c.inner.RemoteAddr()
	}
	return addr{}
}

// SetDeadline sets both deadlines.
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline sets the time at which Read fails.
func (c *Conn) SetReadDeadline(t time.Time) error {
	if c.inner != nil {
		return c.inner.SetReadDeadline(t)
	}
	c.change(func() { c.readBy.set(t, c.wake) })
	return nil
}

// SetWriteDeadline sets the time at which Write fails.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.change(func() { c.writeBy.set(t, c.wake) })
	if c.inner != nil {
		return c.inner.SetWriteDeadline(t)
	}
	return nil
}

// A deadline is a time, or none.
type deadline struct {
	at    time.Time
	timer *time.Timer
}

// set sets the time at which wake is called.
func (d *deadline) set(at time.Time, wake func()) {
	if d.timer != nil {
		d.timer.Stop()
	}
	d.at, d.timer = at, nil
	if !at.IsZero() {
		d.timer = time.AfterFunc(time.Until(at), wake)
	}
}

func (d *deadline) isPast() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

// addr is the address of a Conn in memory. Nothing is buffered, so it has the network of a
// net.Pipe: Close of a Writer need not wait.
type addr struct{}

func (addr) Network() string { return "pipe" }
func (addr) String() string  { return "sendqtest" }
