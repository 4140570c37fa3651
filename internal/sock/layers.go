package sock

import (
	"errors"
	"fmt"
	"net"
	"reflect"
	"runtime/debug"
	"strings"
	"syscall"
)

// A PanicError reports a method of a connection that panicked or called runtime.Goexit.
type PanicError struct {
	Method string
	Value  any // the argument of panic, or ErrGoexit
	Stack  []byte
}

func (e *PanicError) Error() string { return fmt.Sprintf("conn.%s panicked: %v", e.Method, e.Value) }

// ErrGoexit is the Value of a PanicError if there was no panic.
var ErrGoexit = errors.New("runtime.Goexit was called")

// guard calls f. f must call the given method of a connection. If the method panics, guard
// returns a PanicError. The connection may be anybody's, so f runs in its own goroutine, and a
// runtime.Goexit ends only this one.
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
				outcome <- &PanicError{method, ErrGoexit, debug.Stack()}
			default:
				outcome <- nil
			}
		}()
		f()
		returned = true
	}()
	return <-outcome
}

// maxLayers is the most connections beneath one another that layers follows.
const maxLayers = 32

// layers returns conn and the connections it wraps, from the outside in, as far as they have a
// method NetConn like *tls.Conn.
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
	return all[:1], nil // one of them leads back to an earlier one
}

// isNil reports whether conn is nil or a nil pointer.
func isNil(conn net.Conn) bool {
	v := reflect.ValueOf(conn)
	return !v.IsValid() || v.Kind() == reflect.Pointer && v.IsNil()
}

// Networks of the connections that package sendq makes of a stream, or of a function that sends
// whole messages.
const (
	Stream   = "sendq-stream"
	Messages = "sendq-messages"
)

// IsDatagram reports whether each Write on a connection of the network is one message to the
// peer. Such messages must not be merged.
func IsDatagram(network string) bool {
	return network == "unixgram" || network == "unixpacket" || network == Messages ||
		strings.HasPrefix(network, "udp") || strings.HasPrefix(network, "ip")
}

// LosesNothing reports whether Close of a connection of the network discards no written bytes.
func LosesNothing(network string) bool {
	return network == "pipe" || network == Stream || IsDatagram(network)
}

// Network returns the network of conn's local address, or "" if it has no address.
func Network(conn net.Conn) string {
	if addr := conn.LocalAddr(); addr != nil {
		return addr.Network()
	}
	return ""
}

// onSocket calls f with the descriptor of the innermost connection of conn. If there is no
// descriptor, it returns errors.ErrUnsupported.
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
		case IsClosed(err):
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
