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

// NewSender returns a Sender for conn, a stream. If conn is not itself a socket, the Sender
// cannot send, because a wrapper may change or count the bytes written.
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

// Send is like conn.Write, but does not wait: it returns the number of bytes that the kernel
// accepted. conn must be the connection of NewSender.
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

// asWriteError makes an error of a RawConn look like one of conn.Write.
func asWriteError(err error) error {
	if raw, ok := errors.AsType[*net.OpError](err); ok {
		op := *raw
		op.Op = "write"
		return &op
	}
	return err
}

// An attempt is one write that does not wait. Attempts are pooled, because otherwise the
// function write would be allocated each time.
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
		return true // do not try again
	}
	return a
}}
