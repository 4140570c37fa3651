//go:build unix

package server

import (
	"cmp"
	"io"
	"os"
	"syscall"
)

// waitFor returns a function that waits until r has something to read, its end included, and
// takes no buffer meanwhile, as Read of r would. It returns nil if that cannot be had: r must
// be a socket, or have the SyscallConn of the one from which it reads, and keep nothing itself.
func waitFor(r io.Reader) func() error {
	conn, ok := r.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil
	}
	return func() error {
		var failed error
		err := raw.Read(func(fd uintptr) bool {
			var p [1]byte
			_, _, err := syscall.Recvfrom(int(fd), p[:], syscall.MSG_PEEK)
			switch err {
			case syscall.EAGAIN:
				return false
			case nil, syscall.EINTR: // Read asks again
			default: // a reset, of which Read would not hear any more
				failed = os.NewSyscallError("read", err)
			}
			return true
		})
		return cmp.Or(err, failed)
	}
}
