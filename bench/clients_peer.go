//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// A peer is a raw connection to a server. It is blocking until it is added to a loop.
type peer struct {
	fd     int
	unread []byte // read ahead by expectLine
}

// peerTimeout bounds each wait for a server, in seconds.
const peerTimeout = 30

// portsPerAddr is the number of connections from one loopback address. It is far below the
// number of ports, because Linux searches for a free port linearly.
const portsPerAddr = 4000

// connect makes the i-th connection to a server. A slow one has a small receive buffer and
// Ethernet-sized segments. With the loopback interface's segments of 64 KB, the kernel would
// buffer megabytes for it on the server's side.
func connect(to netip.AddrPort, i int, slow bool) (*peer, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	p := &peer{fd: fd}
	if err := p.prepare(i, slow); err != nil {
		p.close()
		return nil, fmt.Errorf("prepare a socket: %w", err)
	}
	if err := p.connect(to); err != nil {
		p.close()
		return nil, fmt.Errorf("connect to %v: %w", to, err)
	}
	return p, nil
}

func (p *peer) prepare(i int, slow bool) error {
	wait := unix.Timeval{Sec: peerTimeout}
	from := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, byte(1 + i/portsPerAddr)}}
	err := errors.Join(
		unix.SetsockoptTimeval(p.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait),
		unix.SetsockoptTimeval(p.fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &wait),
		unix.SetsockoptInt(p.fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1),
		unix.SetsockoptInt(p.fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1),
		unix.Bind(p.fd, from),
	)
	if slow {
		err = errors.Join(err,
			unix.SetsockoptInt(p.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4<<10),
			unix.SetsockoptInt(p.fd, unix.IPPROTO_TCP, unix.TCP_MAXSEG, 1460))
	}
	return err
}

func (p *peer) connect(to netip.AddrPort) error {
	err := unix.Connect(p.fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())})
	if err != unix.EINTR {
		return err
	}
	// A signal of Go's preemption interrupted the call. The kernel continues to connect.
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLOUT}}, peerTimeout*1000)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return err
		case n == 0:
			return unix.ETIMEDOUT
		default:
			status, err := unix.GetsockoptInt(p.fd, unix.SOL_SOCKET, unix.SO_ERROR)
			if status != 0 {
				err = syscall.Errno(status)
			}
			return err
		}
	}
}

func (p *peer) close() { _ = unix.Close(p.fd) }

func (p *peer) send(s string) error { return p.write([]byte(s)) }

// write writes all of b at once. b fits, because the server has read everything before it.
func (p *peer) write(b []byte) error {
	n, err := unix.Write(p.fd, b)
	for err == unix.EINTR {
		n, err = unix.Write(p.fd, b)
	}
	if err != nil {
		return fmt.Errorf("send to the server: %w", err)
	}
	if n < len(b) {
		return fmt.Errorf("the server took only %d of %d bytes", n, len(b))
	}
	return nil
}

// Read implements io.Reader.
func (p *peer) Read(buf []byte) (int, error) {
	if len(p.unread) > 0 {
		n := copy(buf, p.unread)
		p.unread = p.unread[n:]
		return n, nil
	}
	for {
		n, err := unix.Read(p.fd, buf)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return 0, fmt.Errorf("receive from the server: %w", err)
		case n == 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

// expect reads len(want) bytes and returns an error unless they equal want.
func (p *peer) expect(want string) error {
	got := make([]byte, len(want))
	n, err := io.ReadFull(p, got)
	if err != nil || string(got) != want {
		return fmt.Errorf("expected %q, got %q: %w", want, got[:n], errors.Join(err, errUnexpected))
	}
	return nil
}

var errUnexpected = errors.New("unexpected answer from the server")

// expectLine reads lines up to and including want.
func (p *peer) expectLine(want string) error {
	var got []byte
	buf := make([]byte, 1<<10)
	for {
		line, rest, found := bytes.Cut(got, []byte("\n"))
		if found {
			if string(bytes.TrimSuffix(line, []byte("\r"))) == want {
				p.unread = append(rest, p.unread...)
				return nil
			}
			got = rest
			continue
		}
		n, err := p.Read(buf)
		if err != nil {
			return fmt.Errorf("expected the line %q, got %q: %w", want, got, err)
		}
		got = append(got, buf[:n]...)
	}
}
