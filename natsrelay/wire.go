package natsrelay

import (
	"encoding/binary"
	"errors"
	"math"

	"github.com/sendq-go/sendq"
)

// The items of a stream. Each begins with its kind.
const (
	itemPost     byte = iota + 1 // messages for the receiver's names
	itemOutcome                  // what became of a post
	itemEvents                   // what has happened to names of the sender
	itemSnapshot                 // how things are at the sender: the receiver knows nothing else of it
	itemEvict                    // a question: what has a name left, that the sender takes over
	itemHandover                 // the answer to that
	itemReplay                   // a question: what does a room keep
	itemHistory                  // the answer to that
	itemBye                      // the last one
)

// A parser takes an item apart. When something does not fit, bad is set, and all that
// follows is zero.
type parser struct {
	b   []byte
	bad bool
}

func (p *parser) fail() { p.b, p.bad = nil, true }

func (p *parser) uint() uint64 {
	v, n := binary.Uvarint(p.b)
	if n <= 0 {
		p.fail()
		return 0
	}
	p.b = p.b[n:]
	return v
}

func (p *parser) int() int { return int(min(p.uint(), math.MaxInt32)) }

func (p *parser) byte() byte { return byte(p.uint()) }

func (p *parser) bool() bool { return p.uint() != 0 }

func (p *parser) string() string { return string(p.bytes()) }

func (p *parser) bytes() []byte {
	n := p.uint()
	if n > uint64(len(p.b)) {
		p.fail()
		return nil
	}
	b := p.b[:n:n]
	p.b = p.b[n:]
	return b
}

// list returns elements, behind their number.
func list[T any](p *parser, element func() T) []T {
	n := p.uint()
	if n > uint64(len(p.b)) { // each has a byte at least
		p.fail()
		return nil
	}
	l := make([]T, n)
	for i := range l {
		l[i] = element()
	}
	return l
}

func appendUint[T byte | int | uint64](b []byte, v T) []byte {
	return binary.AppendUvarint(b, uint64(v))
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

func appendBytes[T string | []byte](b []byte, p T) []byte {
	return append(appendUint(b, len(p)), p...)
}

func appendList[T any](b []byte, l []T, element func([]byte, T) []byte) []byte {
	b = appendUint(b, len(l))
	for _, v := range l {
		b = element(b, v)
	}
	return b
}

func appendDelivery(b []byte, d sendq.Delivery) []byte {
	b = append(b, byte(d.To.Kind))
	b = appendBytes(b, d.To.Name)
	b = appendBool(b, d.To.Except)
	b = appendBytes(b, d.To.Sender)
	return appendList(b, d.Messages, appendBytes)
}

func (p *parser) delivery() (d sendq.Delivery) {
	d.To.Kind = sendq.AddressKind(p.byte())
	d.To.Name = p.string()
	d.To.Except = p.bool()
	d.To.Sender = p.string()
	d.Messages = list(p, p.bytes)
	return d
}

func appendEvent(b []byte, e sendq.Event) []byte {
	b = append(b, byte(e.Kind))
	b = appendBytes(b, e.Name)
	b = appendBytes(b, e.Room)
	b = appendBytes(b, e.Node)
	return appendError(b, e.Cause)
}

func (p *parser) event() (e sendq.Event) {
	e.Kind = sendq.EventKind(p.byte())
	e.Name = p.string()
	e.Room = p.string()
	e.Node = p.string()
	e.Cause = p.error()
	return e
}

// sentinels are what errors.Is finds in the error of another node. Their places are part of
// the protocol.
var sentinels = []error{
	sendq.ErrClosed, sendq.ErrSlowConsumer, sendq.ErrDropped, sendq.ErrWouldBlock, sendq.ErrTooLarge,
	sendq.ErrTakenOver, sendq.ErrNameTaken, sendq.ErrUnknownName, sendq.ErrUnconfirmed, sendq.ErrNameLost,
}

// A remoteError is the error of another node.
type remoteError struct {
	text string
	is   []error
}

func (e *remoteError) Error() string { return e.text }

func (e *remoteError) Unwrap() []error { return e.is }

// appendError appends which errors err is, and its text; or 0 if it is nil.
func appendError(b []byte, err error) []byte {
	if err == nil {
		return append(b, 0)
	}
	is := uint64(1)
	for i, s := range sentinels {
		if errors.Is(err, s) {
			is |= 2 << i
		}
	}
	return appendBytes(appendUint(b, is), err.Error())
}

func (p *parser) error() error {
	is := p.uint()
	if is == 0 {
		return nil
	}
	e := &remoteError{text: p.string()}
	for i, s := range sentinels {
		if is&(2<<i) != 0 {
			e.is = append(e.is, s)
		}
	}
	return e
}
