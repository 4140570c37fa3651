package sendq

import (
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"time"

	"github.com/sendq-go/sendq/internal/queue"
	"github.com/sendq-go/sendq/internal/sock"
)

const (
	// maxWrite bounds one conn.Write in bytes. More gains nothing.
	maxWrite = 256 << 10

	// maxUnseenWrite bounds it where there is a WriteTimeout and only the return
	// shows that the peer takes something.
	maxUnseenWrite = 4 << 10
)

// flush is the flusher: the goroutine that writes the queue to the connection. It
// leaves when the queue is empty or a takeover holds it, to be started again by the next
// message or the takeover's end, or when the Writer ends, which is always its doing while
// it runs.
func (w *Writer) flush() {
	w.mu.Lock()
	for w.mayWrite() {
		if err := w.writeSome((*Writer).write); err != nil {
			w.setAborting(err)
		}
	}
	if w.rest() {
		w.mu.Unlock()
		return
	}
	drained := w.state == closing
	w.mu.Unlock()

	if drained {
		w.deliverRest()
	}
	w.end()
}

// tryFlush is the first step of the flusher, taken by whoever should start it: what the
// kernel takes at once needs no goroutine. mu is held, and flushing is set.
func (w *Writer) tryFlush() {
	if w.socket.CanSend() && w.state == open && w.mayWrite() {
		if err := w.writeSome((*Writer).tryWrite); err != nil {
			w.setAborting(err)
		}
		if w.state == open && w.queue.Empty() && w.rest() {
			return
		}
	}
	w.goFlush()
}

// goFlush starts the flusher, when flushing has been set. mu is held.
func (w *Writer) goFlush() { go w.flush() }

// mayWrite tells whether there is something that may be written. mu is held, here and below.
func (w *Writer) mayWrite() bool { return w.state < aborting && w.paused == 0 && !w.queue.Empty() }

// rest ends the work of the flusher, and returns false if it has to end the Writer instead.
func (w *Writer) rest() bool {
	if w.state >= aborting || w.state == closing && w.paused == 0 {
		return false
	}
	if w.queue.Empty() {
		w.queue.Release()
		w.ages = queue.Ages{}
	}
	w.flushing = false
	w.restedAt = queue.Now()
	return true
}

// writeSome makes one write from the front of the queue, without mu. On an error nothing more
// may be written: part of a message may be on the connection, and what came next would be
// torn.
func (w *Writer) writeSome(write func(*Writer, []byte) (int, error)) error {
	w.queue.Shrink()
	limit, target := maxWrite, w.flushTarget()
	if w.limits != nil {
		limit, target = w.limits.maxWrite, min(target, w.limits.maxMessages)
	}
	var next []byte
	var gathered *queue.Block
	if w.messageFramed {
		next = w.queue.PeekMessage()
	} else {
		next, gathered = w.queue.Peek(limit, target)
	}
	w.ages.Sample(w.pending(), queue.Now())
	if w.limits != nil {
		w.limits.deadlines.begun++
	}
	w.mu.Unlock()
	n, err := write(w, next)
	if gathered != nil {
		gathered.Recycle()
	}
	w.mu.Lock()
	if n > 0 || err != nil || w.messageFramed {
		w.writes++
	}
	w.peakPending = max(w.peakPending, w.queue.Bytes())
	if w.messageFramed {
		w.wrote(w.queue.AdvanceMessage(err == nil || n == len(next) && n > 0))
	} else {
		w.wrote(w.queue.Advance(n))
	}
	return err
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
			n, err = 0, &PanicError{"Write", r, debug.Stack()}
		} else if !returned { // runtime.Goexit, as t.FailNow calls it: this goroutine ends
			w.mu.Lock()
			w.setAborting(&PanicError{"Write", sock.ErrGoexit, debug.Stack()})
			w.mu.Unlock()
			go w.end()
		}
	}()
	n, err = w.conn.Write(p)
	for len(p) == 0 && errors.Is(err, sock.ErrAgain) {
		time.Sleep(time.Millisecond) // package net does not wait when an empty datagram finds no room
		n, err = w.conn.Write(p)
	}
	returned = true
	switch {
	case n < 0 || n > len(p):
		return 0, fmt.Errorf("sendq: the connection's Write returned an impossible count: %d of %d bytes", n, len(p))
	case n < len(p) && err == nil:
		return n, io.ErrShortWrite
	}
	return n, asClosed(err)
}

// tryWrite is write, but returns what the kernel has taken when it would have to wait.
func (w *Writer) tryWrite(p []byte) (int, error) {
	n, err := w.socket.Send(w.conn, p)
	return n, asClosed(err)
}

// wrote counts what a write completed, and serves those who wait for it. mu is held.
func (w *Writer) wrote(r queue.Removed) {
	w.written += int64(r.Messages)
	w.ages.Written(int64(r.Messages))
	w.tellWaiters()
	if w.limits != nil {
		w.limits.release(w, r)
		w.admitBlocked()
	}
}
