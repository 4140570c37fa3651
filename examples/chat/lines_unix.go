//go:build unix

package main

import (
	"io"
	"net"
	"syscall"
)

// readWhenReady returns a function that reads from conn, and takes a buffer only when there is
// something to read. Read of conn itself would hold one while it waits.
func readWhenReady(conn *net.TCPConn) func() (*buffer, int, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil
	}
	return func() (in *buffer, n int, err error) {
		waitErr := raw.Read(func(fd uintptr) bool {
			in = buffers.Get().(*buffer)
			for n, err = syscall.Read(int(fd), in[:]); err == syscall.EINTR; {
				n, err = syscall.Read(int(fd), in[:])
			}
			if err == nil && n > 0 {
				return true
			}
			buffers.Put(in)
			in = nil
			return err != syscall.EAGAIN // then Read waits, and tries again
		})
		switch {
		case waitErr != nil:
			return nil, 0, waitErr
		case in == nil && err == nil:
			return nil, 0, io.EOF
		}
		return in, n, err
	}
}
