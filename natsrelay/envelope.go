package natsrelay

import (
	"encoding/binary"
	"errors"
)

// A node speaks the versions of the protocol from oldest to newest. Each envelope tells them, so two
// nodes can talk if they have a version in common, and the newer node writes the older one's newest
// version. So nodes can be updated one by one, as long as each release speaks the newest version of the
// release before. The fields up to from are the same in all versions, for ever.
const (
	oldestVersion = 2
	newestVersion = 2
)

// A header begins an envelope, the unit that a node publishes. A piece of the stream of items from
// one node to another follows it. An envelope without a piece is a ping, and has the number of the
// last envelope with a piece.
//
//	1 version, 1 oldest version, 1 newest version, 1 flags, 1 length of from, from,
//	8 number, 8 oldest, 8 messages, 8 received, 4 continued    big endian
type header struct {
	version  byte    // of this envelope
	versions [2]byte // oldest and newest that the sender speaks
	flags    byte
	from     string

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

	signals = flagBeat | flagProbe // an envelope with one of them consists of flags
)

const maxNode = 64 // bytes in the id of a node

// headerSize returns the size of a header with n bytes in from.
func headerSize(n int) int { return prefixSize + n + 4*8 + 4 }

const prefixSize = 5 // bytes before from

// put writes h to the front of b. It sets the versions.
func (h *header) put(b []byte) {
	b[0], b[1], b[2], b[3], b[4] = newestVersion, oldestVersion, newestVersion, h.flags, byte(len(h.from))
	b = b[prefixSize+copy(b[prefixSize:], h.from):]
	for _, n := range [...]uint64{h.number, h.oldest, h.messages, h.received} {
		binary.BigEndian.PutUint64(b, n)
		b = b[8:]
	}
	binary.BigEndian.PutUint32(b, h.continued)
}

var (
	errMalformed = errors.New("natsrelay: malformed envelope")
	errVersion   = errors.New("natsrelay: node speaks other versions of the protocol")
)

// parseEnvelope returns the header of b and the piece after it, which shares memory with b. If the
// sender has no version in common with this node, it returns errVersion with the fields up to from.
func parseEnvelope(b []byte) (h header, piece []byte, err error) {
	if len(b) < prefixSize || len(b) < prefixSize+int(b[4]) {
		return h, nil, errMalformed
	}
	from := prefixSize + int(b[4])
	h.version, h.versions, h.flags, h.from = b[0], [2]byte{b[1], b[2]}, b[3], string(b[prefixSize:from])
	switch {
	case !validToken(h.from, maxNode):
		return h, nil, errMalformed
	case h.versions[0] > newestVersion || h.versions[1] < oldestVersion:
		return h, nil, errVersion
	case h.flags&signals != 0:
		return h, nil, nil
	case h.version < oldestVersion || h.version > newestVersion || len(b) < headerSize(int(b[4])):
		return h, nil, errMalformed
	}
	b = b[from:]
	for _, n := range [...]*uint64{&h.number, &h.oldest, &h.messages, &h.received} {
		*n = binary.BigEndian.Uint64(b)
		b = b[8:]
	}
	h.continued = binary.BigEndian.Uint32(b)
	if h.oldest == 0 {
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
