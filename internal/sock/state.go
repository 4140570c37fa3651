package sock

import "net"

// A State is how far a connection's peer has got, as the kernel knows it.
type State struct {
	Acknowledged   uint64 // bytes; meaningful as a difference only
	Unacknowledged int    // bytes, a half-close included
	Unread         int    // bytes in the queue of a Unix socket's peer: a level, and no count
	Gone           bool   // the connection has ended
}

// StateOf returns how far the peer of conn has got. On a Unix socket all that was
// written is acknowledged, because it is in the peer's queue.
//
// It fails with errors.ErrUnsupported if conn does not lead to a TCP, MPTCP or Unix socket,
// or the platform does not tell.
func StateOf(conn net.Conn) (s State, err error) {
	err = onSocket(conn, func(fd uintptr) (err error) {
		s, err = stateOf(fd)
		return err
	})
	return s, err
}

// LastError returns why the connection has ended, or nil if that is not known, or if somebody
// has been told already.
func LastError(conn net.Conn) error { return onSocket(conn, lastErrorOf) }

// ProgressWrite returns how many bytes one write to conn may have for StateOf to show, while
// the write goes on, that the peer takes something: most where StateOf counts bytes, and blind
// where only the return of a write shows it.
func ProgressWrite(conn net.Conn, most, blind int) int {
	limit := blind
	_ = onSocket(conn, func(fd uintptr) error {
		limit = progressWriteOf(fd, most, blind)
		return nil
	})
	return limit
}
