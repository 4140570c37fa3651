package sendq

import (
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"syscall"
	"time"
)

const (
	// maxWrite bounds one conn.Write in bytes. More gains nothing.
	maxWrite = 256 << 10

	// maxUnseenWrite bounds it where there is a WriteTimeout and only the return
	// shows that the peer takes something.
	maxUnseenWrite = 4 << 10

	// maxParts and maxGather bound how many segments, and how many bytes of them, are
	// copied together for one conn.Write: a peer that stalls keeps the copy too.
	maxParts  = 64
	maxGather = 16 << 10
)

// flush is the flusher: the goroutine that writes the queue to the connection. It
// leaves when the queue is empty or a takeover holds it, to be started again by the next
// message or the takeover's end, or when the Writer ends, which is always its doing while
// it runs.
func (w *Writer) flush() {
	w.mu.Lock()
	for w.state < aborting && w.held == 0 && !w.queue.empty() {
		if err := w.writeSome(); err != nil {
			w.fail(err) // not carried out: no write is under way, and end follows
		}
	}
	if w.state == open || w.state == closing && w.held > 0 {
		if w.queue.empty() {
			w.queue.release()
			w.ages = ages{}
		}
		w.flushing = false
		if w.limits != nil {
			w.limits.stopWatch()
		}
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
	w.queue.shrink()
	var array [maxParts][]byte
	parts := array[:1]
	limit, target := maxWrite, w.flushTarget()
	if w.limits != nil {
		limit, target = w.limits.maxWrite, min(target, w.limits.maxMessages)
	}
	if w.messageFramed {
		parts[0] = w.queue.peekMessage()
	} else {
		parts = w.queue.peek(array[:], limit, target)
	}
	at := now()
	w.ages.note(w.pending(), at)
	if w.limits != nil {
		w.limits.watch.progressAt = at
	}
	w.mu.Unlock()
	n, err := w.writeParts(parts)
	w.mu.Lock()
	if n > 0 || err != nil || w.messageFramed {
		w.writes++
	}
	w.peakPending = max(w.peakPending, int64(w.queue.bytes))
	if w.messageFramed {
		w.wrote(w.queue.advanceMessage(err == nil || n == len(parts[0]) && n > 0))
	} else {
		w.wrote(w.queue.advance(n))
	}
	return err
}

// writeParts writes parts, together if there are several.
//
// They are copied together rather than handed to net.Buffers, which is one system
// call on connections of package net only, and one Write each on all others. There,
// too, one large write beats many vectors, and a wide writev makes Go keep up to
// 16 KiB for a connection ever after.
func (w *Writer) writeParts(parts [][]byte) (int, error) {
	if len(parts) == 1 {
		return w.write(parts[0])
	}
	size := 0
	for _, part := range parts {
		size += len(part)
	}
	b := newBlock(size)
	defer b.recycle()
	buf := b.buf[:0]
	for _, part := range parts {
		buf = append(buf, part...)
	}
	return w.write(buf)
}

// write is conn.Write with the rules of io.Writer enforced, and errors that can be
// told apart in the same way on all connections.
func (w *Writer) write(p []byte) (n int, err error) {
	if len(p) == 0 && !w.messageFramed {
		return 0, nil // nothing to say; on net.Pipe it would wait for a reader
	}
	// A panic here would end the process, and nobody could recover it, for
	// the goroutine is ours. Ending the Writer is enough.
	returned := false
	defer func() {
		if r := recover(); r != nil {
			n, err = 0, &PanicError{r, debug.Stack()}
		} else if !returned { // runtime.Goexit, as t.FailNow calls it: this goroutine ends
			w.mu.Lock()
			w.fail(errors.New("sendq: conn.Write called runtime.Goexit"))
			w.mu.Unlock()
			go w.end()
		}
	}()
	n, err = w.conn.Write(p)
	for len(p) == 0 && errors.Is(err, syscall.EAGAIN) {
		time.Sleep(time.Millisecond) // package net does not wait when an empty datagram finds no room
		n, err = w.conn.Write(p)
	}
	returned = true
	switch {
	case n < 0 || n > len(p):
		return 0, fmt.Errorf("sendq: the connection's Write returned an impossible count: %d of %d bytes", n, len(p))
	case n < len(p) && err == nil:
		return n, io.ErrShortWrite
	case isClosed(err):
		return n, &closedError{err}
	}
	return n, err
}

// wrote counts what a write completed, and serves those who wait for it. mu is held.
func (w *Writer) wrote(messages, size int) {
	w.written += int64(messages)
	w.writtenBytes += int64(size)
	w.ages.written(int64(messages))
	w.tellWaiters()
	if w.limits != nil {
		w.limits.Budget.release(w, size+messageOverhead*messages)
		w.admitBlocked()
	}
}
