//go:build unix

package lines

import (
	"cmp"
	"io"
	"os"
	"syscall"
)

// waitFor returns a function that waits without a buffer until r has input, or its end. It returns nil
// if r is neither a socket nor a wrapper with the SyscallConn of its socket. A wrapper must not keep
// input.
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
			default: // a reset; a later Read would not report it
				failed = os.NewSyscallError("read", err)
			}
			return true
		})
		return cmp.Or(err, failed)
	}
}
