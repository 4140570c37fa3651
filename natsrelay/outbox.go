package natsrelay

import (
	"encoding/binary"
	"slices"
)

// With these limits NATS holds at most 4 MiB from one node to another. NATS servers slow a
// sender down at 48 MiB and give a connection up at 64 MiB.
const (
	maxPiece = 64 << 10 // bytes of items in an envelope
	window   = 64       // envelopes in transit to a node without an acknowledgement
)

// An outbox is the sending side of the stream of items from one node to another. It cuts the
// stream into numbered pieces and keeps each until the other side has acknowledged it.
type outbox struct {
	headroom  int // bytes in front of each piece, for the header
	pieceSize int // bytes of items in a piece, at most

	pieces    []*piece
	oldest    uint64 // number of pieces[0]
	next      uint64 // number of the piece to publish next
	published uint64 // highest number published so far
	messages  uint64 // all messages so far, including dropped ones
	bytes     int    // bytes in pieces
}

type piece struct {
	messagesBefore uint64 // all messages before this piece, including dropped ones
	messages       int    // messages in items that end in this piece
	continued      int    // bytes, here and in later pieces, of an item that began in an earlier one
	buf            []byte
}

func newOutbox(headroom, pieceSize int) outbox {
	return outbox{headroom: headroom, pieceSize: pieceSize, oldest: 1, next: 1}
}

// add appends an item that contains the given number of messages.
func (o *outbox) add(item []byte, messages int) {
	var prefix [binary.MaxVarintLen64]byte
	n := binary.PutUvarint(prefix[:], uint64(len(item)))
	if p := o.openPiece(); p == nil || o.free(p) < n+len(item) {
		o.addPiece(0) // an item is divided only if it is larger than a piece
	}
	o.write(prefix[:n], len(item))
	o.write(item, 0)
	o.openPiece().messages += messages
	o.messages += uint64(messages)
}

// drop counts messages that are not sent. The other side learns their number.
func (o *outbox) drop(messages int) { o.messages += uint64(messages) }

// write appends b, a part of an item, which has more bytes after b.
func (o *outbox) write(b []byte, more int) {
	o.bytes += len(b)
	p := o.openPiece()
	for len(b) > 0 {
		if o.free(p) <= 0 {
			p = o.addPiece(len(b) + more)
		}
		n := min(len(b), o.free(p))
		p.buf = append(p.buf, b[:n]...)
		b = b[n:]
	}
}

// openPiece returns the newest piece if bytes can still be added, because it was never published.
func (o *outbox) openPiece() *piece {
	if o.newest() == o.published {
		return nil
	}
	return o.pieces[len(o.pieces)-1]
}

// free returns the number of bytes that fit into p. It is not positive if pieces were larger before.
func (o *outbox) free(p *piece) int { return o.headroom + o.pieceSize - len(p.buf) }

// resize changes the size of later pieces, and reports whether no piece is larger.
func (o *outbox) resize(pieceSize int) (fits bool) {
	o.pieceSize = pieceSize
	return !slices.ContainsFunc(o.pieces, func(p *piece) bool { return o.free(p) < 0 })
}

func (o *outbox) addPiece(continued int) *piece {
	p := &piece{messagesBefore: o.messages, continued: continued, buf: make([]byte, o.headroom)}
	o.pieces = append(o.pieces, p)
	return p
}

// newest returns the number of the newest piece, or oldest-1 if there is none.
func (o *outbox) newest() uint64 { return o.oldest + uint64(len(o.pieces)) - 1 }

// peek returns the piece to publish next, or nil if there is none or the window is full.
func (o *outbox) peek() *piece {
	if o.next > o.newest() || o.next-o.oldest >= window {
		return nil
	}
	return o.pieces[o.next-o.oldest]
}

// markPublished moves on to the piece after the one returned by peek.
func (o *outbox) markPublished() {
	o.published = max(o.published, o.next)
	o.next++
}

// messagesBefore returns the number of all messages before the next piece.
func (o *outbox) messagesBefore() uint64 {
	if o.next > o.newest() {
		return o.messages
	}
	return o.pieces[o.next-o.oldest].messagesBefore
}

// acknowledge removes the pieces up to number, because the other side has them.
func (o *outbox) acknowledge(number uint64) {
	for len(o.pieces) > 0 && o.oldest <= min(number, o.published) {
		o.bytes -= len(o.pieces[0].buf) - o.headroom
		o.pieces[0] = nil
		o.pieces = o.pieces[1:]
		o.oldest++
	}
	o.next = max(o.next, o.oldest)
}

// rewind publishes again from number on, if it has been published and is still here.
func (o *outbox) rewind(number uint64) {
	if o.oldest <= number && number < o.next {
		o.next = number
	}
}

// unacknowledged returns the number of messages in all pieces.
func (o *outbox) unacknowledged() (messages int) {
	for _, p := range o.pieces {
		messages += p.messages
	}
	return messages
}

// clear removes all pieces and returns the number of messages in them.
func (o *outbox) clear() (messages int) {
	messages = o.unacknowledged()
	o.oldest = o.newest() + 1
	o.next, o.published = o.oldest, o.oldest-1
	o.pieces, o.bytes = nil, 0
	return messages
}
