//go:build unix && !aix && (!linux || 386 || s390x)

package sock

import "syscall"

// sendNow writes what the kernel takes at once. It is not syscall.Write, for somebody may have
// made the socket a blocking one, as File.Fd does.
func sendNow(fd uintptr, p []byte) (int, error) {
	return syscall.SendmsgN(int(fd), p, nil, nil, syscall.MSG_DONTWAIT)
}
