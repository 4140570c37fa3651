// Package relay defines the interface of a transport. A transport connects the Brokers of several
// processes, so that they share their names and rooms. Most code uses package sendq and a
// transport such as natsrelay; only the author of a transport needs this package.
//
// A process in a cluster is called a node. A Broker calls the methods of its [Transport], and
// the transport calls the methods of the Broker's [Node]. The transport carries messages and
// events and keeps the registry of names. Everything else is up to the Broker: where a message
// goes, and what other nodes hear about a name.
//
// # What a transport guarantees
//
//   - Order. Posts and announcements of one node arrive at another node in the order of the
//     calls. For each sending node, the transport makes one call of Node at a time, in that
//     order.
//   - No silent loss. The transport numbers its messages. If it loses some, it calls
//     [Node.MessagesLost] at the receiver. If it loses events, it calls [Node.Apply] with a
//     new snapshot before any later event.
//   - Unique names. While the nodes can reach each other, [Transport.Claim] gives a name to one
//     node at a time. If a name has two owners after a partition, the transport calls
//     [Node.NameLost] on one of them.
//   - Growing tokens. Each grant of a name has a token, greater than the tokens of all earlier
//     grants of the name. A word about a name carries the token of its grant, so a late word
//     never overrules a newer one.
//   - Timeouts. Every Claim, every Replay and every outcome of a Post ends within a timeout of
//     the transport, even if no other node answers.
//   - Safe takeovers. A name is granted to its new owner first, and taken away from the old one
//     only while that grant is in force. The result of [Node.Evict] reaches the new owner, or
//     goes back to [Node.HandBack], once.
//
// An error that crosses the network keeps its text, and errors.Is finds the same sendq errors
// in it as before. Nothing else about it matters.
package relay

import (
	"context"
	"fmt"
)

// A Transport connects the Broker of one process to those of other processes. It belongs to
// one Broker, as BrokerOptions.Relay.
//
// Any goroutine may call any method at any time. The Broker holds locks during Release, Announce
// and Post, so they must not wait and must not call a method of Node. After the call of Close,
// Claim and Replay fail, even calls under way; the outcome of a Post is an error; Release and
// Announce do nothing.
type Transport interface {
	// Start gives the transport its Node and returns the name of this process in the
	// cluster. The name is unique and not empty. NewBroker calls Start once, before all other
	// methods. The transport calls methods of node from then on, but Start must not wait
	// for one of them.
	Start(node Node) (name string)

	// Claim makes this node the owner of name. It waits for other nodes until ctx is done or
	// the transport's own timeout is exceeded. If ctx is done, the error wraps
	// context.Cause(ctx).
	//
	// If another node owns the name, Claim fails with sendq.ErrNameTaken. With takeover it
	// first makes this node the owner, then takes the name away from the old one, by
	// Node.Evict, and returns the Handover.
	//
	// Claim returns the token of the grant. If Claim fails, this node does not own the name. The
	// old owner owns it again, unless it has given the name up. The token is that of the grant
	// that failed, or 0 if there was none.
	//
	// The Broker makes one claim of a name at a time, and none while it owns the name. A claim may
	// follow a Release of the same name at once.
	Claim(ctx context.Context, name string, takeover bool) (token uint64, h Handover, err error)

	// Release gives up a claimed name, because no Writer here has it any longer. The name is
	// free then, unless another node owns it by now. Release is also called during Node.Evict
	// and Node.NameLost, before they return.
	Release(name string)

	// Announce sends events about a name of this node to all other nodes, by Node.Apply. One
	// call of Announce becomes one call of Apply. The transport may keep the slice.
	Announce(events []Event)

	// Post sends messages to another node, by Node.Deliver. It copies what it keeps.
	//
	// If outcome is not nil, it is called once, within the transport's timeout: with the
	// result of Deliver, or with an error. The error is sendq.ErrUnconfirmed if the other
	// node may have accepted something. If outcome is nil, the transport counts the messages
	// it cannot send.
	//
	// An outcome keeps its place among the events of the other node: it is called after
	// Node.Apply has returned for everything announced there before.
	Post(node string, d Delivery, outcome func(Outcome))

	// Replay returns the last messages that a room keeps on another node, at most n, by
	// Node.Replay. n is at least 1. Replay waits for the other node until ctx is done or the
	// transport's own timeout is exceeded.
	Replay(ctx context.Context, node, room string, n int) ([][]byte, error)

	// Close sends everything posted and announced before, gives up all names and leaves the
	// cluster. It stops when ctx is done, which may be from the start. The rest is lost
	// then, and the error says how much. Close is called once, after all Writers with names
	// have ended.
	Close(ctx context.Context) error
}

