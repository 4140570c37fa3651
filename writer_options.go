package sendq

import (
	"fmt"
	"time"
)

// WriterOptions configure a Writer. The zero value of each field is its default: the queue has
// no limit, and the peer may take as long as it likes.
//
// If a limit ends the Writer, its connection is closed, after a Farewell if there is one. Err and
// later sends then return an error that names the limit and wraps ErrSlowConsumer.
type WriterOptions struct {
	// MaxPending limits the pending bytes, queued or being written. Each message counts as its
	// size plus 64 bytes, so tiny messages cannot evade the limit. If a message would exceed
	// MaxPending, Overflow applies. If a message could never fit, it is refused with
	// ErrTooLarge. A takeover may exceed MaxPending, and so may Room.JoinReplay unless messages
	// of an earlier replay or takeover are still pending. 0 means no limit.
	//
	// Messages in the kernel's buffers, often megabytes, are no longer pending; SetWriteBuffer
	// of the connection bounds them. See "Peers that vanish" in the package documentation.
	MaxPending int

	// MaxMessages limits the number of pending messages as MaxPending limits their bytes. The
	// same Overflow applies. 0 means no limit.
	//
	// MaxPending bounds memory. If a program counts in messages, set MaxMessages, and set
	// MaxPending beside it, because one message may have any size. MaxPending alone has room for
	// n messages of b bytes if it is n*(b+64): 96 KiB hold 945 lines of 40 bytes, and 249,600
	// bytes hold 2,400.
	MaxMessages int

	// Overflow is the policy for messages beyond MaxPending or MaxMessages. Without these it has
	// no effect.
	Overflow Overflow

	// MaxAge limits how long a message may be pending. When the oldest pending message has
	// waited for MaxAge, or up to a third longer, the Writer ends. Messages keep aging while
	// their Writer waits for a takeover. The age of messages taken over begins at the takeover.
	// A pause of the whole process does not count. 0 means no limit.
	//
	// A message is pending until the kernel has taken it, so MaxAge does not see bytes in the
	// kernel's buffers; see "Peers that vanish" in the package documentation.
	MaxAge time.Duration

	// Expire makes MaxAge drop messages instead of ending the Writer. A message that has waited
	// for MaxAge, or up to a third longer, is dropped, unless the connection has begun to take it
	// or it was sent by WriteAlways or WriteUrgent. Messages taken over may be dropped together
	// with those that waited for the takeover. If the peer takes nothing at all, the Writer lives
	// on, and OldestPending stays near MaxAge; only WriteTimeout ends the Writer. Without MaxAge,
	// Expire has no effect.
	Expire bool

	// WriteTimeout limits how long the peer may take nothing although there is something to
	// take. When the limit has passed, or up to a quarter later, the Writer ends. Any progress
	// starts the time again, so a slow peer is alive, however long the whole takes. A peer with
	// nothing to take is alive too. 0 means no limit.
	//
	// Choose a timeout long enough for the slowest acceptable peer to read one step. A TCP peer
	// with a full receive buffer acknowledges in steps of at least a segment (64 KB over
	// loopback) and about a twentieth of the buffer. Between two Linux programs a step was 94
	// to 340 KB; a peer that reads 100 KB/s needs 3.4 seconds for 340 KB. A Unix socket has
	// steps of some tens of KB. On a link with losses, TCP itself is silent for a while: at
	// 64 kbit/s, 500 ms and 5 % of loss, it was silent for at most 9.6 seconds. If you wrap the
	// connection, give the wrapper a method NetConn() net.Conn.
	//
	// There is something to take while a write waits, or while the kernel has bytes that the
	// peer's machine has not acknowledged, however few. On Linux, except on 386 and s390x,
	// progress over TCP and MPTCP is an acknowledgement by the peer's machine, and progress on
	// a Unix socket is a read by the peer. The Writer looks through TLS, and through wrappers
	// with the method NetConn. With WriteTimeout, one write to a Unix socket is at most a
	// quarter of its send buffer, as it was when the Writer was made.
	//
	// On other systems and behind other wrappers, progress is a return from the connection's
	// Write, and bytes in the kernel are not watched. With WriteTimeout, one Write is then at
	// most 4 KiB. This is coarse if a kernel buffers underneath, because a full buffer accepts
	// nothing until a good part of it has drained. A message on a message-framed connection is
	// never divided.
	//
	// A pause of the whole process does not count. No deadline is set on the connection.
	WriteTimeout time.Duration

	// HighMark and LowMark are sizes of the queue in bytes, counted as for MaxPending. When the queue
	// exceeds HighMark the Writer is slow, until the queue has fallen to LowMark and WriteLatest keeps
	// no message beside it. While the Writer is slow, Writer.WriteLatest and Room.PublishLatest keep
	// only the newest message of each key. A Broker emits EventSlow and EventSteady for its names.
	//
	// If HighMark is 0 there are no marks. If LowMark is 0 it is half of HighMark; 1 means an empty
	// queue. Choose a HighMark below MaxPending and above the size of any message. NewWriter panics
	// if LowMark exceeds HighMark.
	HighMark, LowMark int

	// OnPressure is called with true when the Writer has become slow, and with false when it is
	// no longer slow. The calls are made like those of Writer.OnFlushed. If both happen before
	// the call, there is none. When the Writer ends there is none either. Without HighMark,
	// OnPressure has no effect.
	OnPressure func(w *Writer, slow bool)

	// CloseTimeout limits how long Close waits until everything is written, and acknowledged by
	// the peer. After that the connection is closed anyway. 0 means 5 seconds.
	CloseTimeout time.Duration

	// Farewell returns the last words for a peer when a limit ends the Writer, such as an error
	// message of the protocol. A Broker with a Relay calls it too if another node has the name.
	// cause is the Writer's Err, which wraps ErrSlowConsumer or ErrNameLost. If the result is empty,
	// nothing is written. If Farewell is nil, the connection is closed at once.
	//
	// With Farewell, the Writer accepts no more messages and gives up what is queued. It finishes
	// what the connection has begun to take, calls Farewell, writes the result, waits for the
	// peer as Close does, and ends, all within CloseTimeout. Until then it keeps its names at a
	// Broker, except a lost one. A Budget no longer counts it, although what is given up stays in
	// memory. The farewell is not a message, so no figure counts it. Farewell has its own
	// goroutine, and must not wait for the end of the Writer. It is called for nothing else. It is
	// not called if CloseTimeout or an error ends the Writer first, or if all is written and Close
	// waits for the peer.
	Farewell func(cause error) []byte

	// Keep limits the bytes of written messages kept for a peer that comes back; see Broker.Resume.
	// Each counts as for MaxPending. A message is kept until the peer has acknowledged it, by
	// Writer.Acknowledge, or newer ones need the room. Kept messages count in a Budget like pending
	// ones, so a Budget may end a Writer whose peer keeps up and acknowledges too little.
	//
	// Choose more than the buffers of both kernels and the program of the peer hold, and with
	// BrokerOptions.Linger also more than MaxPending and what may be sent to an absent peer. 0 means
	// that nothing is kept.
	Keep int

	// Budget limits the bytes of memory that the pending messages of all Writers with the same
	// Budget take together. Nil means no such limit.
	Budget *Budget

	// MessageFramed makes each message exactly one Write of the connection. Set it if the peer
	// receives each Write as a message, as on the connections of websocket.NetConn. It is
	// implied for UDP, IP, unixgram, unixpacket and MessageConn, judged by the network of the
	// connection's LocalAddr. A stream protocol built on UDP should therefore report another
	// network.
	MessageFramed bool
}

