package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"sync"
)

// A lineScanner reads lines of at most maxLine bytes, many at once if they come so. While it
// waits it holds no buffer: a user who is idle costs little more than a goroutine.
type lineScanner struct {
	read func() (*buffer, int, error) // waits for input; the buffer is the caller's if err is nil
	in   *buffer                      // what was read last, or nil
	rest []byte                       // the part of it that is to be scanned
	part []byte                       // what came before it of a line without an end
	line []byte
	err  error
}

type buffer [64 << 10]byte

var buffers = sync.Pool{New: func() any { return new(buffer) }}

var errTooLong = fmt.Errorf("the line is longer than %d bytes", maxLine)

// newLineScanner returns a lineScanner for r. A last line without an end is left out: the
// client may have been cut off in the middle of it.
func newLineScanner(r io.Reader) *lineScanner {
	if conn, ok := r.(*net.TCPConn); ok {
		if read := readWhenReady(conn); read != nil {
			return &lineScanner{read: read}
		}
	}
	return &lineScanner{read: func() (*buffer, int, error) {
		in := buffers.Get().(*buffer)
		n, err := r.Read(in[:])
		if n == 0 {
			buffers.Put(in)
			return nil, 0, err
		}
		return in, n, nil // an error will come again
	}}
}

// Scan goes to the next line, and returns false at the end or at an error.
func (s *lineScanner) Scan() bool {
	for s.err == nil {
		line, rest, found := bytes.Cut(s.rest, []byte{'\n'})
		if s.part != nil || !found {
			s.part = append(s.part, line...)
			line = s.part
		}
		s.rest = rest
		switch {
		case len(bytes.TrimSuffix(line, []byte{'\r'})) > maxLine:
			s.err = errTooLong
		case found:
			s.line, s.part = bytes.TrimSuffix(line, []byte{'\r'}), nil
			return true
		default:
			s.fill()
		}
	}
	s.release()
	return false
}

func (s *lineScanner) release() {
	if s.in != nil {
		buffers.Put(s.in)
	}
	s.in, s.rest, s.line = nil, nil, nil // not one of them may keep the buffer
}

// fill waits for more, and lets go of what is scanned.
func (s *lineScanner) fill() {
	s.release()
	var n int
	if s.in, n, s.err = s.read(); s.err == nil {
		s.rest = s.in[:n]
	}
}

// Text returns the line, without its end.
func (s *lineScanner) Text() string { return string(s.line) }

// Err returns the error that ended the lines, if it was not io.EOF.
func (s *lineScanner) Err() error {
	if s.err == io.EOF {
		return nil
	}
	return s.err
}

// more tells whether another line has come already.
func (s *lineScanner) more() bool { return bytes.IndexByte(s.rest, '\n') >= 0 }
