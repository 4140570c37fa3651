package sendq

import (
	"bytes"
	"context"
	"net"
	"sync"
	"time"

	"github.com/sendq-go/sendq/internal/queue"
	"github.com/sendq-go/sendq/internal/sock"
)

// A Writer sends the messages of any number of goroutines over one connection.
//
// A message is the bytes of one call of Write, WriteString or Send. Messages are
// queued, without limit unless WriterOptions sets one, and written by a goroutine that
// exists only while there is something to write, or at once by the sender if the kernel
// takes them: whole, in the order in which they were accepted, and several at a time where
// the connection is a stream. Accepted does not mean delivered; Flush, Close and Undelivered
// tell what became of a message.
//
// A Writer must be made by NewWriter. All its methods may be called from any
// goroutine at any time.
type Writer struct {
	conn         net.Conn
	socket       sock.Sender // writes to conn without waiting, if it can
	closeTimeout time.Duration
	limits       *limits // nil if there are none

	// mu guards what follows. No call into conn, nor anything else that could
	// wait, is made while it is held: a sender never waits for the network.
	mu            sync.Mutex
	messageFramed bool // one conn.Write per message; never changed
	keepsNothing  bool // conn has no buffer that its Close could discard; never changed
	state         state
	flushing      bool  // the flusher runs, or is about to: it alone writes to conn
	paused        int16 // how many takeovers keep the flusher from running
	queue         queue.Queue

	// Whole messages; those dropped are counted by limits, and the bytes of what is neither
	// dropped nor queued are written.
	accepted, acceptedBytes, written int64

	writes      int64         // writes to the connection that took something
	peakPending int64         // the most bytes that were pending when one returned
	ages        queue.Ages    // of the pending messages
	restedAt    time.Duration // when the flusher was last done

	err      error     // why the Writer ended or is about to; nil if by Close alone
	watchers *watchers // who waits for something or wants to know of the end; nil if nobody
}

// An watchers is who waits for something of a Writer. Most of the time there is none, which
// keeps an idle Writer small. Writer.mu guards it.
type watchers struct {
	waiters        *waiters      // calls of Flush and WaitPending; nil if there are none
	linger         *linger       // made by Shutdown
	done           chan struct{} // closed when the Writer has ended; made when asked for
	onEnd          *endHook      // what to call then
	leftoversTaken bool          // a Broker sees to what will be undelivered
}

// watch returns the audience, which there is from now on. mu is held.
func (w *Writer) watch() *watchers {
	if w.watchers == nil {
		w.watchers = new(watchers)
	}
	return w.watchers
}

// The life of a Writer. It only ever moves down this list.
type state uint8

const (
	open      state = iota
	closing         // accepts no more; the flusher writes what is queued, then ends
	aborting        // writes no more; the flusher ends as soon as it can
	ended           // the connection is closed, the queue is what was undelivered
	announced       // and who waits for that has been told
)

// NewWriter returns a Writer for conn, with default options if opts is nil; opts is
// copied. From now on the connection's sending half belongs to the Writer: nobody
// else may call Write, CloseWrite or SetWriteDeadline on it. Reading stays with the
// caller, and so does ending the Writer, by Close or otherwise: that closes conn.
//
// On a datagram connection each message is a datagram, and an error, such as that of a
// port where nobody listens, ends the Writer as on any other. So does a method of conn that
// panics, with a PanicError. The methods of conn must not call those of the Writer that
// wait for something.
//
// A Writer uses no goroutine, no timer and no buffer until the first message.
//
// NewWriter panics if conn is nil or an option makes no sense.
func NewWriter(conn net.Conn, opts *WriterOptions) *Writer {
	if conn == nil {
		panic("sendq: NewWriter: conn is nil")
	}
	o := opts.checked()
	network := sock.Network(conn)
	isDatagram := sock.IsDatagram(network)
	w := &Writer{
		conn:          conn,
		closeTimeout:  o.CloseTimeout,
		messageFramed: o.MessageFramed || isDatagram,
		keepsNothing:  isDatagram || network == "pipe",
		limits:        newLimits(conn, o),
	}
	if o.Budget != nil {
		w.limits.backlog.writer = w
		w.limits.tracker = queue.Tracker{Hold: w.limits.backlog.hold, LetGo: w.limits.backlog.letGo}
		w.queue.Track(&w.limits.tracker)
	}
	if !w.messageFramed { // or a write that does not wait could divide a message
		w.socket = sock.NewSender(conn)
	}
	return w
}

// Write queues a copy of p as one message and returns len(p), nil: the message is
// accepted. It never waits for the network, unless Overflow is Block, and p may be
// reused when it returns.
//
// When the Writer is closing or has ended, Write returns 0 and an error that wraps
// net.ErrClosed and, if there is one, Err. When a limit of WriterOptions is reached
// the error is ErrSlowConsumer, ErrDropped or ErrTooLarge, as they say.
func (w *Writer) Write(p []byte) (int, error) {
	// Most messages come while others are being written, and go behind the last one: this
	// is what WriteContext comes to then, at half its cost.
	w.mu.Lock()
	if w.flushing && w.state == open && (w.limits == nil || w.extendsFreely(len(p))) && w.queue.Extend(p) {
		w.accepted++
		w.acceptedBytes += int64(len(p))
		w.mu.Unlock()
		return len(p), nil
	}
	w.mu.Unlock()
	return w.WriteContext(context.Background(), p)
}

