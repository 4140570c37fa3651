package natsrelay

import "encoding/binary"

// maxPiece is how many bytes of items an envelope has at most, and window how many envelopes
// may be on the way to a node before it has said that it has them. So NATS never has more
// than 4 MiB of one node for another, far from where its servers slow senders down (48 MiB)
// or give a connection up (64 MiB).
const (
	maxPiece = 64 << 10
	window   = 64
)

// An outbox is the sending side of the stream of items from one node to another. It cuts the
// stream into numbered pieces, and keeps each until the other side has said that it has it.
type outbox struct {
	headroom, pieceSize int // for the header in front of a piece, and for the piece

	pieces    []*piece
	oldest    uint64 // the number of pieces[0]
	next      uint64 // the number of the piece to be published next
	published uint64 // the highest number that has been published
	messages  uint64 // so far, those that were omitted among them
	bytes     int    // in pieces
}

type piece struct {
	messagesBefore uint64 // messages that are accounted for in front of it
	messages       int    // in items that end in it
	continued      int    // so many bytes, here and later, belong to an item that began earlier
	buf            []byte
}

func newOutbox(headroom, pieceSize int) outbox {
	return outbox{headroom: headroom, pieceSize: pieceSize, oldest: 1, next: 1}
}

// add appends an item that has so many messages in it.
func (o *outbox) add(item []byte, messages int) {
	var prefix [binary.MaxVarintLen64]byte
	n := binary.PutUvarint(prefix[:], uint64(len(item)))
	if p := o.openPiece(); p == nil || o.free(p) < n+len(item) {
		o.addPiece(0) // an item begins in a piece of its own rather than be torn
	}
	o.write(prefix[:n], len(item))
	o.write(item, 0)
	o.openPiece().messages += messages
	o.messages += uint64(messages)
}

// omit accounts for messages that are not sent. The other side sees how many.
func (o *outbox) drop(messages int) { o.messages += uint64(messages) }

// write appends bytes of an item of which so many follow behind them.
func (o *outbox) write(b []byte, follow int) {
	o.bytes += len(b)
	p := o.openPiece()
	for len(b) > 0 {
		if o.free(p) == 0 {
			p = o.addPiece(len(b) + follow)
		}
		n := min(len(b), o.free(p))
		p.buf = append(p.buf, b[:n]...)
		b = b[n:]
	}
}

// openPiece returns the piece to which bytes can be added: the last, if nobody has seen it yet.
func (o *outbox) openPiece() *piece {
	if o.newest() == o.published {
		return nil
	}
	return o.pieces[len(o.pieces)-1]
}

func (o *outbox) free(p *piece) int { return o.headroom + o.pieceSize - len(p.buf) }

func (o *outbox) addPiece(continued int) *piece {
	p := &piece{messagesBefore: o.messages, continued: continued, buf: make([]byte, o.headroom)}
	o.pieces = append(o.pieces, p)
	return p
}

// newest returns the number of the newest piece, which is oldest-1 if there is none.
func (o *outbox) newest() uint64 { return o.oldest + uint64(len(o.pieces)) - 1 }

// peek returns the piece that is to be published next, if there is one and the window has
// room.
func (o *outbox) peek() *piece {
	if o.next > o.newest() || o.next-o.oldest >= window {
		return nil
	}
	return o.pieces[o.next-o.oldest]
}

// markPublished says that the piece that peek returns is being published.
func (o *outbox) markPublished() {
	o.published = max(o.published, o.next)
	o.next++
}

// messagesBefore returns how many messages are accounted for in front of the next piece.
func (o *outbox) messagesBefore() uint64 {
	if o.next > o.newest() {
		return o.messages
	}
	return o.pieces[o.next-o.oldest].messagesBefore
}

// acknowledge forgets the pieces up to number: the other side has them.
func (o *outbox) acknowledge(number uint64) {
	for len(o.pieces) > 0 && o.oldest <= min(number, o.published) {
		o.bytes -= len(o.pieces[0].buf) - o.headroom
		o.pieces[0] = nil
		o.pieces = o.pieces[1:]
		o.oldest++
	}
	o.next = max(o.next, o.oldest)
}

// rewind makes number the next one, if it has been published and can be again.
func (o *outbox) rewind(number uint64) {
	if o.oldest <= number && number < o.next {
		o.next = number
	}
}

// unacknowledged returns how many messages the other side is not known to have.
func (o *outbox) unacknowledged() (messages int) {
	for _, p := range o.pieces {
		messages += p.messages
	}
	return messages
}

// clear gives up all pieces, and returns how many messages were in them.
func (o *outbox) clear() (messages int) {
	messages = o.unacknowledged()
	o.oldest = o.newest() + 1
	o.next, o.published = o.oldest, o.oldest-1
	o.pieces, o.bytes = nil, 0
	return messages
}
