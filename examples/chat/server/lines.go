package server

import (
	"bytes"
	"fmt"
	"io"
	"sync"
)

// A lineScanner reads lines of at most maxLine bytes, many at once if they come so. While it
// waits it holds no buffer, or, where that cannot be had, as with TLS, a small one.
type lineScanner struct {
	wait func() error // until there is something to read, or nil
	from io.Reader    // is read only after wait
	in   *[]byte      // what was read last, or nil
	rest []byte       // the part of it that is to be scanned
	part []byte       // what came before it of a line without an end
	line []byte
	err  error
}

var buffers, smallBuffers = poolOf(64 << 10), poolOf(4 << 10)

func poolOf(size int) *sync.Pool {
	return &sync.Pool{New: func() any { return new(make([]byte, size)) }}
}

var errTooLong = fmt.Errorf("the line is longer than %d bytes", maxLine)

// newLineScanner returns a lineScanner for r. A last line without an end is left out: the
// client may have been cut off in the middle of it.
func newLineScanner(r io.Reader) lineScanner {
	return lineScanner{wait: waitFor(r), from: r}
}

// Wait waits until there is something to scan, or the end or an error, which Scan then finds.
// The line that was scanned last is not valid any more. Wait is where a connection spends its
// time, and needs little stack.
func (s *lineScanner) Wait() {
	if len(s.rest) > 0 || s.err != nil {
		return
	}
	s.release()
	if s.wait != nil {
		s.err = s.wait()
	}
}

// Scan goes to the next line that Wait has brought. It returns false when there is none, and
// at the end or an error.
func (s *lineScanner) Scan() bool {
	for filled := false; ; filled = true {
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
		case !filled && s.err == nil && s.in == nil:
			s.fill()
			continue
		}
		s.release()
		return false
	}
}

// fill reads what Wait has seen.
func (s *lineScanner) fill() {
	s.in = s.pool().Get().(*[]byte)
	var n int
	n, s.err = s.from.Read(*s.in)
	s.rest = (*s.in)[:n]
}

func (s *lineScanner) release() {
	if s.in != nil {
		s.pool().Put(s.in)
	}
	s.in, s.rest, s.line = nil, nil, nil // not one of them may keep the buffer
}

func (s *lineScanner) pool() *sync.Pool {
	if s.wait == nil {
		return smallBuffers
	}
	return buffers
}

// Text returns the line, without its end.
func (s *lineScanner) Text() string { return string(s.line) }

// Err returns the error that ended the lines, io.EOF if it was their end, or nil if there may be
// more.
func (s *lineScanner) Err() error { return s.err }
