package sendq

import (
	"encoding/binary"
	"errors"
	"net"
	"syscall"
	"unsafe"
)

// unacknowledgedBytes returns how many bytes, the half-close included, were written
// to conn and not acknowledged by the peer's kernel. The error is errPeerGone when they
// never will be.
//
// SIOCOUTQ alone does not do: after a reset it stays where it was for ever.
func unacknowledgedBytes(conn net.Conn) (n int, err error) {
	sock, ok := conn.(syscall.Conn)
	if !ok {
		return 0, errors.ErrUnsupported
	}
	raw, err := sock.SyscallConn()
	if err != nil {
		return 0, err
	}
	controlErr := raw.Control(func(fd uintptr) {
		var info int
		info, err = syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_INFO)
		if err != nil {
			// A Unix socket: what was written is in the peer's queue already.
			n, err = 0, nil
			return
		}
		var outq int32
		_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, fd, syscall.TIOCOUTQ, uintptr(unsafe.Pointer(&outq)))
		if errno != 0 {
			err = errno
			return
		}
		n = int(outq)
		const tcpClose = 7
		if state := binary.NativeEndian.AppendUint32(nil, uint32(info))[0]; state == tcpClose && n > 0 {
			err = errPeerGone
		}
	})
	if controlErr != nil {
		err = controlErr
	}
	return n, err
}

// discardUnread takes away the input of conn that nobody has read, and lets no more
// in. It does not block, and leaves the deadlines alone.
func discardUnread(conn net.Conn) {
	if c, ok := conn.(interface{ CloseRead() error }); ok {
		_ = c.CloseRead()
	}
	sock, ok := conn.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := sock.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		var scrap [4096]byte
		for {
			n, err := syscall.Read(int(fd), scrap[:])
			if n <= 0 && err != syscall.EINTR {
				return
			}
		}
	})
}
