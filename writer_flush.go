package sendq

import (
	"errors"
	"fmt"
	"io"
	"math"
	"runtime/debug"
	"time"

	"github.com/sendq-go/sendq/internal/queue"
	"github.com/sendq-go/sendq/internal/sock"
)

const (
	// maxWrite is the most bytes of one conn.Write. Larger writes gain nothing.
	maxWrite = 256 << 10

	// maxUnseenWrite replaces maxWrite if there is a WriteTimeout and only the return of a
	// write shows progress of the peer.
	maxUnseenWrite = 4 << 10
)

// flush is the flusher: the goroutine that writes the queue to the connection. It stops when
// the queue is empty or a takeover pauses the Writer; the next message or the end of the
// takeover starts it again. While it runs, nothing else ends the Writer.
//
// A write that may wait must end where a waiting Flush does; see flushTarget. A write that does not
// wait need not, and many small writes take long. So while a Flush waits, the flusher tries to
// write without waiting, and divides a write only if the kernel is full.
func (w *Writer) flush() {
	w.mu.Lock()
	isFull := false // the last try has shown that a write would wait
	for w.mayWrite() {
		var all bool
		var err error
		if !isFull && w.socket.CanSend() && w.flushTarget() < math.MaxInt64 {
			all, err = w.writeSome((*Writer).tryWrite, math.MaxInt64)
		} else {
			all, err = w.writeSome((*Writer).write, w.flushTarget())
		}
		if err != nil {
			w.setAborting(err)
		}
		isFull = !all
	}
	if w.releaseFlusher() {
		w.mu.Unlock()
		return
	}
	state := w.state
	w.mu.Unlock()

	switch state {
	case closing:
		w.deliverRest()
	case parting:
		w.sayFarewell()
	}
	w.end()
}

// tryFlush makes the flusher's first write without a goroutine, as far as the kernel accepts
// bytes at once. The caller has acquired the flusher. mu is held, but released during the write.
func (w *Writer) tryFlush() {
	if w.socket.CanSend() && w.state == open && w.mayWrite() {
		if _, err := w.writeSome((*Writer).tryWrite, math.MaxInt64); err != nil {
			w.setAborting(err)
		}
		if w.state == open && w.queue.Empty() && w.releaseFlusher() {
			return
		}
	}
	w.goFlush()
}

// goFlush starts the flusher, which the caller has acquired. mu is held.
func (w *Writer) goFlush() { go w.flush() }

// mayWrite reports whether there is a message that may be written. mu is held.
func (w *Writer) mayWrite() bool {
	if w.state == parting {
		return w.queue.Begun() > 0
	}
	return w.state < parting && w.paused == 0 && !w.queue.Empty()
}

// releaseFlusher undoes acquireFlusher. If the flusher has to end the Writer instead, it returns
// false. mu is held.
func (w *Writer) releaseFlusher() bool {
	if w.state >= parting || w.state == closing && w.paused == 0 {
		return false
	}
	w.releaseMemory()
	w.flushing = false
	w.flushedAt = queue.Now()
	return true
}

// releaseMemory gives back the memory that an empty queue has kept. mu is held.
func (w *Writer) releaseMemory() {
	if w.queue.Empty() {
		w.queue.Release()
		w.ages = queue.Ages{}
		if w.watchers != nil {
			w.watchers.urgent = 0
			w.forgetWatchers()
		}
	}
}

// writeSome makes one write from the front of the queue, of at most the given number of messages,
// and reports whether it has written all that it tried to. After an error nothing more may be
// written: the connection may have part of a message, and the next bytes would tear it. mu is
// held, but released during the write.
func (w *Writer) writeSome(write func(*Writer, []byte) (int, error), messages int64) (all bool, err error) {
	w.queue.Shrink()
	limit := maxWrite
	if w.limits != nil {
		limit, messages = w.limits.maxWrite, min(messages, w.limits.maxWriteMessages)
	}
	if w.state == parting {
		messages = 1 // only the rest of the begun message
	}
	var next []byte
	var gathered *queue.Block
	if w.messageFramed {
		next = w.queue.PeekMessage()
	} else {
		next, gathered = w.queue.Peek(limit, messages)
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
	w.peakPending = max(w.peakPending, w.pendingBytes())
	if w.messageFramed {
		w.wrote(w.queue.AdvanceMessage(err == nil || n == len(next) && n > 0))
	} else {
		w.wrote(w.queue.Advance(n))
	}
	return n == len(next), err
}

// write calls conn.Write and enforces the rules of io.Writer. If the connection was closed, the
// error wraps net.ErrClosed, whatever the connection returned. mu is not held.
func (w *Writer) write(p []byte) (n int, err error) {
	if len(p) == 0 && !w.messageFramed {
		return 0, nil // nothing to write, and net.Pipe would wait for a reader
	}
	// The goroutine is ours, so nobody else could recover a panic, and it would end the
	// process. Ending the Writer is enough.
	returned := false
	defer func() {
		if r := recover(); r != nil {
			n, err = 0, &PanicError{"Write", r, debug.Stack()}
		} else if !returned { // runtime.Goexit, as called by t.FailNow: this goroutine ends
			w.mu.Lock()
			w.setAborting(&PanicError{"Write", sock.ErrGoexit, debug.Stack()})
			w.mu.Unlock()
			go w.end()
		}
	}()
	n, err = w.conn.Write(p)
	for len(p) == 0 && errors.Is(err, sock.ErrAgain) {
		time.Sleep(time.Millisecond) // package net does not wait if an empty datagram finds no room
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

// tryWrite is like write, but does not wait. It returns the number of bytes accepted by the
// kernel.
func (w *Writer) tryWrite(p []byte) (int, error) {
	n, err := w.socket.Send(w.conn, p)
	return n, asClosed(err)
}

// wrote counts the messages completed by a write, and ends the waits for them. mu is held.
func (w *Writer) wrote(r queue.Removed) {
	w.written += int64(r.Messages)
	w.ages.Written(int64(r.Messages))
	if w.limits != nil {
		w.limits.release(w, r, w.keepWritten(r))
	}
	w.notifyWaiters() // the calls return at once, so what they see must be released
	if w.limits != nil {
		w.admitBlocked()
	}
}
