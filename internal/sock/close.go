package sock

import (
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"time"
)

// CloseNow closes conn from the inside out. So it does not wait for the farewell of an outer
// layer, such as the close_notify of TLS. It returns the first error, but ignores an outer
// layer that was closed already.
func CloseNow(conn net.Conn) (err error) {
	all := wakeLayers(conn)
	for i, layer := range slices.Backward(all) {
		if failed := closeLayer(layer); err == nil && (i == len(all)-1 || !IsClosed(failed)) {
			err = failed
		}
	}
	return err
}

// unwrapTimeout is how long a wrapper may take to return its inner connection.
const unwrapTimeout = time.Second

// wakeLayers wakes calls stuck in the kernel, and returns the layers of conn. The methods of a
// wrapper may wait for its own stuck Write. Then only conn itself can be closed.
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
	timeout := time.NewTimer(unwrapTimeout)
	defer timeout.Stop()
	select {
	case all := <-found:
		return all
	case <-timeout.C:
		return []net.Conn{conn}
	}
}

// CloseGently closes conn from the outside in, so each layer can send its farewell.
func CloseGently(conn net.Conn) error {
	_ = onSocket(conn, func(fd uintptr) error { return wakeBlocked(fd, false) })
	return closeLayer(conn)
}

func closeLayer(conn net.Conn) (err error) {
	if failed := guard(conn, "Close", func() { err = conn.Close() }); failed != nil {
		return failed
	}
	return err
}

// IsClosed reports whether err means "closed before".
func IsClosed(err error) bool {
	return errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe) || errors.Is(err, os.ErrClosed)
}

// HalfClose announces the end of the data to the peer, in every layer of conn with a method
// CloseWrite. It fails only if a method panics.
func HalfClose(conn net.Conn) error {
	all, err := layers(conn)
	for _, layer := range all {
		if c, ok := layer.(interface{ CloseWrite() error }); ok && err == nil {
			// CloseWrite fails if the peer is gone, and the caller notices that anyway.
			err = guard(layer, "CloseWrite", func() { _ = c.CloseWrite() })
		}
	}
	return err
}

// DiscardUnread discards the unread input of conn, and lets no more in. It does not block, and
// does not change the deadlines.
func DiscardUnread(conn net.Conn) {
	all, _ := layers(conn)
	socket := all[len(all)-1]
	if c, ok := socket.(interface{ CloseRead() error }); ok {
		_ = guard(socket, "CloseRead", func() { _ = c.CloseRead() })
	}
	_ = onSocket(conn, discardUnreadOf)
}
