package sendq

import (
	"bytes"
	"context"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/sendq-go/sendq/internal/queue"
	"github.com/sendq-go/sendq/internal/sock"
)

// A Writer sends the messages of any number of goroutines over one connection.
//
// A message is the bytes of one call, such as Write or Send. The Writer queues messages, without
// limit unless WriterOptions sets one. It writes them whole, in the order in which it accepted
// them, apart from WriteUrgent and WriteLatest, and on a stream several at a time. A goroutine does
// the writing, and exists only while there is something to write. If the Writer is idle, the sender
// may write a message itself, as far as the kernel takes it at once. Accepted does not mean
// delivered: Flush, Close and Undelivered report what became of the messages.
//
// Use NewWriter to make a Writer. All methods may be called from any goroutine at any time.
type Writer struct {
	conn         net.Conn
	socket       sock.Sender // writes to conn without waiting, if it can
	closeTimeout time.Duration
	limits       *limits // nil if there are none

	// mu guards the fields below. A sender never waits for the network, so nothing that can
	// wait may happen while mu is held, in particular no call into conn.
	mu            sync.Mutex
	messageFramed bool // one conn.Write for each message; never changed
	losesNothing  bool // Close of conn discards no written bytes; never changed
	state         state
	flushing      bool  // the flusher runs or is about to, and only it writes to conn
	paused        int32 // the number of takeovers that keep the flusher from running
	queue         queue.Queue

	// These count whole messages. Dropped messages are counted by limits. Bytes that are
	// neither dropped nor queued are written.
	accepted, acceptedBytes, written int64

	writes      int64         // writes to the connection, except attempts that took nothing
	peakPending int64         // the most bytes that were pending when a write returned
	ages        queue.Ages    // of the pending messages
	flushedAt   time.Duration // when the flusher last finished

	err      error     // why the Writer ended or is about to; nil if by Close alone
	watchers *watchers // nil if nobody waits for anything
}

// watchers holds everyone that waits for a Writer's progress or end. A Writer usually has none,
// so an idle Writer stays small. Writer.mu guards the fields.
type watchers struct {
	waiters        *waiters      // calls of Flush and the like; nil if there are none
	calls          *calls        // of the program's functions; nil if there are none
	linger         *linger       // made by Shutdown
	done           chan struct{} // closed when the Writer has ended; made on demand
	onEnd          *endHook      // what to call when the Writer has ended
	urgent         int64         // the value of Writer.written when the last urgent message is written
	leftoversTaken bool          // a Broker takes care of the undelivered messages
}

// watch returns the Writer's watchers, and makes them if there are none. mu is held.
func (w *Writer) watch() *watchers {
	if w.watchers == nil {
		w.watchers = new(watchers)
	}
	return w.watchers
}

// forgetWatchers forgets the watchers if there are none. mu is held.
func (w *Writer) forgetWatchers() {
	if *w.watchers == (watchers{}) {
		w.watchers = nil
	}
}

// A state is a stage in the life of a Writer. A Writer only moves down this list.
type state uint8

const (
	open      state = iota
	closing         // accepts no more messages; the flusher writes the queue, then ends the Writer
	parting         // a limit or a lost name ends the Writer; the flusher finishes the begun message and says farewell
	aborting        // writes no more; the flusher ends the Writer as soon as it can
	ended           // the connection is closed; the queue holds the undelivered messages
	announced       // all watchers know that the Writer has ended
)

// NewWriter returns a Writer for conn. It copies opts; nil means the default options. From now
// on the connection's sending half belongs to the Writer: nobody else may call Write,
// CloseWrite, SetWriteDeadline, SetDeadline or Close on it. The caller still reads from conn, and
// must end the Writer, by Close or otherwise. That closes conn.
//
// A reader that needs a deadline uses SetReadDeadline. The one of SetDeadline holds for writes too:
// when it has passed, the next write ends the Writer with os.ErrDeadlineExceeded. If somebody
// closes conn beneath an idle Writer, the Writer notices that at its next write, and not before.
// So Done stays open, and the next message is accepted and undelivered.
//
// On a datagram connection each message is a datagram. As on any connection, an error ends the
// Writer, even one that only reports a port where nobody listens. If a method of conn panics,
// the Writer ends with a PanicError. The methods of conn must not call methods of the Writer
// that wait for something.
//
// A Writer uses no goroutine, no timer and no buffer until the first message.
//
// NewWriter panics if conn is nil or an option is invalid.
func NewWriter(conn net.Conn, opts *WriterOptions) *Writer {
	if conn == nil {
		panic("sendq: NewWriter: conn is nil")
	}
	o := opts.checked()
	network := sock.Network(conn)
	w := &Writer{
		conn:          conn,
		closeTimeout:  o.CloseTimeout,
		messageFramed: o.MessageFramed || sock.IsDatagram(network),
		losesNothing:  sock.LosesNothing(network),
		limits:        newLimits(conn, o),
	}
	if o.Budget != nil || o.Keep > 0 {
		w.limits.track(w)
	}
	if !w.messageFramed { // otherwise a write that does not wait could divide a message
		w.socket = sock.NewSender(conn)
	}
	return w
}

