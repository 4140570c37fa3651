//go:build linux && !386 && !s390x

// The two that are left out have no system calls of their own for sockets.

package sendq

import (
	"encoding/binary"
	"errors"
	"net"
	"syscall"
	"unsafe"
)

// onSocket calls f with the descriptor of conn, or returns errors.ErrUnsupported if it
// has none.
func onSocket(conn net.Conn, f func(fd uintptr) error) error {
	sock, ok := conn.(syscall.Conn)
	if !ok {
		return errors.ErrUnsupported
	}
	raw, err := sock.SyscallConn()
	if err != nil {
		return err
	}
	if controlErr := raw.Control(func(fd uintptr) { err = f(fd) }); controlErr != nil {
		return controlErr
	}
	return err
}

// getSendState returns how far the peer of conn has got. Of a Unix socket it is always
// all the way: what was written is in the peer's queue already.
//
// SIOCOUTQ alone does not do: after a reset it stays where it was for ever.
func getSendState(conn net.Conn) (s sendState, err error) {
	err = onSocket(conn, func(fd uintptr) error {
		info, isTCP := tcpInfo(fd)
		if !isTCP {
			return nil
		}
		const tcpClose = 7
		s.gone = info[0] == tcpClose
		s.acknowledged = binary.NativeEndian.Uint64(info[120:])
		var queued int32
		_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, fd, syscall.TIOCOUTQ, uintptr(unsafe.Pointer(&queued)))
		if errno != 0 {
			return errno
		}
		s.unacknowledged = int(queued)
		return nil
	})
	return s, err
}

// peerProgress returns a number that changes when the peer takes something. It is not
// known if conn is no TCP connection, or closed.
func peerProgress(conn net.Conn) (taken uint64, known bool) {
	err := onSocket(innermost(conn), func(fd uintptr) error {
		info, isTCP := tcpInfo(fd)
		taken, known = binary.NativeEndian.Uint64(info[120:]), isTCP
		return nil
	})
	return taken, known && err == nil
}

// tcpInfo returns the beginning of the kernel's struct tcp_info: the state in the first
// byte, and tcpi_bytes_acked in those from 120 on.
func tcpInfo(fd uintptr) (info [128]byte, isTCP bool) {
	size := uint32(len(info))
	_, _, errno := syscall.Syscall6(syscall.SYS_GETSOCKOPT, fd, syscall.IPPROTO_TCP, syscall.TCP_INFO,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	return info, errno == 0
}

// discardUnread takes away the input of conn that nobody has read, and lets no more
// in. It does not block, and leaves the deadlines alone.
func discardUnread(conn net.Conn) {
	if c, ok := conn.(interface{ CloseRead() error }); ok {
		_ = c.CloseRead()
	}
	_ = onSocket(conn, func(fd uintptr) error {
		var scrap [4096]byte
		for {
			n, err := syscall.Read(int(fd), scrap[:])
			if n <= 0 && err != syscall.EINTR {
				return err
			}
		}
	})
}