// A Node is the side of a Broker that its transport calls. Any goroutine may call any method.
// Evict and Replay may wait. The other methods queue messages and take locks for a short time.
type Node interface {
	// Deliver queues messages of another node for recipients here and returns one Outcome
	// for each Delivery. Outcomes of deliveries to a room or to all are empty.
	//
	// A transport should deliver messages together if they arrive together: each recipient
	// is woken once, and deliveries in a row to the same room are one pass over its members.
	// The messages may be reused when Deliver returns.
	Deliver(node string, ds []Delivery) []Outcome

	// Apply applies the announcements of another node. If snapshot is true, events is the
	// result of Snapshot on that node, and everything it has announced before is void.
	Apply(node string, events []Event, snapshot bool)

	// Snapshot calls f with everything other nodes should know about this one. Later events
	// are announced after f has returned, so nothing is missed in between. Locks are held
	// during f, so f must not wait and must not call a method of Node.
	Snapshot(f func(events []Event))

	// NodeGone reports that a node has left or is unreachable. All its names leave with that
	// cause. The cause may be nil.
	NodeGone(node string, cause error)

	// MessagesLost reports that n messages from another node were lost in transit, or that
	// an unknown number was not sent if n is negative, because the other node could not reach
	// this one for a time. The Broker emits a sendq.EventGap.
	MessagesLost(node string, n int)

	// NameLost reports that another node owns a name of this one, as can happen after a
	// partition. The Writer of the name, if any, ends with sendq.ErrNameLost.
	NameLost(name string)

	// Evict takes name away from its Writer, because the node by has been granted it with that
	// token. Evict waits until the Writer has ended with sendq.ErrTakenOver and returns the
	// Handover. It returns false if no Writer here has the name with an older token.
	//
	// If name is being registered here, Evict first waits for that, so the Handover includes
	// what the registration brings from earlier owners. When ctx is done it gives up and
	// returns false. The transport must end ctx when this node is granted the name with a
	// newer token, because that claim waits for the node by.
	Evict(ctx context.Context, name, by string, token uint64) (Handover, bool)

	// HandBack passes the undelivered messages of a Handover to BrokerOptions.OnUndelivered
	// with sendq.ErrTakenOver, because they did not reach the node that takes the name over.
	HandBack(name string, undelivered [][]byte)

	// Replay returns the last messages that a room keeps here, at most n, and none if n is
	// negative. It waits for messages that are being published to the room.
	Replay(room string, n int) [][]byte
}

// A Delivery holds messages from one node to another.
type Delivery struct {
	To       Target
	Messages [][]byte // at least one, unless it is a CatchUp

	// Number is the number of the fan-out, if To is a room or all, and otherwise 0. The fan-outs of
	// a node have increasing numbers.
	Number uint64

	// CatchUp is not 0 if Messages are what a name that has moved has missed of the fan-outs up to
	// Number. It is the token of the grant to the receiving node. HasGap says that the name may have
	// missed more.
	CatchUp uint64
	HasGap  bool
}

// A Target identifies recipients on the receiving node: a name, the members of a room, or all
// names.
type Target struct {
	Kind   TargetKind
	Name   string // of the recipient or the room
	Except bool   // leave out Sender; only for a room and for all
	Sender string
}

// A TargetKind is the kind of a Target.
type TargetKind uint8

// The kinds of targets.
const (
	TargetName TargetKind = iota
	TargetRoom
	TargetAll
)

// An Outcome is the result of a Delivery to a name. If a message was not accepted, Err says why.
type Outcome struct {
	Accepted int // messages
	Err      error
}

// A Handover holds what a name brings along in a takeover by another node.
type Handover struct {
	// Undelivered is what was accepted and not written, behind the last Kept messages that were
	// written and kept. The new Writer writes these messages first, and of the kept ones those
	// that a peer has not received when it resumes its connection.
	Undelivered [][]byte
	Kept        int

	// Written is how many messages were written, as the peer counts. The peer may have counted up
	// to Most, because more may have arrived: the next ones of Undelivered, unless Apart says that
	// it was something else. If HasCount is false, all that is unknown, because no Writer gave the
	// name up.
	Written, Most int64
	Apart         bool
	HasCount      bool

	// Missed is how many messages were gone when the peer resumed its connection last, or -1 if
	// that was unknown. It had received ResumedAt messages then. With no more it may not know yet.
	ResumedAt, Missed int64

	Rooms []string // the name stays a member of them

	// Heard holds the number of the last fan-out of each node that the name may have got. Since is
	// the token of the grant since which the name only moves.
	Heard map[string]uint64
	Since uint64
}

// An Event is a change of a name on the announcing node.
type Event struct {
	Kind EventKind
	Name string

	// Token is the token of the grant of EventJoined and EventLeft, and of the grant to To of
	// EventMoved.
	Token uint64

	// Room is the room of EventRoomJoined and EventRoomLeft.
	Room string

	// To is the node of EventMoved.
	To string

	// Heard is not nil if the name of an EventJoined has moved, and has not been caught up by all
	// nodes yet. It holds the number of the last fan-out of each node that the name may have got.
	// Since is the token of the grant since which the name only moves. Fan-outs of a node that knows
	// of no such grant were not for the name.
	Heard map[string]uint64
	Since uint64

	// Cause is the cause of EventLeft and EventAway, for observers of a Broker. It may be nil.
	Cause error
}

// An EventKind is the kind of an Event.
type EventKind uint8

const (
	// EventJoined announces that a Writer has the name, in no room yet.
	EventJoined EventKind = iota

	// EventLeft announces that no Writer has the name, so it is in no room either. It also
	// announces that a claim has failed, so the name does not arrive here.
	EventLeft

	// EventRoomJoined announces that the name is a member of Room.
	EventRoomJoined

	// EventRoomLeft announces that the name is no longer a member of Room.
	EventRoomLeft

	// EventMoved announces that the name has left, because the node To takes it over with its
	// rooms.
	EventMoved

	// EventAway announces that the Writer of the name has failed, and the name waits for its peer
	// to come back.
	EventAway

	// EventBack announces that a name that was away has a Writer again.
	EventBack
)

func (k EventKind) String() string {
	if k <= EventBack {
		return [...]string{"Joined", "Left", "RoomJoined", "RoomLeft", "Moved", "Away", "Back"}[k]
	}
	return fmt.Sprintf("EventKind(%d)", uint8(k))
}
