package netlab

import (
	"fmt"
	"os"
	"syscall"
	"unsafe"
)

// enterNewNamespace moves the thread to a new network namespace.
func enterNewNamespace() error {
	return os.NewSyscallError("unshare", syscall.Unshare(syscall.CLONE_NEWNET))
}

// openTUN creates a network device in the thread's namespace. Read returns a packet sent
// through the device, and Write makes the device receive one.
func openTUN(name string) (*os.File, error) {
	const path = "/dev/net/tun"
	fd, err := syscall.Open(path, syscall.O_RDWR|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	var request struct {
		name  [syscall.IFNAMSIZ]byte
		flags uint16
		_     [64]byte // at least the rest of struct ifreq
	}
	copy(request.name[:], name)
	request.flags = syscall.IFF_TUN | syscall.IFF_NO_PI
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), syscall.TUNSETIFF, uintptr(unsafe.Pointer(&request)))
	if errno != 0 {
		syscall.Close(fd)
		return nil, fmt.Errorf("TUNSETIFF: %w", errno)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// mptcpSubflows returns the number of subflows reported by the kernel.
func mptcpSubflows(fd uintptr) (int, error) {
	const solMPTCP, mptcpInfo = 284, 1
	// The first byte of struct mptcp_info counts the subflows without the first one.
	info, err := syscall.GetsockoptInet4Addr(int(fd), solMPTCP, mptcpInfo)
	if err != nil {
		return 0, fmt.Errorf("MPTCP_INFO: %w", err)
	}
	return int(info[0]) + 1, nil
}
