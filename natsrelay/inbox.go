package natsrelay

import (
	"bytes"
	"encoding/binary"
)

// An inbox is the receiving side of an outbox. It accepts pieces in the order of their numbers,
// joins divided items, and counts the messages that are lost for good.
type inbox struct {
	number   uint64 // every piece up to this one has arrived or is lost for good
	messages uint64 // all messages so far, including lost ones
	hasGap   bool   // a piece after the next one has arrived
	partial  []byte // beginning of an item that is not complete
}

// accept reports whether an envelope is the next one. missed is the number of messages before it
// that turn out to be lost for good or dropped by the sender. hasLoss reports whether pieces are
// lost, with or without messages.
func (in *inbox) accept(h *header, isPing bool) (isNext bool, missed uint64, hasLoss bool) {
	if h.oldest > in.number+1 {
		in.number, in.partial, hasLoss = h.oldest-1, nil, true
	}
	turn := in.number
	if !isPing {
		turn++
	}
	if h.number != turn {
		in.hasGap = in.hasGap || h.number > turn
		return false, 0, hasLoss // an older envelope is a duplicate
	}
	in.number, in.hasGap = turn, false
	if h.messages > in.messages {
		missed, in.messages = h.messages-in.messages, h.messages
	}
	return true, missed, hasLoss
}

// maxItem is the size of an item, at most. It is far above that of any message, and leaves room for a
// snapshot with some million names.
const maxItem = 256 << 20

// unpack calls item for each item that piece b of the next envelope completes. item returns the
// number of messages in it. unpack returns false if an item is too large. Then what follows it in the
// piece is lost.
func (in *inbox) unpack(continued uint32, b []byte, item func([]byte) (messages int)) (isValid bool) {
	switch {
	case continued == 0:
		in.partial = nil
	case len(in.partial) == 0: // the beginning of the item is lost
		b = b[min(int(continued), len(b)):]
	default:
		in.partial = append(in.partial, b...)
		b = in.partial
	}
	whole := 0
	for {
		size, n := binary.Uvarint(b[whole:])
		if n < 0 || size > maxItem {
			in.partial = nil
			return false
		}
		begin := whole + n
		if n == 0 || size > uint64(len(b)-begin) {
			break
		}
		whole = begin + int(size)
		in.messages += uint64(item(b[begin:whole:whole]))
	}
	if whole > 0 || len(in.partial) == 0 {
		in.partial = bytes.Clone(b[whole:]) // a copy, because item may have kept the bytes before
	}
	return true
}
