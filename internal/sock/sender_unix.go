//go:build unix && !aix

package sock

import (
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
)

// A Sender writes to a socket without waiting.
type Sender struct{ raw syscall.RawConn }

// NewSender returns a Sender for conn, a stream. It sends nothing if conn is not a socket
// itself, because what wraps one may change what is written, or must see it.
func NewSender(conn net.Conn) Sender {
	var raw syscall.RawConn
	var err error
	switch conn := conn.(type) {
	case *net.TCPConn:
		raw, err = conn.SyscallConn()
	case *net.UnixConn:
		raw, err = conn.SyscallConn()
	}
	if err != nil {
		return Sender{}
	}
	return Sender{raw}
}

// CanSend reports whether the Sender can send.
func (s Sender) CanSend() bool { return s.raw != nil }

// Send is Write of conn, for which the Sender was made, but returns what the kernel has taken
// when it would have to wait.
func (s Sender) Send(conn net.Conn, p []byte) (int, error) {
	a := attempts.Get().(*attempt)
	a.p = p
	err := s.raw.Write(a.write)
	n, errno := a.n, a.errno
	a.p = nil
	attempts.Put(a)
	switch {
	case err != nil:
		return 0, asWriteError(err)
	case errno == nil:
		return n, nil
	case errno == syscall.EAGAIN || errno == syscall.EINTR:
		return 0, nil
	}
	return 0, &net.OpError{Op: "write", Net: conn.LocalAddr().Network(), Source: conn.LocalAddr(),
		Addr: conn.RemoteAddr(), Err: os.NewSyscallError("write", errno)}
}

// asWriteError makes an error of a RawConn what conn.Write has.
func asWriteError(err error) error {
	if raw, ok := errors.AsType[*net.OpError](err); ok {
		op := *raw
		op.Op = "write"
		return &op
	}
	return err
}

// An attempt is a write that does not wait. They are pooled for the sake of the function,
// which would be allocated for each.
type attempt struct {
	p     []byte
	n     int
	errno error
	write func(fd uintptr) bool
}

var attempts = sync.Pool{New: func() any {
	a := new(attempt)
	a.write = func(fd uintptr) bool {
		a.n, a.errno = sendNow(fd, a.p)
		return true // not to be tried again
	}
	return a
}}
