package natsrelay

import (
	"encoding/binary"
	"errors"
	"math"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/relay"
)

// Each item of a stream begins with its kind.
const (
	itemPost     byte = iota + 1 // messages for recipients at the receiver
	itemOutcome                  // the outcome of a post
	itemEvents                   // events at the sender
	itemSnapshot                 // how often the sender has given the receiver up; its names and rooms, which replace all earlier events
	itemEvict                    // request: give up a name, because the sender takes it over
	itemHandover                 // the response: the name's undelivered messages and rooms
	itemReplay                   // request: the history of a room
	itemHistory                  // the response
	itemPassed                   // the receiver owns the entry of a name, which the sender has given up
	itemBye                      // the last item
)

// A parser reads the fields of an item. If one is malformed, the parser sets bad and returns zero
// values from then on.
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

// kind returns a byte of at most last.
func (p *parser) kind(last byte) byte {
	k := p.uint()
	if k > uint64(last) {
		p.fail()
		return 0
	}
	return byte(k)
}

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

// list reads a number of elements and then the elements.
func list[T any](p *parser, element func() T) []T { return listOf(p, 1, element) }

// listOf is list for elements of at least size bytes. So a list takes memory in proportion to what has
// arrived.
func listOf[T any](p *parser, size uint64, element func() T) []T {
	n := p.uint()
	if n > uint64(len(p.b))/size {
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

func appendDelivery(b []byte, d relay.Delivery) []byte {
	b = append(b, byte(d.To.Kind))
	b = appendBytes(b, d.To.Name)
	b = appendBool(b, d.To.Except)
	b = appendBytes(b, d.To.Sender)
	b = appendUint(appendUint(b, d.Number), d.CatchUp)
	b = appendBool(b, d.HasGap)
	return appendList(b, d.Messages, appendBytes)
}

func (p *parser) delivery() (d relay.Delivery) {
	d.To.Kind = relay.TargetKind(p.kind(byte(relay.TargetAll)))
	d.To.Name = p.string()
	d.To.Except = p.bool()
	d.To.Sender = p.string()
	d.Number, d.CatchUp = p.uint(), p.uint()
	d.HasGap = p.bool()
	d.Messages = list(p, p.bytes)
	return d
}

// minEvent is the size of the shortest event.
const minEvent = 8

func appendEvent(b []byte, e relay.Event) []byte {
	b = append(b, byte(e.Kind))
	b = appendUint(appendBytes(b, e.Name), e.Token)
	b = appendBytes(b, e.Room)
	b = appendBytes(b, e.To)
	b = appendUint(appendHeard(b, e.Heard), e.Since)
	return appendError(b, e.Cause)
}

func (p *parser) event() (e relay.Event) {
	e.Kind = relay.EventKind(p.kind(byte(relay.EventBack)))
	e.Name, e.Token = p.string(), p.uint()
	e.Room = p.string()
	e.To = p.string()
	e.Heard, e.Since = p.heard(), p.uint()
	e.Cause = p.error()
	return e
}

// appendHeard appends 0 if heard is nil, and otherwise 1 more than its length and its elements.
func appendHeard(b []byte, heard map[string]uint64) []byte {
	if heard == nil {
		return append(b, 0)
	}
	b = appendUint(b, len(heard)+1)
	for node, number := range heard {
		b = appendUint(appendBytes(b, node), number)
	}
	return b
}

func (p *parser) heard() map[string]uint64 {
	n := p.uint()
	if n == 0 {
		return nil
	}
	if n-1 > uint64(len(p.b))/2 {
		p.fail()
		return nil
	}
	heard := make(map[string]uint64)
	for range n - 1 {
		node := p.string()
		heard[node] = p.uint()
	}
	return heard
}

func (p *parser) events() []relay.Event { return listOf(p, minEvent, p.event) }

// sentinels are the errors that errors.Is finds in an error of another node. The protocol fixes
// their order.
var sentinels = []error{
	sendq.ErrClosed, sendq.ErrSlowConsumer, sendq.ErrDropped, sendq.ErrWouldBlock, sendq.ErrTooLarge,
	sendq.ErrTakenOver, sendq.ErrNameTaken, sendq.ErrUnknownName, sendq.ErrUnconfirmed, sendq.ErrNameLost,
}

// A remoteError is an error of another node.
type remoteError struct {
	text string
	is   []error
}

func (e *remoteError) Error() string { return e.text }

func (e *remoteError) Unwrap() []error { return e.is }

// appendError appends a bit set of the sentinels that err wraps, then the text of err. It appends 0
// if err is nil.
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
