//go:build linux && !386 && !s390x

package sock

import (
	"syscall"
	"unsafe"
)

// sendNow writes as many bytes as the kernel accepts at once. It does not use syscall.Write,
// because somebody may have made the socket a blocking one, as File.Fd does. It does not use
// syscall.SendmsgN, because SendmsgN allocates.
func sendNow(fd uintptr, p []byte) (int, error) {
	n, _, errno := syscall.Syscall6(syscall.SYS_SENDTO, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)),
		syscall.MSG_DONTWAIT|syscall.MSG_NOSIGNAL, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
