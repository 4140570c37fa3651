package sendq

import "context"

// A Relay connects the Brokers of several processes, which are called nodes, so that
// their names and rooms are one. It carries messages and knows no rules: which node has
// a recipient, who is told of what and in which order is the Broker's affair. A Relay
// belongs to one Broker, which gets it by BrokerOptions. Users need none of its methods.
//
// What one node posts and tells another arrives there in the order of the calls, or is lost
// and then reported by Node.Missed: a Relay numbers what it carries.
//
// The methods may be called from any goroutine, and by several at once. Tell, Release and
// Post must not wait, and must not call a method of Node, for they are called with locks
// held. From Close on, Claim and Replay fail, also those that wait, the outcome of Post is an
// error, and Release and Tell do nothing.
type Relay interface {
	// Start is called by NewBroker, once and before all others. The Relay calls the methods
	// of node from then on, but Start must not wait for one. It returns the name of this
	// node, which no other has and which is not empty.
	Start(node *Node) (name string)

	// Claim makes a name this node's own, before Register gives it to a Writer. It waits
	// for the answer of others, within a bound of its own. If another node has the name,
	// Claim fails with ErrNameTaken; but with takeover that node gives it up, by
	// Node.Evict, and Claim returns what it has left. If Claim fails, the name is not
	// this node's own.
	//
	// The Broker claims a name once at a time, and not while it has it; but it may
	// have released it just before.
	Claim(name string, takeover bool) (Estate, error)

	// Release says that no Writer here has the name any more that Claim has made this node's
	// own, for whatever reason: also when Node.Evict or Node.Lose has taken it away, before
	// these return. It is free then, unless another node has it by now.
	Release(name string)

	// Tell tells all other nodes, by Node.Learn, what has happened to a name of this one.
	// The events belong together, in one call of Learn. Tell may keep them.
	Tell(events []Event)

	// Post sends messages to another node, by Node.Deliver, and copies what it keeps. If
	// outcome is not nil it is called once, soon or within a bound, with what Deliver has
	// returned, or with an error that says why that is not known: ErrUnconfirmed if
	// something may have been accepted. What comes of a Post without outcome, if it
	// cannot be sent, the Relay counts.
	//
	// An outcome comes in turn with what the other node tells: when it is called, Node.Learn
	// has been called for all that was told there before.
	Post(node string, d Delivery, outcome func(Outcome))

	// Replay fetches, by Node.Replay, the last messages that a room keeps on another node, at
	// most the given number of messages, which is at least 1. It waits, within a bound.
	Replay(node, room string, messages int) ([][]byte, error)

	// Close sends what was posted and told, gives up all names and leaves the other nodes,
	// within the bound of ctx, which may be over from the start. What could not be sent by
	// then is lost, and the error says how much. It is called once, when all Writers with
	// names have ended.
	Close(ctx context.Context) error
}

// A Delivery is messages that one node sends another.
type Delivery struct {
	To       Address
	Messages [][]byte // at least one
}

// An Address is for whom messages are: the Writer that has a name, the members of a room, or
// all, on the node to which they are sent.
type Address struct {
	Kind   AddressKind
	Name   string // of the recipient, or of the room
	Except bool   // with ToRoom and ToAll: Sender does not get it
	Sender string
}

// An AddressKind says what an Address means.
type AddressKind uint8

const (
	ToName AddressKind = iota
	ToRoom
	ToAll
)

// An Outcome is what became of a Delivery to a name: how many of the messages were accepted,
// and if not all, why one was not. Of an error that comes from another node only the text
// matters, and that errors.Is finds the errors of this package in it.
type Outcome struct {
	Accepted int
	Err      error
}

// An Estate is what a name leaves when another node takes it over.
type Estate struct {
	Undelivered [][]byte // accepted, and not written: the new Writer writes them first
	Rooms       []string // the name stays a member
}

// A Node is the side of a Broker that its Relay talks to. Its methods may be called from
// any goroutine. They only queue messages and take locks for a short time, but for Evict
// and Replay, which may wait.
//
// What comes from one node must be handed on by one call after the other, in the order in
// which it was sent.
type Node struct{ broker *Broker }

// Deliver queues messages that another node has posted, for those who are here, and returns
// what became of each Delivery to a name; the other Outcomes are empty. What came together
// should be delivered together: each recipient is woken once, and those in a row to a room are
// one pass over its members. The messages may be reused when Deliver returns.
func (n *Node) Deliver(ds []Delivery) []Outcome { return n.broker.handOver(ds) }

// Learn says what another node has told: events in which Node is empty, unless
// the name has left because that node has taken it over. If snapshot is true, they are
// all that there is to know of the node, as its Node.Snapshot has it, and what was known
// before is void. Of the causes in them the same matters as of the error in an Outcome.
func (n *Node) Learn(node string, events []Event, snapshot bool) {
	n.broker.learn(node, events, snapshot)
}

// Forget says that a node is not there any more, or that nobody knows: all its names leave,
// with that cause.
func (n *Node) Forget(node string, cause error) { n.broker.forget(node, cause) }

// Snapshot calls f with all that another node should know of this one. What happens later
// is told by Relay.Tell after f has returned, so that nothing is missed in between. f must
// not wait, as Tell must not.
func (n *Node) Snapshot(f func(events []Event)) { n.broker.snapshotFor(f) }

// Missed says that messages which another node has posted to this one were lost on the way.
// Broker.Events tells that as a Gap.
func (n *Node) Missed(node string, messages int) { n.broker.missed(node, messages) }

// Evict takes a name away from its Writer, for the node that is called by takes it over: the
// Writer ends with ErrTakenOver. Evict waits until it has ended and returns what it leaves,
// or false if no Writer here has the name. If that cannot be handed to the Claim that waits for
// it on the other node, HandBack must get it.
//
// If the name is being registered here, Evict waits until that is done. So it must be asked of
// the node that has the name, which waits for no other, and not of one that claims it too:
// each could wait for the other.
func (n *Node) Evict(name, by string) (e Estate, ok bool) { return n.broker.evict(name, by) }

// HandBack hands messages that Evict has returned to BrokerOptions.OnUndelivered, with
// ErrTakenOver as the cause, for the node that has taken the name over did not get them.
func (n *Node) HandBack(name string, undelivered [][]byte) {
	n.broker.mu.Lock()
	defer n.broker.mu.Unlock()
	n.broker.handBackEstate(name, undelivered)
}

// Lose says that a name is another node's although it was this one's, as it happens after a
// partition. The Writer that has it, if there is one, ends with ErrNameLost.
func (n *Node) Lose(name string) { n.broker.lose(name) }

// Replay returns the last messages that a room keeps here, at most the given number of
// messages, none if that is negative. It waits for what is being published to the room.
func (n *Node) Replay(room string, messages int) [][]byte {
	return n.broker.replayFor(room, messages)
}
