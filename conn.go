package sendq

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"time"
)

// wrapped returns the connection that conn wraps, if conn tells so as *tls.Conn does.
func wrapped(conn net.Conn) (inner net.Conn, ok bool) {
	w, ok := conn.(interface{ NetConn() net.Conn })
	if !ok {
		return nil, false
	}
	inner = w.NetConn()
	return inner, inner != nil
}

// innermost returns the connection beneath all wrappers.
func innermost(conn net.Conn) net.Conn {
	for {
		inner, ok := wrapped(conn)
		if !ok {
			return conn
		}
		conn = inner
	}
}

// isMessageFramed tells whether each Write on conn is one message to the peer, as on
// datagram sockets, so that messages must not be coalesced.
func isMessageFramed(conn net.Conn) bool {
	addr := conn.LocalAddr()
	if addr == nil {
		return false
	}
	network := addr.Network()
	return network == "unixgram" || network == "unixpacket" ||
		strings.HasPrefix(network, "udp") || strings.HasPrefix(network, "ip")
}

// closeNow closes conn from the inside out, so that nothing an outer layer wants to
// say first, such as the close_notify of TLS, holds it up.
func closeNow(conn net.Conn) error {
	if inner, ok := wrapped(conn); ok {
		err := closeNow(inner)
		if outer := conn.Close(); err == nil && !isClosed(outer) {
			err = outer
		}
		return err
	}
	return conn.Close()
}

// isClosed tells whether err says that the connection had been closed before.
func isClosed(err error) bool {
	return errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe) || errors.Is(err, os.ErrClosed)
}

// halfClose tells the peer that no more will come, in every layer of conn that can, and
// returns whether there was one.
func halfClose(conn net.Conn) (closed bool) {
	if c, ok := conn.(interface{ CloseWrite() error }); ok {
		_ = c.CloseWrite() // fails if the peer is gone, and finish will find that out
		closed = true
	}
	if inner, ok := wrapped(conn); ok && halfClose(inner) {
		closed = true
	}
	return closed
}

// finish sees to it that what conn has taken reaches the peer although conn is about
// to be closed. Close alone does not: while input is unread, or comes later, the
// kernel resets the connection and throws away what it has not sent. Nor does a
// half-close before it. So finish half-closes, waits until the peer's kernel has
// acknowledged everything, and takes the unread input away.
//
// It gives up when the peer is gone, with an error, and when aborted is closed,
// without one. Then lost is how many bytes may not have arrived.
func finish(conn net.Conn, aborted <-chan struct{}) (lost int, err error) {
	socket := innermost(conn)
	// What comes after this is goodbye, in TLS and in TCP, and no loss.
	messages, _ := getSendState(socket)
	end := messages.acknowledged + uint64(messages.unacknowledged)
	if _, ok := wrapped(conn); ok {
		// TLS gives up its goodbye when the kernel has no room for it in time.
		if lost, err = awaitAcknowledgement(socket, end, aborted); lost > 0 {
			return lost, err
		}
	}
	if !halfClose(conn) {
		return 0, nil // such as net.Pipe, which buffers nothing
	}
	lost, err = awaitAcknowledgement(socket, end, aborted)
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		sleep(500*time.Millisecond, aborted) // as net/http does, hoping that it is enough
		return 0, nil
	case lost == 0 && err == nil:
		discardUnread(socket)
	}
	return lost, err
}

// A sendState is how far a connection's peer has got, by the word of its kernel.
type sendState struct {
	acknowledged   uint64 // bytes; meaningful as a difference only
	unacknowledged int    // bytes, a half-close included
	gone           bool   // the connection has ended: they never will be
}

// awaitAcknowledgement waits until everything written to socket has been acknowledged.
// Those bytes are lost that were not when it gave up, and that are no goodbye behind end.
func awaitAcknowledgement(socket net.Conn, end uint64, aborted <-chan struct{}) (lost int, err error) {
	// Polled, for no kernel tells when the acknowledgement comes: in less than a
	// round trip as a rule, and else whenever the peer likes.
	const shortest, longest = 50 * time.Microsecond, 50 * time.Millisecond
	for pause := shortest; ; pause = min(2*pause, longest) {
		s, err := getSendState(socket)
		switch {
		case err != nil:
			return lost, err // not to be known, or closed under our hands
		case s.unacknowledged == 0:
			return 0, nil
		}
		lost = int(max(0, int64(end-s.acknowledged)))
		switch {
		case s.gone && lost > 0:
			return lost, errReset
		case s.gone:
			return 0, nil
		}
		if !sleep(pause, aborted) {
			return lost, nil
		}
	}
}

// sleep waits for d, and returns false at once when aborted is closed.
func sleep(d time.Duration, aborted <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-aborted:
		return false
	}
}
