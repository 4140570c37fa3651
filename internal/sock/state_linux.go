//go:build linux && !386 && !s390x

// 386 and s390x are not included, because they have no separate system calls for sockets.

package sock

import (
	"encoding/binary"
	"errors"
	"syscall"
	"unsafe"
)

// Socket options of the kernel that package syscall lacks.
const (
	soProtocol   = 38  // at SOL_SOCKET
	soDomain     = 39  // at SOL_SOCKET
	ipprotoMPTCP = 262 // a value of soProtocol
	solMPTCP     = 284
	mptcpInfo    = 1 // at solMPTCP
)

// stateOf is StateOf for a socket.
//
// SIOCOUTQ alone is not enough, because after a reset it never changes.
func stateOf(fd uintptr) (State, error) {
	protocol := protocolOf(fd)
	if protocol != syscall.IPPROTO_TCP && protocol != ipprotoMPTCP {
		if !isUnix(fd) {
			return State{}, errors.ErrUnsupported
		}
		unread, _ := outQueue(fd) // cannot fail
		return State{Unread: unread}, nil
	}
	for {
		before, err := acknowledgedBy(fd, protocol)
		unacknowledged, failed := outQueue(fd)
		if err != nil || failed != nil {
			return State{}, errors.ErrUnsupported // the kernel is too old
		}
		if after, _ := acknowledgedBy(fd, protocol); after == before {
			return State{Acknowledged: after, Unacknowledged: unacknowledged, Gone: isGone(fd)}, nil
		}
	}
}

func protocolOf(fd uintptr) int {
	protocol, _ := syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, soProtocol)
	return protocol
}

func isUnix(fd uintptr) bool {
	domain, _ := syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, soDomain)
	return domain == syscall.AF_UNIX
}

// acknowledgedBy returns the number of bytes that the peer of a TCP or MPTCP socket has
// acknowledged.
//
// TCP_INFO of an MPTCP socket describes the first of its paths, and that may be gone. So
// acknowledgedBy asks for the count of the whole connection first. If that fails, MPTCP has
// fallen back to TCP or was never in use, and the first path is the only one.
func acknowledgedBy(fd uintptr, protocol int) (uint64, error) {
	if protocol == ipprotoMPTCP {
		var info [32]byte // of struct mptcp_info, including mptcpi_snd_una
		if getOption(fd, solMPTCP, mptcpInfo, info[:]) == nil {
			return binary.NativeEndian.Uint64(info[24:]), nil
		}
	}
	var info [128]byte // of struct tcp_info, including tcpi_bytes_acked
	if err := getOption(fd, syscall.IPPROTO_TCP, syscall.TCP_INFO, info[:]); err != nil {
		return 0, err
	}
	return binary.NativeEndian.Uint64(info[120:]), nil
}

// getOption fills p, and fails if the kernel is too old to do so.
func getOption(fd uintptr, level, option int, p []byte) error {
	size := uint32(len(p))
	_, _, errno := syscall.Syscall6(syscall.SYS_GETSOCKOPT, fd, uintptr(level), uintptr(option),
		uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(unsafe.Pointer(&size)), 0)
	switch {
	case errno != 0:
		return errno
	case int(size) < len(p):
		return errors.ErrUnsupported
	}
	return nil
}

// isGone reports whether a connection has ended, after it was established: both sides have
// closed it, the peer has reset it, or the kernel has given it up.
func isGone(fd uintptr) bool {
	_, err := syscall.Getpeername(int(fd))
	return err == syscall.ENOTCONN
}

// lastErrorOf returns why a connection has ended, unless somebody has received the reason
// already.
func lastErrorOf(fd uintptr) error {
	errno, err := syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_ERROR)
	if err != nil || errno == 0 {
		return nil
	}
	return syscall.Errno(errno)
}

// progressWriteOf is ProgressWrite for a socket. For a Unix socket the kernel reports only the
// level of the peer's queue. The level may be the same after the peer has emptied the queue and
// it was filled again. But then several writes of a quarter of it have returned.
func progressWriteOf(fd uintptr, most, fallback int) int {
	if _, err := stateOf(fd); err != nil {
		return fallback
	}
	if isUnix(fd) {
		if size, err := syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_SNDBUF); err == nil {
			return min(size/4, most)
		}
	}
	return most
}

// outQueue returns the number of bytes written to fd and not acknowledged over TCP, or not read
// from a Unix socket.
func outQueue(fd uintptr) (int, error) {
	var n int32
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, fd, syscall.TIOCOUTQ, uintptr(unsafe.Pointer(&n)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

func discardUnreadOf(fd uintptr) error {
	var scrap [4096]byte
	for {
		n, _, err := syscall.Recvfrom(int(fd), scrap[:], syscall.MSG_DONTWAIT)
		if n <= 0 && err != syscall.EINTR {
			return err
		}
	}
}
