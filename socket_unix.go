//go:build unix && !aix

package sendq

import (
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
)

// rawSocket returns what tryWrite needs to write to conn, a stream, or nil if conn is not a
// socket itself: what wraps one may change what is written, or must see it.
func rawSocket(conn net.Conn) syscall.RawConn {
	var socket syscall.RawConn
	var err error
	switch conn := conn.(type) {
	case *net.TCPConn:
		socket, err = conn.SyscallConn()
	case *net.UnixConn:
		socket, err = conn.SyscallConn()
	}
	if err != nil {
		return nil
	}
	return socket
}

// tryWrite is write, but returns what the kernel has taken when it would have to wait.
func (w *Writer) tryWrite(p []byte) (int, error) {
	a := attempts.Get().(*attempt)
	a.p = p
	err := w.socket.Write(a.write)
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
	return 0, &net.OpError{Op: "write", Net: w.conn.LocalAddr().Network(), Source: w.conn.LocalAddr(),
		Addr: w.conn.RemoteAddr(), Err: os.NewSyscallError("write", errno)}
}

// asWriteError makes an error of a RawConn what conn.Write has.
func asWriteError(err error) error {
	var raw *net.OpError
	if errors.As(err, &raw) {
		op := *raw
		op.Op = "write"
		err = &op
	}
	if isClosed(err) {
		return &closedError{err}
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
