// Package sock reports what the kernel knows of a net.Conn, writes to a socket without waiting,
// and closes connections of all kinds.
package sock

import "net"

// State is the progress of a connection's peer, as far as the kernel knows it.
type State struct {
	Acknowledged   uint64 // bytes; only differences are meaningful
	Unacknowledged int    // bytes, including a half-close
	Unread         int    // bytes in the queue of a Unix socket's peer: a level, not a count
	Gone           bool   // the connection has ended
}

// StateOf returns the progress of conn's peer. On a Unix socket every written byte is
// acknowledged, because it is in the peer's queue.
//
// If conn does not lead to a TCP, MPTCP or Unix socket, or the platform lacks the counts,
// StateOf returns errors.ErrUnsupported.
func StateOf(conn net.Conn) (s State, err error) {
	err = onSocket(conn, func(fd uintptr) (err error) {
		s, err = stateOf(fd)
		return err
	})
	return s, err
}

// LastError returns why the connection has ended. It returns nil if the reason is unknown, or
// if somebody has received it already.
func LastError(conn net.Conn) error { return onSocket(conn, lastErrorOf) }

// ProgressWrite returns how large one write to conn may be, in bytes, so that progress of the
// peer shows during the write. The size is most if StateOf counts bytes. On a Unix socket it is
// a quarter of the send buffer, but at most most. If only the return of a write shows progress,
// it is fallback.
func ProgressWrite(conn net.Conn, most, fallback int) int {
	limit := fallback
	_ = onSocket(conn, func(fd uintptr) error {
		limit = progressWriteOf(fd, most, fallback)
		return nil
	})
	return limit
}