// WriteContext is like Write, and when it waits for room, as only Overflow Block does,
// it gives up when ctx is done: the message is not accepted then, and the error is the
// cause of ctx. It panics if ctx is nil.
func (w *Writer) WriteContext(ctx context.Context, p []byte) (int, error) {
	requireContext(ctx)
	m := copyOf(p)
	if err := w.send(ctx, &m); err != nil {
		return 0, err
	}
	return len(p), nil
}

// WriteString is like Write.
func (w *Writer) WriteString(s string) (int, error) { return w.Write([]byte(s)) }

// Send is like Write, but takes p over without a copy, which pays for messages of
// some kilobytes. The caller must never change p again, whatever Send returns. It may go
// on reading it, and may send it to other Writers.
func (w *Writer) Send(p []byte) error {
	return w.send(context.Background(), &payload{run: queue.Lone(p)})
}

// A payload is what a sender brings: a message to copy, or messages of a block.
type payload struct {
	copied []byte
	run    queue.Run // if its Block is not nil
}

// copyOf returns p as a message to copy. A long copy is made at once, before a lock is
// taken.
func copyOf(p []byte) payload {
	if len(p) > queue.MaxCopied {
		return payload{run: queue.Lone(bytes.Clone(p))}
	}
	return payload{copied: p}
}

// len returns the number of messages.
func (m *payload) len() int {
	if m.run.Block == nil {
		return 1
	}
	return m.run.Len()
}

// size returns the bytes of the messages.
func (m *payload) size() int {
	if m.run.Block == nil {
		return len(m.copied)
	}
	return m.run.Size()
}

// requireContext panics if ctx is nil: at once, and not only when a call has to wait.
func requireContext(ctx context.Context) {
	if ctx == nil {
		panic("sendq: nil Context")
	}
}

// send accepts m or returns why it is not. It waits only as Block and ctx say.
func (w *Writer) send(ctx context.Context, m *payload) error {
	w.mu.Lock()
	err := w.offer(m)
	if err == nil {
		w.wake()
	}
	w.mu.Unlock()
	if err == ErrWouldBlock {
		return w.waitForRoom(ctx, m)
	}
	return err
}

// offer accepts m or returns why it is not, ErrWouldBlock if its sender may wait for
// room. The caller wakes the flusher. mu is held, here and below where it says so.
func (w *Writer) offer(m *payload) error {
	if w.limits != nil {
		return w.offerLimited(m)
	}
	if w.state != open {
		return w.refusal()
	}
	w.enqueue(m)
	return nil
}

// enqueue accepts m. mu is held.
func (w *Writer) enqueue(m *payload) {
	if m.run.Block != nil {
		w.accept(m.run.Len(), w.queue.Push(m.run))
		return
	}
	if !w.queue.HasBlock() && w.isBurst() {
		w.queue.ExpectBurst()
	}
	w.queue.CopyIn(m.copied)
	w.accept(1, len(m.copied))
}

// accept counts messages that were just queued, of size bytes together. mu is held.
func (w *Writer) accept(messages, size int) {
	w.accepted += int64(messages)
	w.acceptedBytes += int64(size)
	if w.limits != nil {
		w.limits.startDeadlines(w)
	}
}

// wake starts the flusher if there is something to do for it and it does not run. It cannot be missed: the flusher finds
// the queue empty and says that it leaves under one and the same lock. mu is held, but not
// while wake writes.
//
// The flusher is a goroutine, unless the Writer has been idle: then whoever wakes it tries to
// write without it, which spares a single message a third of its round trip. Soon after that
// there may be a burst of messages, which are better written together.
func (w *Writer) wake() {
	switch {
	case w.queue.Empty() && w.state != closing:
	case !w.claimFlusher():
	case w.socket.CanSend() && w.queue.Bytes() <= maxTry && !w.isBurst():
		w.tryFlush()
	default:
		w.goFlush()
	}
}

// maxTry bounds what is written without a goroutine, in bytes: more takes the kernel long.
const maxTry = 16 << 10

// burst is how soon behind a write a message counts as of the same burst. A program that
// waits for an answer takes longer; one that has more to say does not.
const burst = 4 * time.Microsecond

func (w *Writer) isBurst() bool { return queue.Now()-w.restedAt <= burst }

// claimFlusher tells whether the flusher must be started, which the caller promises to do.
func (w *Writer) claimFlusher() bool {
	if w.flushing || w.paused > 0 {
		return false
	}
	w.flushing = true
	return true
}

// refusal returns the error for a message that comes too late. mu is held.
func (w *Writer) refusal() error {
	if w.err == nil || w.err == ErrClosed {
		return ErrClosed
	}
	return &endedError{w.err}
}
