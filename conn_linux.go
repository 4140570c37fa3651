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
		for {
			before, isTCP := getTCPInfo(fd)
			if !isTCP {
				return nil
			}
			queued, err := outQueue(fd)
			after, _ := getTCPInfo(fd)
			if err != nil {
				return err
			}
			if after.acknowledged == before.acknowledged {
				s = sendState{after.acknowledged, queued, after.state == tcpClose}
				return nil
			}
		}
	})
	return s, err
}

// peerProgress returns a number that changes when the peer takes something: what its
// kernel has acknowledged over TCP, or what it has not read from a Unix socket. It is
// not known if conn leads to neither, or is closed.
func peerProgress(conn net.Conn) (n uint64, known bool) {
	err := onSocket(innermost(conn), func(fd uintptr) error {
		info, isTCP := getTCPInfo(fd)
		if isTCP {
			n = info.acknowledged
			return nil
		}
		queued, err := outQueue(fd)
		n = uint64(queued)
		return err
	})
	return n, err == nil
}

// tcpInfo is what is of use here of the kernel's struct tcp_info.
type tcpInfo struct {
	state        uint8
	acknowledged uint64 // tcpi_bytes_acked
}

const tcpClose = 7 // a tcpInfo.state

// getTCPInfo returns false if fd is no TCP socket, or the kernel too old, before 4.2, to
// tell.
func getTCPInfo(fd uintptr) (info tcpInfo, ok bool) {
	var raw [128]byte
	size := uint32(len(raw))
	_, _, errno := syscall.Syscall6(syscall.SYS_GETSOCKOPT, fd, syscall.IPPROTO_TCP, syscall.TCP_INFO,
		uintptr(unsafe.Pointer(&raw)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 || int(size) < len(raw) {
		return tcpInfo{}, false
	}
	return tcpInfo{state: raw[0], acknowledged: binary.NativeEndian.Uint64(raw[120:])}, true
}

// sendNow writes what the kernel takes at once. It is not syscall.Write, for somebody may have
// made the socket a blocking one, as File.Fd does; and syscall.SendmsgN allocates.
func sendNow(fd uintptr, p []byte) (int, error) {
	n, _, errno := syscall.Syscall6(syscall.SYS_SENDTO, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)),
		syscall.MSG_DONTWAIT|syscall.MSG_NOSIGNAL, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// outQueue returns how much of what was written to fd is not acknowledged over TCP, or
// not read from a Unix socket.
func outQueue(fd uintptr) (int, error) {
	var n int32
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, fd, syscall.TIOCOUTQ, uintptr(unsafe.Pointer(&n)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
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