// Write queues a copy of p as one message. If the message is accepted, Write returns len(p),
// nil. Write does not wait for the network, unless Overflow is Block. The caller may reuse p
// when Write returns.
//
// If the Writer is closing or has ended, Write returns 0 and an error that wraps net.ErrClosed
// and, if Err is not nil, Err. If the message exceeds a limit, the error wraps ErrSlowConsumer,
// ErrDropped or ErrTooLarge; see WriterOptions.
func (w *Writer) Write(p []byte) (int, error) {
	// Most messages come during a write, and go after the last queued one. WriteContext would
	// do the same as this, at twice the cost.
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

// WriteContext is like Write, but waits for room only until ctx is done. Then the message is
// not accepted, and the error wraps the cause of ctx. Only Overflow Block waits for room;
// otherwise ctx has no effect. WriteContext panics if ctx is nil.
func (w *Writer) WriteContext(ctx context.Context, p []byte) (int, error) {
	requireContext(ctx)
	m := copyOf(p)
	if err := w.send(ctx, &m, nil); err != nil {
		return 0, err
	}
	return len(p), nil
}

// WriteString is like Write, with the bytes of s.
func (w *Writer) WriteString(s string) (int, error) { return w.Write([]byte(s)) }

// WriteParts is like Write, with the parts together as one message, such as a header and a body.
// The caller need not join them.
//
// To send one body to many Writers with a header of its own for each, call WriteParts of each.
// Every Writer then has its own copy. Writers share the copies of Broker.SendTo, Broadcast and
// Room.Publish, so these messages are the same for all.
func (w *Writer) WriteParts(parts ...[]byte) (int, error) {
	size := 0
	for _, p := range parts {
		size += len(p)
	}
	w.mu.Lock()
	if w.flushing && w.state == open && (w.limits == nil || w.extendsFreely(size)) && w.queue.ExtendParts(size, parts) {
		w.accepted++
		w.acceptedBytes += int64(size)
		w.mu.Unlock()
		return size, nil
	}
	w.mu.Unlock()
	joined := slices.Concat(parts...)
	if size > queue.MaxCopied {
		if err := w.Send(joined); err != nil { // joined is a copy already
			return 0, err
		}
		return size, nil
	}
	return w.Write(joined)
}

// Send is like Write, but queues p itself, not a copy. This pays for messages of some
// kilobytes. The caller must never change p again, whatever Send returns. It may still read p,
// and send it to other Writers.
func (w *Writer) Send(p []byte) error {
	return w.send(context.Background(), &payload{run: queue.Lone(p)}, nil)
}

// A payload is what a sender sends: one message to copy, or a run of messages of a block.
type payload struct {
	copied []byte
	run    queue.Run // if its Block is not nil
	key    *string   // of WriteLatest, or nil
}

// copyOf returns p as a message to copy. If p is long it is copied here, before any lock is
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

// size returns the size of the messages in bytes.
func (m *payload) size() int {
	if m.run.Block == nil {
		return len(m.copied)
	}
	return m.run.Size()
}

// requireContext panics if ctx is nil, even if the call would not have to wait.
func requireContext(ctx context.Context) {
	if ctx == nil {
		panic("sendq: nil Context")
	}
}

// contextCause returns why ctx is done. It is never nil, even if a foreign Context has no error.
func contextCause(ctx context.Context) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	return context.Canceled
}

// send accepts m or returns why it does not. It waits only with Block, until ctx is done. If m is
// accepted and notify is not nil, notify gets its outcome.
func (w *Writer) send(ctx context.Context, m *payload, notify func(error)) error {
	w.mu.Lock()
	err := w.offer(m)
	if err == nil {
		w.notifyLast(notify)
		w.wake()
	}
	w.mu.Unlock()
	if err == ErrWouldBlock {
		return w.waitForRoom(ctx, m, notify)
	}
	return err
}

// offer accepts m or returns why it does not: ErrWouldBlock if the sender may wait for room.
// The caller must wake the flusher. mu is held.
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
		w.grown()
	}
}

// wake starts the flusher if there is work for it and it does not run. No wake-up is lost: the
// flusher checks for an empty queue and clears flushing in one critical section. mu is held,
// but released while wake writes.
//
// The flusher is usually a goroutine. If the Writer was idle, wake first tries to write without
// one, because a hand-off takes a third of the round trip of a single message. Soon after a
// write there may be a burst of messages, so wake leaves these to the goroutine, which writes
// them together.
func (w *Writer) wake() {
	switch {
	case w.queue.Empty() && w.state != closing:
	case !w.acquireFlusher():
	case w.socket.CanSend() && w.queue.Bytes() <= maxTry && !w.isBurst():
		w.tryFlush()
	default:
		w.goFlush()
	}
}

// maxTry is the most bytes written without a goroutine, because the kernel takes long for more.
const maxTry = 16 << 10

// burst is the time after a write in which a message counts as part of a burst. A program that
// waits for an answer takes longer; a program with more to send does not.
const burst = 4 * time.Microsecond

func (w *Writer) isBurst() bool { return queue.Now()-w.flushedAt <= burst }

// acquireFlusher reports whether the flusher must be started. If so, the caller must start it. A
// parting Writer has one, and an aborting Writer needs none, because interrupt ends it. mu is
// held.
func (w *Writer) acquireFlusher() bool {
	if w.flushing || w.paused > 0 || w.state >= parting {
		return false
	}
	w.flushing = true
	return true
}

// refusal returns the error for a message to a Writer that is closing or has ended. mu is held.
func (w *Writer) refusal() error {
	if w.err == nil || w.err == ErrClosed {
		return ErrClosed
	}
	return &endedError{w.err}
}
