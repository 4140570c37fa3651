package sendq

import (
	"errors"
	"net"
	"strings"
	"syscall"
	"time"
)

// A wrapper tells which connection it wraps, as *tls.Conn does.
type wrapper interface{ NetConn() net.Conn }

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
	if w, ok := conn.(wrapper); ok {
		closeNow(w.NetConn())
	}
	return conn.Close()
}

// halfClose tells the peer that no more will come, in every layer of conn that can.
// It returns the innermost of these layers, or nil if there is none, and its error.
func halfClose(conn net.Conn) (closed net.Conn, err error) {
	if c, ok := conn.(interface{ CloseWrite() error }); ok {
		closed, err = conn, c.CloseWrite()
	}
	if w, ok := conn.(wrapper); ok {
		if inner, innerErr := halfClose(w.NetConn()); inner != nil {
			return inner, innerErr
		}
	}
	return closed, err
}

// finish sees to it that what conn has taken reaches the peer although conn is about
// to be closed. Close alone does not: while input is unread, or comes later, the
// kernel resets the connection and throws away what it has not sent. Nor does a
// half-close before it. So finish half-closes, waits until the peer's kernel has
// acknowledged everything, and takes the unread input away.
//
// It gives up when the peer is gone, with an error, and when aborted is closed,
// without one. Then unacknowledged is how many bytes may not have arrived.
func finish(conn net.Conn, aborted <-chan struct{}) (unacknowledged int, err error) {
	inner, err := halfClose(conn)
	if inner == nil {
		return 0, nil // such as net.Pipe, which buffers nothing
	}
	fin := 1 // the kernel counts the half-close as a byte
	if err != nil {
		fin = 0 // not connected any more
	}
	// Polled, for no kernel tells when the acknowledgement comes: in less than a
	// round trip as a rule, and else whenever the peer likes.
	const shortest, longest = 50 * time.Microsecond, 50 * time.Millisecond
	for pause := shortest; ; pause = min(2*pause, longest) {
		n, err := unacknowledgedBytes(inner)
		switch {
		case errors.Is(err, errors.ErrUnsupported):
			sleep(500*time.Millisecond, aborted) // as net/http does, hoping that it is enough
			return 0, nil
		case errors.Is(err, errPeerGone) && n <= fin:
			return 0, nil // with everything
		case errors.Is(err, errPeerGone):
			return n - fin, err
		case err != nil:
			return unacknowledged, err // closed under our hands
		case n == 0:
			discardUnread(inner)
			return 0, nil
		}
		unacknowledged = max(n-fin, 0)
		if !sleep(pause, aborted) {
			return unacknowledged, nil
		}
	}
}

// errPeerGone says that what is not acknowledged by now never will be.
const errPeerGone = syscall.ECONNRESET

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
