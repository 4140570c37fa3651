package main

import (
	"net"
	"sync"
	"syscall"
)

// A terminal is the connection of a user with lines over TCP or TLS. Like all connections here it takes
// frames, and it writes the lines in them.
type terminal struct {
	net.Conn
	frames frames
	stall
}

// NetConn lets sendq see the socket.
func (t *terminal) NetConn() net.Conn { return t.Conn }

// SyscallConn lets the chat wait for input without a buffer: Read keeps no input.
func (t *terminal) SyscallConn() (syscall.RawConn, error) { return socketOf(t.Conn) }

var lineBuffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// Write writes the lines in p, which may begin and end within frames.
func (t *terminal) Write(p []byte) (n int, err error) {
	t.wait()
	buf := lineBuffers.Get().(*[32 << 10]byte)
	defer lineBuffers.Put(buf)
	for n < len(p) {
		before := t.frames
		lines, taken, err := t.frames.strip(buf[:0], p[n:], len(buf))
		if err != nil {
			return n, err
		}
		if len(lines) > 0 { // otherwise p ends within a header
			if written, err := t.Conn.Write(lines); err != nil {
				_, taken, _ = before.strip(buf[:0], p[n:], written)
				return n + taken, err
			}
		}
		n += taken
	}
	return n, nil
}

// Close also ends a stall.
func (t *terminal) Close() error {
	t.stall.end()
	return t.Conn.Close()
}

// strip appends the payload of frames to lines, up to size bytes. The frames continue with p. It
// returns the number of bytes that it took from p.
func (f *frames) strip(lines, p []byte, size int) (_ []byte, taken int, err error) {
	rest := p
	for len(rest) > 0 && len(lines) < size && err == nil {
		if f.left == 0 {
			rest, _, err = f.header(rest)
			continue
		}
		payload, _ := f.payload(rest[:min(len(rest), size-len(lines))])
		lines = append(lines, payload...)
		rest = rest[len(payload):]
	}
	return lines, len(p) - len(rest), err
}

// terminals accepts terminals.
type terminals struct{ net.Listener }

func (t terminals) Accept() (net.Conn, error) {
	conn, err := t.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &terminal{Conn: conn}, nil
}

// socketOf returns the socket of conn, which must be a socket itself.
func socketOf(conn net.Conn) (syscall.RawConn, error) {
	socket, ok := conn.(syscall.Conn)
	if !ok {
		return nil, syscall.EINVAL
	}
	return socket.SyscallConn()
}
