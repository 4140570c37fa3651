package sendq

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"net"
	"slices"
	"sync"
	"time"
)

// WriterOptions configure a Writer. The zero value of each field is its default.
type WriterOptions struct {
	// CloseTimeout bounds Close: when the peer has not taken everything by then,
	// the connection is closed without it. 0 means 5 seconds.
	CloseTimeout time.Duration
}

const defaultCloseTimeout = 5 * time.Second

// A Writer sends the messages of any number of goroutines over one connection.
//
// A message is the bytes of one call of Write, WriteString or Send. Messages are
// queued, without limit, and written by a goroutine that exists only while there
// is something to write: whole, in the order in which they were accepted, and
// several at a time where the connection is a stream. Accepted does not mean
// delivered; Flush, Close and Undelivered tell what became of a message.
//
// A Writer must be made by NewWriter. All its methods may be called from any
// goroutine at any time.
type Writer struct {
	conn          net.Conn
	closeTimeout  time.Duration
	messageFramed bool // one conn.Write per message

	// mu guards what follows. No call into conn, nor anything else that could
	// wait, is made while it is held: a sender never waits for the network.
	mu       sync.Mutex
	state    state
	flushing bool // the flusher runs, and alone calls conn.Write
	queue    queue

	// Each counts whole messages; what is neither written nor queued any more
	// follows from them.
	accepted, acceptedBytes int64
	written, writtenBytes   int64

	err     error         // why the Writer ended or is about to; nil if by Close alone
	flushes []flushWaiter // oldest first
	aborted chan struct{} // closed when state becomes aborting; made by Shutdown
	done    chan struct{} // closed when the Writer has ended; made when asked for
	onEnd   *endHook      // what to call then
}

// The life of a Writer. It only ever moves down this list.
type state uint8

const (
	open     state = iota
	closing        // accepts no more; the flusher writes what is queued, then ends
	aborting       // writes no more; the flusher ends as soon as it can
	ended          // the connection is closed, the queue is what was undelivered
)

// NewWriter returns a Writer for conn, with default options if opts is nil; opts is
// copied. From now on the connection's sending half belongs to the Writer: nobody
// else may call Write, CloseWrite or SetWriteDeadline on it. Reading stays with the
// caller, and so does ending the Writer, by Close or otherwise: that closes conn.
//
// On a datagram connection each message is a datagram, and an error, such as that of a
// port where nobody listens, ends the Writer as on any other.
//
// A Writer uses no goroutine and no buffer until the first message.
//
// NewWriter panics if conn is nil or an option is negative.
func NewWriter(conn net.Conn, opts *WriterOptions) *Writer {
	if conn == nil {
		panic("sendq: NewWriter: conn is nil")
	}
	if opts == nil {
		opts = new(WriterOptions)
	}
	w := &Writer{conn: conn, closeTimeout: opts.CloseTimeout, messageFramed: isMessageFramed(conn)}
	if w.closeTimeout < 0 {
		panic(fmt.Sprintf("sendq: NewWriter: CloseTimeout is negative: %v", w.closeTimeout))
	}
	if w.closeTimeout == 0 {
		w.closeTimeout = defaultCloseTimeout
	}
	return w
}

// Write queues a copy of p as one message and returns len(p), nil: the message is
// accepted. It never waits for the network, and p may be reused when it returns.
//
// When the Writer is closing or has ended, Write returns 0 and an error that wraps
// net.ErrClosed and, if there is one, Err.
func (w *Writer) Write(p []byte) (int, error) {
	if len(p) > maxCopied {
		// A long copy is made before the lock is taken.
		if err := w.sendRef(newLone(bytes.Clone(p)), 0); err != nil {
			return 0, err
		}
		return len(p), nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.state != open {
		return 0, w.refusal()
	}
	w.queue.copyIn(p)
	w.accept(len(p))
	return len(p), nil
}

// WriteString is like Write.
func (w *Writer) WriteString(s string) (int, error) { return w.Write([]byte(s)) }

// Send is like Write, but takes p over without a copy, which pays for messages of
// some kilobytes. The caller must never change p again. It may go on reading it, and
// may send it to other Writers.
func (w *Writer) Send(p []byte) error { return w.sendRef(newLone(p), 0) }

// sendRef queues message i of b by reference.
func (w *Writer) sendRef(b *block, i int) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.state != open {
		return w.refusal()
	}
	w.queue.push(b, i)
	w.accept(len(b.message(i)))
	return nil
}

// accept counts a message of n bytes that was just queued, and sees to it that the
// flusher runs. mu is held, here and below where it says so.
func (w *Writer) accept(n int) {
	w.accepted++
	w.acceptedBytes += int64(n)
	w.wake()
}

// wake starts the flusher if it does not run. It cannot be missed: the flusher finds
// the queue empty and says that it leaves under one and the same lock. mu is held.
func (w *Writer) wake() {
	if !w.flushing {
		w.flushing = true
		go w.flush()
	}
}

// refusal returns the error for a message that comes too late. mu is held.
func (w *Writer) refusal() error {
	if w.err == nil || w.err == ErrClosed {
		return ErrClosed
	}
	return &endedError{w.err}
}

// Flush waits until every message that was accepted before the call has been
// written, which means that the connection took it; the peer may not have it yet.
// It does not wait for messages accepted later.
//
// It returns an error that says how much was not delivered if the Writer ends
// first, and the cause of ctx if that is done first; the messages stay queued then.
func (w *Writer) Flush(ctx context.Context) error {
	w.mu.Lock()
	target := w.accepted
	if w.written == target || w.state == ended {
		defer w.mu.Unlock()
		return w.shortOf(target)
	}
	f := flushWaiter{target, make(chan struct{})}
	w.flushes = append(w.flushes, f)
	w.mu.Unlock()

	var err error
	select {
	case <-f.reached:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.flushes = slices.DeleteFunc(w.flushes, func(o flushWaiter) bool { return o == f })
		return fmt.Errorf("sendq: flush: %w", err)
	}
	return w.shortOf(target)
}

