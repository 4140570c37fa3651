//go:build linux && !386 && !s390x

package sendq_test

import (
	"syscall"
	"unsafe"
)

func setOption(fd uintptr, level, option, value int) error {
	return syscall.SetsockoptInt(int(fd), level, option, value)
}

// outQueueOf returns the number of unacknowledged bytes.
func outQueueOf(fd uintptr) int {
	var n int32
	_, _, _ = syscall.Syscall(syscall.SYS_IOCTL, fd, syscall.TIOCOUTQ, uintptr(unsafe.Pointer(&n)))
	return int(n)
}
