package sendq

import (
	"fmt"
	"time"
)

// WriterOptions configure a Writer. The zero value of each field is its default: a
// queue without limit, and a peer that may take as long as it likes.
//
// A limit that ends the Writer does so with an error that wraps ErrSlowConsumer and
// says which limit it was: sends fail with it from then on, Err returns it, and the
// connection is closed.
type WriterOptions struct {
	// MaxPending bounds what is queued or being written, in bytes. Each message
	// counts 64 bytes more than it has, so that tiny ones cannot evade the limit.
	// What happens to a message that would exceed it is up to Overflow; one that
	// could never fit is refused with ErrTooLarge. 0 means no limit.
	MaxPending int

	// Overflow is what to do at MaxPending. Without MaxPending it has no effect.
	Overflow Overflow

	// MaxAge ends the Writer when its oldest pending message has waited so long, also
	// while a takeover keeps it from being written; it may take a third longer. Time in
	// which the whole process was stopped does not count. 0 means that a message may wait
	// for ever.
	//
	// A message is pending until the kernel has taken it, so MaxAge does not see what the
	// kernel holds; see "Peers that vanish" in the package documentation.
	MaxAge time.Duration

	// WriteTimeout ends the Writer when the peer has taken nothing for so long although
	// there was something to take: a write that waits, or bytes that the kernel has taken
	// and the peer's machine has not acknowledged, however few. It may take a quarter
	// longer. A peer that takes a little now and then is alive, however long the whole
	// takes, and so is one that has nothing to take. Time in which the whole process was
	// stopped does not count. 0 means that it may take for ever.
	//
	// On Linux, but not on 386 or s390x, progress is what the peer's machine acknowledges
	// over TCP or MPTCP, and what the peer reads from a Unix socket. TLS, and a wrapper with
	// a method NetConn() net.Conn, is looked through. Elsewhere progress is a Write of the
	// connection that returns, and what the kernel has taken is not seen any more. Writes
	// are kept to 4 KiB then, and to a quarter of the send buffer of a Unix socket as it is
	// when the Writer is made, though a message on a message-framed connection is not
	// divided. That is coarse where a kernel buffers beneath, which lets nothing in until
	// a good part has gone: give wrappers the method. No deadline is set.
	//
	// A TCP peer's machine acknowledges in steps of what its program reads once its buffer is
	// full: at least a segment, which over loopback is 64 KB, and about a twentieth of its
	// receive buffer, which came to 94 to 340 KB between two Linux programs. A Unix socket
	// has steps of some tens of KB. Choose a time in which the slowest peer that you want to
	// keep reads as much. On a link that loses packets TCP itself is silent for a while: at
	// 64 kbit/s, 500 ms and 5 % of loss it was 9.6 seconds at most.
	WriteTimeout time.Duration

	// CloseTimeout bounds Close: when the peer has not acknowledged everything by then,
	// the connection is closed all the same. 0 means 5 seconds.
	CloseTimeout time.Duration

	// Budget bounds the memory of what all Writers that share it have pending
	// together. Nil means no such limit.
	Budget *Budget

	// MessageFramed makes each message one Write on the connection. It is for
	// connections on which each Write is a message to the peer, such as those of
	// websocket.NetConn. On UDP, unixgram and unixpacket it goes without saying, by the
	// network of the connection's LocalAddr: a stream that is built on UDP should have an
	// address of its own.
	MessageFramed bool
}

// Overflow is what a Writer does with a message for which MaxPending leaves no room.
type Overflow uint8

const (
	// Disconnect ends the Writer: its peer is a slow consumer.
	Disconnect Overflow = iota

	// Block makes the sender wait until there is room, or the Writer ends; see
	// Writer.WriteContext. Senders that wait are served in turn. A Broker does
	// not wait: the Writer refuses its message with ErrWouldBlock.
	Block

	// DropNewest drops the message, and the sender gets ErrDropped.
	DropNewest

	// DropOldest drops the oldest messages instead, as many as it takes, but none of
	// which the connection has, or may have, a part. Those being written are a quarter of
	// MaxPending at most, or a single message of any size. If that leaves no room for the
	// new message, DropOldest acts as DropNewest.
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

// checked returns a copy of o with defaults filled in. It panics if an option makes no
// sense.
func (o *WriterOptions) checked() WriterOptions {
	var c WriterOptions
	if o != nil {
		c = *o
	}
	refuseNegative("NewWriter", "MaxPending", c.MaxPending)
	refuseNegative("NewWriter", "MaxAge", c.MaxAge)
	refuseNegative("NewWriter", "WriteTimeout", c.WriteTimeout)
	refuseNegative("NewWriter", "CloseTimeout", c.CloseTimeout)
	if c.Overflow > DropOldest {
		panic(fmt.Sprintf("sendq: NewWriter: no such Overflow: %v", c.Overflow))
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