// A flushWaiter is a call of Flush in progress.
type flushWaiter struct {
	target  int64         // how many messages must be written
	reached chan struct{} // closed when they are, or when the Writer has ended
}

// shortOf returns nil if the first target messages are written, or else an error
// that says how much is missing. mu is held, and the Writer has ended if not.
func (w *Writer) shortOf(target int64) error {
	if w.written >= target {
		return nil
	}
	return fmt.Errorf("sendq: messages not delivered: %d (%d bytes): %w",
		w.accepted-w.written, w.acceptedBytes-w.writtenBytes, w.err)
}

// Close delivers what is queued, closes the connection and waits until that is done,
// at most for CloseTimeout. It is Shutdown with that bound.
func (w *Writer) Close() error {
	ctx, cancel := context.WithTimeoutCause(context.Background(), w.closeTimeout,
		fmt.Errorf("CloseTimeout of %v is over: %w", w.closeTimeout, context.DeadlineExceeded))
	defer cancel()
	return w.Shutdown(ctx)
}

// Shutdown accepts no more messages, delivers what is queued, closes the connection
// and waits until that is done or ctx is, in which case it ends the Writer as
// CloseNow does.
//
// Delivered means that the peer's machine has acknowledged it. A peer that reads to
// the end gets every byte and then EOF, even if it has sent bytes that nobody read.
// That takes a TCP, Unix or TLS connection, or one that has a method
// NetConn() net.Conn to lead to it, and Linux; elsewhere Shutdown half-closes the
// connection and waits half a second before it closes it. While Shutdown
// waits, the caller's reader may go on reading; a Read then fails or returns EOF.
//
// The error is nil if all was delivered. Otherwise it tells how much was not, and
// wraps the cause: that of ctx, or why the Writer ended, maybe long before the call.
// Every call of Close and Shutdown waits for the end and returns the same outcome;
// of several bounds the first to pass ends the Writer.
func (w *Writer) Shutdown(ctx context.Context) error {
	w.mu.Lock()
	if w.state == open {
		w.state = closing
		w.aborted = make(chan struct{})
		w.wake()
	}
	w.mu.Unlock()

	select {
	case <-w.Done():
	case <-ctx.Done():
		w.abort(context.Cause(ctx))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.shortOf(w.accepted); err != nil {
		return err
	}
	return w.err
}

// CloseNow discards what is queued and closes the connection, which interrupts a
// write that is stuck, and waits until the Writer has ended. The peer may get part of
// the message that was being written. Undelivered yields what was discarded.
//
// It returns the connection's error, if closing fails. Once the Writer has ended, by
// CloseNow or otherwise, it does nothing and returns nil.
func (w *Writer) CloseNow() error { return w.abort(ErrClosed) }

// abort ends the Writer with cause, unless something ended it before, and waits for
// the end.
func (w *Writer) abort(cause error) (err error) {
	w.mu.Lock()
	first := w.state < aborting
	busy := w.flushing
	if first {
		w.state = aborting
		w.err = cause
		w.flushing = true // there is nothing to flush any more
		if w.aborted != nil {
			close(w.aborted)
		}
	}
	w.mu.Unlock()

	switch {
	case first && busy:
		err = closeNow(w.conn) // interrupts the flusher, which then ends the Writer
	case first:
		err = w.end()
	}
	<-w.Done()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// Done returns a channel that is closed when the Writer has ended: the connection is
// closed, and Err, Stats and Undelivered change no more. Err tells why it ended.
func (w *Writer) Done() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.done == nil {
		w.done = make(chan struct{})
	}
	return w.done
}

// Err returns the first cause of the Writer's end: the error of a write, ErrClosed
// after CloseNow, the cause of the context that bounded Shutdown. It is nil while the
// Writer lives, and after a Close that delivered everything.
func (w *Writer) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// Undelivered yields the messages that were accepted and not wholly written, in
// order; of the first the peer may have got a part. It yields nothing before the
// Writer has ended. The messages must not be changed: other Writers may share them.
// They stay in memory as long as the Writer does.
func (w *Writer) Undelivered() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		w.mu.Lock()
		var messages iter.Seq[[]byte] = func(func([]byte) bool) {}
		if w.state == ended {
			messages = w.queue.all() // nobody changes it any more
		}
		w.mu.Unlock()
		messages(yield)
	}
}

// WriterStats counts what became of a Writer's messages, in messages and in bytes. In every
// snapshot Accepted = Written + Dropped + Undelivered + Pending, for both.
type WriterStats struct {
	Accepted    int64 // Write, WriteString or Send took it
	Written     int64 // the connection took every byte of it
	Dropped     int64 // given up by the overflow policy
	Undelivered int64 // the Writer ended before it was written
	Pending     int64 // queued or being written

	AcceptedBytes, WrittenBytes, DroppedBytes, UndeliveredBytes, PendingBytes int64
}

// Stats returns a consistent snapshot of the Writer's counters.
func (w *Writer) Stats() WriterStats {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := WriterStats{
		Accepted: w.accepted, AcceptedBytes: w.acceptedBytes,
		Written: w.written, WrittenBytes: w.writtenBytes,
	}
	rest, restBytes := w.accepted-w.written, w.acceptedBytes-w.writtenBytes
	if w.state == ended {
		s.Undelivered, s.UndeliveredBytes = rest, restBytes
	} else {
		s.Pending, s.PendingBytes = rest, restBytes
	}
	return s
}
