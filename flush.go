package sendq

import (
	"errors"
	"fmt"
	"io"
)

const (
	// maxWrite bounds one conn.Write in bytes. More gains nothing.
	maxWrite = 256 << 10

	// maxParts bounds how many segments are gathered for one conn.Write.
	maxParts = 64
)

// flush is the flusher: the goroutine that writes the queue to the connection. It
// leaves when the queue is empty, to be started again by the next message, or when
// the Writer ends, which is always its doing while it runs.
func (w *Writer) flush() {
	w.mu.Lock()
	for w.state < aborting && !w.queue.empty() {
		if err := w.writeSome(); err != nil && w.state < aborting {
			w.state, w.err = aborting, err
		}
	}
	if w.state == open {
		w.queue.release()
		w.flushing = false
		w.mu.Unlock()
		return
	}
	drained := w.state == closing
	w.mu.Unlock()

	if drained {
		w.finish()
	}
	w.end()
}

// writeSome makes one conn.Write from the front of the queue. mu is held, but not
// during the write. On an error nothing more may be written: part of a message may
// be on the connection, and what came next would be torn.
func (w *Writer) writeSome() error {
	if w.messageFramed {
		p := w.queue.peekMessage()
		w.mu.Unlock()
		n, err := w.write(p)
		w.mu.Lock()
		if n == len(p) {
			w.queue.advanceMessage()
			w.wrote(1, n)
		}
		return err
	}
	var array [maxParts][]byte
	parts := w.queue.peek(array[:], maxWrite)
	w.mu.Unlock()
	n, err := w.writeParts(parts)
	w.mu.Lock()
	w.wrote(w.queue.advance(n))
	return err
}

// writeParts writes the first of parts, and those that follow if they are small.
//
// They are copied together rather than handed to net.Buffers, which is one system
// call on connections of package net only, and one Write each on all others. There,
// too, one large write beats many vectors, and a wide writev makes Go keep up to
// 16 KiB for a connection ever after.
func (w *Writer) writeParts(parts [][]byte) (int, error) {
	size, small := 0, 0
	for small < len(parts) && len(parts[small]) <= maxCopied {
		size += len(parts[small])
		small++
	}
	switch {
	case small <= 1:
		return w.write(parts[0])
	case size == 0:
		return 0, nil
	}
	b := newBlock(size)
	defer b.recycle()
	buf := b.buf[:0]
	for _, part := range parts[:small] {
		buf = append(buf, part...)
	}
	return w.write(buf)
}

var errInvalidWrite = errors.New("sendq: the connection's Write returned an impossible count")

// write is conn.Write with the rules of io.Writer enforced.
func (w *Writer) write(p []byte) (int, error) {
	if len(p) == 0 && !w.messageFramed {
		return 0, nil // nothing to say; on net.Pipe it would wait for a reader
	}
	n, err := w.conn.Write(p)
	switch {
	case n < 0 || n > len(p):
		return 0, errInvalidWrite
	case n < len(p) && err == nil:
		return n, io.ErrShortWrite
	}
	return n, err
}

// wrote counts what a write completed and ends the calls of Flush that waited for
// it. mu is held.
func (w *Writer) wrote(messages, size int) {
	w.written += int64(messages)
	w.writtenBytes += int64(size)
	for len(w.flushes) > 0 && w.flushes[0].target <= w.written {
		close(w.flushes[0].reached)
		w.flushes = w.flushes[1:]
	}
	if len(w.flushes) == 0 {
		w.flushes = nil
	}
}

// finish brings to the peer what the connection has taken. The flusher calls it
// when the Writer is closing and the queue is empty.
func (w *Writer) finish() {
	unacknowledged, err := finish(w.conn, w.aborted)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err // else aborted meanwhile
	}
	if unacknowledged > 0 {
		w.err = fmt.Errorf("sendq: bytes not acknowledged by the peer: %d: %w", unacknowledged, w.err)
	}
}

// end closes the connection and tells everyone who waits that the Writer has ended.
// It is called once, by the flusher or in its stead.
func (w *Writer) end() error {
	w.mu.Lock()
	graceful := w.state == closing
	w.mu.Unlock()
	var err error
	if graceful {
		err = w.conn.Close()
	} else {
		err = closeNow(w.conn)
	}

	w.mu.Lock()
	w.state = ended
	if w.queue.empty() {
		w.queue.release()
	}
	flushes, hooks := w.flushes, w.onEnd
	w.flushes, w.onEnd = nil, nil
	w.mu.Unlock()
	for _, f := range flushes {
		close(f.reached)
	}
	for h := hooks; h != nil; h = h.next {
		h.ended()
	}

	// Last, so that whoever sees Done finds the hooks' work done.
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.done == nil {
		w.done = closedChan
	} else {
		close(w.done)
	}
	return err
}

var closedChan = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// An endHook is something to do when a Writer has ended. Hooks are a list inside the
// objects that want to know, so that supervising a Writer costs neither a goroutine
// nor a channel.
type endHook struct {
	next  *endHook
	ended func()
}

// addEndHook makes the Writer call h.ended, without any lock, when it has ended. It
// returns false, and never calls it, if the Writer has ended already.
func (w *Writer) addEndHook(h *endHook) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.state == ended {
		return false
	}
	h.next = w.onEnd
	w.onEnd = h
	return true
}

// removeEndHook takes h back, unless it is being called.
func (w *Writer) removeEndHook(h *endHook) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for p := &w.onEnd; *p != nil; p = &(*p).next {
		if *p == h {
			*p = h.next
			return
		}
	}
}