// Overflow is a Writer's policy for messages beyond MaxPending or MaxMessages.
type Overflow uint8

const (
	// Disconnect ends the Writer, because its peer is a slow consumer. The sender gets
	// ErrSlowConsumer.
	Disconnect Overflow = iota

	// Block makes the sender wait for room; see Writer.WriteContext. Waiting senders are served
	// first come, first served. When the Writer is closed or ends, they fail at once, like a
	// later Write. A Broker does not wait: its message is refused with ErrWouldBlock.
	Block

	// DropNewest drops the message, and the sender gets ErrDropped.
	DropNewest

	// DropOldest drops the oldest pending messages until the new one has room. It never drops a
	// message if the connection has, or may have, part of it. So one write takes at most a
	// quarter of MaxPending and of MaxMessages, apart from its first and its last message, which
	// may have any size. If the messages being written leave no room for the new one, DropOldest
	// acts as DropNewest.
	DropOldest
)

func (o Overflow) String() string {
	switch o {
	case Disconnect:
		return "Disconnect"
	case Block:
		return "Block"
	case DropNewest:
		return "DropNewest"
	case DropOldest:
		return "DropOldest"
	}
	return fmt.Sprintf("Overflow(%d)", uint8(o))
}

const defaultCloseTimeout = 5 * time.Second

// checked returns a copy of o with defaults filled in. It panics if an option is invalid.
func (o *WriterOptions) checked() WriterOptions {
	var c WriterOptions
	if o != nil {
		c = *o
	}
	refuseNegative("NewWriter", "MaxPending", c.MaxPending)
	refuseNegative("NewWriter", "MaxMessages", c.MaxMessages)
	refuseNegative("NewWriter", "HighMark", c.HighMark)
	refuseNegative("NewWriter", "LowMark", c.LowMark)
	refuseNegative("NewWriter", "Keep", c.Keep)
	refuseNegative("NewWriter", "MaxAge", c.MaxAge)
	refuseNegative("NewWriter", "WriteTimeout", c.WriteTimeout)
	refuseNegative("NewWriter", "CloseTimeout", c.CloseTimeout)
	if c.Overflow > DropOldest {
		panic(fmt.Sprintf("sendq: NewWriter: no such Overflow: %v", c.Overflow))
	}
	if c.LowMark > c.HighMark {
		panic(fmt.Sprintf("sendq: NewWriter: LowMark of %d is above HighMark of %d", c.LowMark, c.HighMark))
	}
	if c.LowMark == 0 {
		c.LowMark = c.HighMark / 2
	}
	if c.CloseTimeout == 0 {
		c.CloseTimeout = defaultCloseTimeout
	}
	return c
}

func refuseNegative[T int | time.Duration](where, option string, value T) {
	if value < 0 {
		panic(fmt.Sprintf("sendq: %s: %s is negative: %v", where, option, value))
	}
}
