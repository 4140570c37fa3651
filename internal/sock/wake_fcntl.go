//go:build darwin || dragonfly || freebsd || linux || netbsd

package sock

import "syscall"

// wakeBlocked makes a read that is stuck in the kernel return, and a write too if writes is
// true. That happens to a socket that somebody has made a blocking one, as File.Fd does, and
// Close would wait for it. Other sockets are left alone, because Close wakes their readers, with
// an error that says so.
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
