package natsrelay

import (
	"bytes"
	"encoding/binary"
)

// An inbox is the receiving side of an outbox: it takes the pieces in the order of their
// numbers, puts items together again, and knows how many messages were lost for good.
type inbox struct {
	number   uint64 // everything up to this one is here, or lost for good
	messages uint64 // accounted for
	hasGap   bool   // a later one has been seen
	partial  []byte // of the items, what is not a whole one yet
}

// accept tells whether an envelope with that header is next, and how many messages, and
// whether anything at all, are known to be lost for good now.
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
		return false, 0, hasLoss // and what is older has come twice
	}
	in.number, in.hasGap = turn, false
	if h.messages > in.messages {
		missed, in.messages = h.messages-in.messages, h.messages
	}
	return true, missed, hasLoss
}

// unpack takes the piece of an envelope that is next, and calls item for every item that is
// whole now. It returns how many messages were in that item.
func (in *inbox) unpack(continued uint32, b []byte, item func([]byte) (messages int)) {
	switch {
	case continued == 0:
		in.partial = nil
	case len(in.partial) == 0: // the beginning is lost
		b = b[min(int(continued), len(b)):]
	default:
		in.partial = append(in.partial, b...)
		b = in.partial
	}
	whole := 0
	for {
		size, n := binary.Uvarint(b[whole:])
		begin := whole + n
		if n <= 0 || size > uint64(len(b)-begin) {
			break
		}
		whole = begin + int(size)
		in.messages += uint64(item(b[begin:whole:whole]))
	}
	if whole > 0 || len(in.partial) == 0 {
		in.partial = bytes.Clone(b[whole:]) // item may have kept what is before
	}
}
