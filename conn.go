package sendq

import (
	"errors"
	"io"
	"net"
	"os"
	"reflect"
	"runtime/debug"
	"strings"
	"syscall"
	"time"
)

// guard calls f, which calls the given method of a connection, and returns a PanicError if
// the method panics. The connection may be anybody's, so f has a goroutine of its own: a
// runtime.Goexit ends no other one.
func guard(conn net.Conn, method string, f func()) error {
	switch conn.(type) {
	case *net.TCPConn, *net.UnixConn:
		f()
		return nil
	}
	outcome := make(chan error, 1)
	go func() {
		returned := false
		defer func() {
			switch r := recover(); {
			case r != nil:
				outcome <- &PanicError{method, r, debug.Stack()}
			case !returned:
				outcome <- &PanicError{method, errGoexit, debug.Stack()}
			default:
				outcome <- nil
			}
		}()
		f()
		returned = true
	}()
	return <-outcome
}

// maxLayers bounds how many connections are looked for beneath one another.
const maxLayers = 32

// layers returns conn and the connections that it wraps, from the outside in, as far as
// they have a method NetConn like that of *tls.Conn.
func layers(conn net.Conn) ([]net.Conn, error) {
	all := []net.Conn{conn}
	for len(all) <= maxLayers {
		outer, ok := all[len(all)-1].(interface{ NetConn() net.Conn })
		if !ok {
			return all, nil
		}
		var inner net.Conn
		err := guard(nil, "NetConn", func() { inner = outer.NetConn() })
		if err != nil || isNil(inner) {
			return all, err
		}
		all = append(all, inner)
	}
	return all[:1], nil // one of them leads back to another
}

// isNil reports whether conn is nil, or a nil pointer.
func isNil(conn net.Conn) bool {
	v := reflect.ValueOf(conn)
	return !v.IsValid() || v.Kind() == reflect.Pointer && v.IsNil()
}

// isDatagram reports whether each Write on a connection of that network is one message to
// the peer, so that messages must not be coalesced.
func isDatagram(network string) bool {
	return network == "unixgram" || network == "unixpacket" ||
		strings.HasPrefix(network, "udp") || strings.HasPrefix(network, "ip")
}

func networkOf(conn net.Conn) string {
	if addr := conn.LocalAddr(); addr != nil {
		return addr.Network()
	}
	return ""
}

// onSocket calls f with the descriptor of the connection beneath all wrappers of conn. It
// returns errors.ErrUnsupported if that has none.
func onSocket(conn net.Conn, f func(fd uintptr) error) error {
	all, err := layers(conn)
	if err != nil {
		return err
	}
	conn = all[len(all)-1]
	socket, ok := conn.(syscall.Conn)
	if !ok {
		return errors.ErrUnsupported
	}
	var result error
	panicked := guard(conn, "SyscallConn", func() {
		raw, err := socket.SyscallConn()
		if err == nil {
			err = raw.Control(func(fd uintptr) { result = f(fd) })
		}
		switch {
		case isClosed(err):
			result = err
		case err != nil:
			result = errors.ErrUnsupported
		}
	})
	if panicked != nil {
		return panicked
	}
	return result
}

// A sendState is how far a connection's peer has got, as the kernel knows it.
type sendState struct {
	acknowledged   uint64 // bytes; meaningful as a difference only
	unacknowledged int    // bytes, a half-close included
	unread         int    // bytes in the queue of a Unix socket's peer: a level, and no count
	gone           bool   // the connection has ended
}

// getSendState returns how far the peer of conn has got. On a Unix socket all that was
// written is acknowledged, because it is in the peer's queue.
//
// It fails with errors.ErrUnsupported if conn does not lead to a TCP, MPTCP or Unix socket,
// or the platform does not tell.
func getSendState(conn net.Conn) (s sendState, err error) {
	err = onSocket(conn, func(fd uintptr) (err error) {
		s, err = sendStateOf(fd)
		return err
	})
	return s, err
}

// maxSeenWrite returns how many bytes one write to conn may have for a WriteTimeout to see
// that the peer takes something.
func maxSeenWrite(conn net.Conn) int {
	limit := maxUnseenWrite
	_ = onSocket(conn, func(fd uintptr) error {
		limit = maxSeenWriteOf(fd)
		return nil
	})
	return limit
}

// closeNow closes conn from the inside out, so that nothing an outer layer wants to
// say first, such as the close_notify of TLS, holds it up.
func closeNow(conn net.Conn) (err error) {
	all := wakeLayers(conn)
	for i := len(all) - 1; i >= 0; i-- {
		if failed := closeLayer(all[i]); err == nil && (i == len(all)-1 || !isClosed(failed)) {
			err = failed
		}
	}
	return err
}

// askTimeout is how long a wrapper may take to say what is beneath it.
const askTimeout = time.Second

// wakeLayers wakes calls that are stuck in the kernel, and returns the layers of conn. The
// methods of a wrapper may wait for its own Write, which is stuck: then nothing but conn itself
// can be closed.
func wakeLayers(conn net.Conn) []net.Conn {
	found := make(chan []net.Conn, 1)
	find := func() {
		_ = onSocket(conn, func(fd uintptr) error { return wakeBlocked(fd, true) })
		all, _ := layers(conn)
		found <- all
	}
	switch conn.(type) {
	case *net.TCPConn, *net.UnixConn:
		find()
		return <-found
	}
	go find()
	timeout := time.NewTimer(askTimeout)
	defer timeout.Stop()
	select {
	case all := <-found:
		return all
	case <-timeout.C:
		return []net.Conn{conn}
	}
}

// closeGently closes conn from the outside in, so that each layer can say what it wants to.
func closeGently(conn net.Conn) error {
	_ = onSocket(conn, func(fd uintptr) error { return wakeBlocked(fd, false) })
	return closeLayer(conn)
}

func closeLayer(conn net.Conn) (err error) {
	if failed := guard(conn, "Close", func() { err = conn.Close() }); failed != nil {
		return failed
	}
	return err
}

// isClosed tells whether err says that the connection had been closed before.
func isClosed(err error) bool {
	return errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe) || errors.Is(err, os.ErrClosed)
}

// halfClose tells the peer that no more will come, in every layer of conn that can.
func halfClose(conn net.Conn) error {
	all, err := layers(conn)
	for _, layer := range all {
		if c, ok := layer.(interface{ CloseWrite() error }); ok && err == nil {
			// Its own error is that the peer is gone, which is found out anyway.
			err = guard(layer, "CloseWrite", func() { _ = c.CloseWrite() })
		}
	}
	return err
}

// discardUnread takes away the input of conn that nobody has read, and lets no more
// in. It does not block, and leaves the deadlines alone.
func discardUnread(conn net.Conn) {
	all, _ := layers(conn)
	socket := all[len(all)-1]
	if c, ok := socket.(interface{ CloseRead() error }); ok {
		_ = guard(socket, "CloseRead", func() { _ = c.CloseRead() })
	}
	_ = onSocket(conn, discardUnreadOf)
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
