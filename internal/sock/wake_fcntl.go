//go:build darwin || dragonfly || freebsd || linux || netbsd

package sock

import "syscall"

// wakeBlocked makes a read return if it is stuck in the kernel, and also a write if writes is
// true. Calls get stuck on a blocking socket, such as File.Fd makes, and Close would wait for
// them. Other sockets stay as they are, because Close itself wakes their readers, with
// net.ErrClosed.
func wakeBlocked(fd uintptr, writes bool) error {
	flags, _, errno := syscall.Syscall(syscall.SYS_FCNTL, fd, syscall.F_GETFL, 0)
	switch {
	case errno != 0 || flags&syscall.O_NONBLOCK != 0:
		return nil
	case writes:
		return syscall.Shutdown(int(fd), syscall.SHUT_RDWR)
	}
	return syscall.Shutdown(int(fd), syscall.SHUT_RD)
}
