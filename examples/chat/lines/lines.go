// Package lines reads lines of text from untrusted clients. An idle connection costs one goroutine
// with the smallest stack, and no buffer.
package lines

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"unicode"
)

// ErrEnd is the cause at the end of the input. It wraps io.EOF or the error of Read.
var ErrEnd = errors.New("the connection has ended")

// A Handler does something with lines. Its methods are called one at a time.
type Handler interface {
	Begin() error         // is called before anything is read
	Do(line string) error // is called for each line
	Flush()               // is called before Serve waits for more lines, and at the end
	End(cause error)      // is called when another method has failed, or at the end of the input
}

// Serve calls h for the lines of r. A line of more than max bytes is an error. Harmful characters are
// replaced by U+FFFD: control characters, invalid UTF-8, and changes of the direction of writing. A
// last line without an end is left out, because the client may have been cut off in the middle of it.
func Serve(r io.Reader, max int, h Handler) {
	in := &input{r: r, max: max, h: h}
	aside(in.begin)
	for in.err == nil {
		in.await()
		aside(in.read)
	}
	aside(in.end)
}

// aside calls f in another goroutine and waits for it. A stack hardly ever shrinks. The caller waits
// for input, maybe for hours, so its stack must not grow.
func aside(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	<-done
}

// An input is where lines come from.
type input struct {
	r    io.Reader
	wait func() error // waits for input without a buffer; nil if r cannot
	max  int
	h    Handler
	part []byte // the beginning of a line, from earlier reads
	err  error  // the cause of the end
}

func (in *input) begin() {
	in.err = in.h.Begin()
	in.wait = waitFor(in.r)
}

func (in *input) await() {
	if in.wait != nil {
		in.err = in.wait()
	}
}

// read reads once, and does each line that is complete.
func (in *input) read() {
	defer in.h.Flush()
	if in.err != nil {
		in.err = fmt.Errorf("%w: %w", ErrEnd, in.err)
		return
	}
	pool := buffers
	if in.wait == nil {
		pool = smallBuffers // it is held while Read waits
	}
	buf := pool.Get().(*[]byte)
	defer pool.Put(buf)
	n, err := in.r.Read(*buf)
	for rest := (*buf)[:n]; len(rest) > 0 && in.err == nil; {
		line, after, complete := bytes.Cut(rest, []byte{'\n'})
		in.err = in.add(line, complete)
		rest = after
	}
	if in.err == nil && err != nil {
		in.err = fmt.Errorf("%w: %w", ErrEnd, err)
	}
}

func (in *input) end() { in.h.End(in.err) }

var buffers, smallBuffers = poolOf(64 << 10), poolOf(4 << 10)

func poolOf(size int) *sync.Pool {
	return &sync.Pool{New: func() any { return new(make([]byte, size)) }}
}

// add adds to the current line, and does it if it is complete.
func (in *input) add(line []byte, complete bool) error {
	if in.part != nil || !complete {
		in.part = append(in.part, line...)
		line = in.part
	}
	line = bytes.TrimSuffix(line, []byte{'\r'})
	switch {
	case len(line) > in.max:
		return fmt.Errorf("the line is longer than %d bytes", in.max)
	case complete:
		in.part = nil
		return in.h.Do(clean(string(line)))
	}
	return nil
}

// clean replaces each harmful character by U+FFFD, and a tab by a space.
func clean(line string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= ' ' && r <= '~': // most are
			return r
		case r == '\t':
			return ' '
		case unicode.In(r, unicode.Cc, unicode.Zl, unicode.Zp, unicode.Bidi_Control):
			return unicode.ReplacementChar
		}
		return r
	}, line) // Map sees U+FFFD for each byte that is not UTF-8
}
