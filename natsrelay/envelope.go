package natsrelay

import (
	"encoding/binary"
	"errors"
)

// version is the first byte of every envelope. Envelopes of another version are malformed.
const version = 2

// A header begins an envelope, the unit that a node publishes. A piece of the stream of items from
// one node to another follows it. An envelope without a piece is a ping, and has the number of the
// last envelope with a piece.
//
//	1 version, 1 flags, 1 length of from, from,
//	8 number, 8 oldest, 8 messages, 8 received, 4 continued    big endian
type header struct {
	flags byte
	from  string

	number    uint64 // of this envelope; the first has 1
	oldest    uint64 // lowest number that can be sent again; earlier ones were received or are lost
	messages  uint64 // all messages of the sender before this piece, including dropped ones
	received  uint64 // number up to which the sender has received, or given up, every envelope
	continued uint32 // bytes, here and in later pieces, of an item that began in an earlier one
}

const (
	flagNeedsSnapshot byte = 1 << iota // the sender has no snapshot of the receiver
	flagResend                         // the sender has seen a gap; send again from received + 1 on
	flagBeat                           // a heartbeat to all nodes; only from has a meaning
	flagProbe                          // from the receiver itself; only from has a meaning
)

const maxNode = 64 // bytes in the id of a node

// headerSize returns the size of a header with n bytes in from.
func headerSize(n int) int { return 3 + n + 4*8 + 4 }

// put writes h to the front of b.
func (h *header) put(b []byte) {
	b[0], b[1], b[2] = version, h.flags, byte(len(h.from))
	b = b[3+copy(b[3:], h.from):]
	for _, n := range [...]uint64{h.number, h.oldest, h.messages, h.received} {
		binary.BigEndian.PutUint64(b, n)
		b = b[8:]
	}
	binary.BigEndian.PutUint32(b, h.continued)
}

var errMalformed = errors.New("natsrelay: malformed envelope")

// parseEnvelope returns the header of b and the piece after it, which shares memory with b.
func parseEnvelope(b []byte) (h header, piece []byte, err error) {
	if len(b) < 3 || b[0] != version || len(b) < headerSize(int(b[2])) {
		return h, nil, errMalformed
	}
	from := int(b[2])
	h.flags, h.from = b[1], string(b[3:3+from])
	b = b[3+from:]
	for _, n := range [...]*uint64{&h.number, &h.oldest, &h.messages, &h.received} {
		*n = binary.BigEndian.Uint64(b)
		b = b[8:]
	}
	h.continued = binary.BigEndian.Uint32(b)
	if !validToken(h.from, maxNode) || h.flags&(flagBeat|flagProbe) == 0 && h.oldest == 0 {
		return h, nil, errMalformed
	}
	return h, b[4:], nil
}

// validToken reports whether s can be part of a subject and the name of a bucket.
func validToken(s string, longest int) bool {
	for _, c := range []byte(s) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
		default:
			return false
		}
	}
	return 0 < len(s) && len(s) <= longest
}
