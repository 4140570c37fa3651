//go:build unix && !aix && (!linux || 386 || s390x)

package sock

import "syscall"

// sendNow writes as many bytes as the kernel accepts at once. It does not use syscall.Write,
// because somebody may have made the socket a blocking one, as File.Fd does.
func sendNow(fd uintptr, p []byte) (int, error) {
	return syscall.SendmsgN(int(fd), p, nil, nil, syscall.MSG_DONTWAIT)
}
