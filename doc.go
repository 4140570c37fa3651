/*
Package sendq sends messages from many goroutines over one connection. Each message arrives
whole and in order, and no sender waits for the network.

Only one goroutine at a time may write to a connection, or foo and bar arrive as fobaor. A
[Writer] takes over the sending half of a [net.Conn]. Every call of its Write queues one
message, and a single goroutine writes the queue. A [Broker] gives Writers names. It sends to
one name, to all names, or to the members of a [Room].

	w := sendq.NewWriter(conn, nil)
	go w.WriteString("from one goroutine\n")
	go w.WriteString("from another\n")
	...
	err := w.Close() // delivers what is queued, or says how much it did not deliver

A complete program, a chat server, is in examples/chat. For WebSockets, examples/websocket
shows how to use gorilla/websocket, coder/websocket and gobwas/ws without concurrent writes;
examples/webchat is the chat for browsers. [StreamConn] and [MessageConn] put a Writer in front of
what is no net.Conn, such as a response of net/http in examples/sse, or a stream of gRPC in
examples/streams. Package sendqtest has connections for tests.

# The life of a message

Five words say how far a message has come. They have these meanings everywhere in this package.

 1. Accepted: Write returned nil. A message dropped at once, with [ErrDropped], counts as
    accepted and dropped.
 2. Pending: the message is queued, or the connection is taking it.
 3. Written: the connection has taken every byte. [Writer.Flush] waits for this.
 4. Acknowledged: the peer's machine has confirmed every byte. [Writer.Close] waits for
    this where the kernel reports it; see [Writer.Shutdown].
 5. Dropped or undelivered: the message was not written, because the overflow policy, Expire or
    WriteLatest dropped it, or because the Writer ended first. [Writer.Undelivered] returns the
    undelivered ones.

Only the peer knows whether its program has read a message. When a Writer ends without Close,
data already handed to the kernel, possibly megabytes, may or may not have arrived. If that
matters, let the peer count the messages that it receives; see "Reconnects" below. [Writer.Err]
says why a Writer ended.

# Guarantees

Each is followed by the test that holds it.

A Writer:

 1. Whole. The bytes of one message are contiguous on the connection, however many goroutines
    send. (TestWriterWhole)
 2. In order. Messages reach the connection in the order in which they were accepted. Calls
    from one goroutine are accepted in call order. (TestWriterInOrder) Urgent messages go before
    those that wait, in order among themselves. (TestWriteUrgent) While a Writer is slow, other
    messages go before those kept by WriteLatest; the messages of one key stay in order.
    (TestWriteLatest)
 3. Never in the way. A send never waits for the network, unless the overflow policy is Block.
    No lock is held during a call into the connection. No sender, no other Writer and no Broker
    waits for a slow peer. If a Writer on a socket is idle, the sender itself writes whatever
    the kernel accepts without blocking. That is one system call, some microseconds; to write to
    many Writers, use [WriteAll] or a Broker, which leave it to others. (TestWriterNeverInTheWay)
 4. One flusher. At most one goroutine writes to the connection at a time. While there is
    nothing to write there is no goroutine and no buffer. (TestWriterOneFlusher)
 5. Accounted for. Every accepted message ends in exactly one way: written, dropped or
    undelivered. In every snapshot of Stats,
    accepted = written + dropped + undelivered + pending. (TestWriterAccountedFor)
 6. Never torn. After a failed or partial write nothing more is written. The Writer ends, keeps
    the error, and closes the connection, so that its reader wakes. (TestWriterNeverTorn)
 7. Close delivers. Close writes what is queued, within a time limit. A peer that reads to the
    end gets every byte, even if it has sent bytes that nobody read. CloseNow can always
    interrupt a stuck write, if Close of the connection can. (TestWriterCloseDelivers)
 8. Memory comes back. After a burst the queue's memory is returned. A stalled peer costs its
    backlog, not a multiple of it. (TestWriterMemoryComesBack) Members of a room share its
    messages, and one pending message can keep a block of 128 KiB alive. A Budget counts the
    memory held: it counts shared bytes once. (TestBudgetSparesACrowd)

A Broker:

 9. A name maps to its Writer until that Writer ends or is unregistered. The end of an old
    Writer never removes a newer one with the same name. (TestBrokerNameMapsUntilEnd)
 10. Every member of a room sees the room's messages in the same order (TestRoomOneOrder). One
    sender's messages, direct, to a room or to all, reach a recipient in call order
    (TestBrokerSenderOrder). For messages of PublishLatest to slow members, both hold among those of
    one key (TestPublishLatest).
 11. A fan-out copies a message at most once, however many recipients it has, and a stalled
    recipient slows no other. A Batch makes one copy more, and so does a room that keeps its
    last messages. (TestBrokerFanOutCopiesOnce, TestStalledMembersShareOneBacklog)
 12. Callers learn the outcome. Send returns an error if the recipient is unknown, did not
    accept the message, or dropped it at once. SendTo and Batch report every such recipient.
    Broadcast and Publish return the number of the other recipients. (TestBrokerTellsOutcome,
    TestSendTo, TestBatchReportsRefusals)
 13. A peer that comes back and says how many messages it has received gets the rest, in order
    and once, or is told how many are gone. (TestNothingLostAcrossReconnects)

# Slow peers

Data that a peer does not read stays in memory until the peer reads it or the Writer ends. The
queue is unbounded by default. [WriterOptions] can bound it by size, by number, by age, by
progress, and by a [Budget] shared by many Writers. [Writer.Stats] returns how much is pending;
[Broker.Stats] and a [Tally] return the sums over many Writers.

A protocol may have messages that must not be dropped or refused, or must not wait for data.
[Writer.WriteAlways] and [Writer.WriteUrgent] send them. Farewell gives a peer the reason when a
limit ends its Writer, and [Writer.CloseWith] in all other cases.

Nothing slows a sender either. A client that floods a room fills the queues of all members, and
limits may end those that read. Bound what one client may send, for example with
golang.org/x/time/rate. A sender with a single recipient can wait with [Writer.WaitPending].

HighMark and LowMark say when a Writer is slow. OnPressure and the events of a Broker report it.
While a Writer is slow, [Writer.WriteLatest] and [Room.PublishLatest] keep only the newest message
of each key, such as a price. [Writer.OnFlushed] and [Writer.WriteNotify] report when messages are
written.

A limit ends the Writer, while the reader of the connection may still have input in its buffer.
Another Writer may have the name by then, so a handler that acts under the name should check
[Writer.Err] after each read. When a read fails, [Writer.Closing] reports whether this side has
begun to end the connection.

# Peers that vanish

A peer that loses power or network sends no goodbye. It is noticed as follows:

  - While no data is under way, only keepalive notices. Package net turns it on; it takes about
    two and a half minutes unless [net.KeepAliveConfig] says otherwise. No limit of a Writer
    notices.
  - While data is under way, WriteTimeout notices on Linux, however little data it is. It takes
    that time and up to a quarter more. Without it TCP gives up after about 15 minutes.
  - MaxPending, MaxAge and a Budget see only pending messages, which the kernel has not taken.
    The kernels of both ends may hold 36 MiB for a peer that does not read: 32 MiB at the
    receiver, on Linux 6.16 and later, and 4 MiB at the sender. For a peer that is gone the
    sender's kernel holds up to 4 MiB. SetWriteBuffer of the connection bounds this, so that
    these limits notice sooner and less is lost.

On other systems, and behind a wrapper without a NetConn method, the kernel is not asked.
WriteTimeout then sees only writes that wait.

# Presence and replay

[BrokerOptions] decide what happens when a second Writer registers a name: it is refused, takes
over the messages that the first did not write, or shares the name. They also decide who gets
undelivered messages, and how many messages a room keeps for members that join late.
[Broker.Events] reports names and members as they come and go.

# Reconnects

The kernels lose their data with the connection. With Keep in its options a Writer keeps written
messages, and [Broker.Resume] gives a returning peer everything it has not received. With Linger in
its options the Broker also keeps messages sent while the peer is away. Both sides count messages,
so nothing is added to them. The example of Resume is a server with its client, and
docs/reconnects.md has a client for browsers.

The server

  - reads a name and a count from a new connection before it sends anything, and calls Resume
    instead of Register, also if the count is 0, as at the first login;
  - first makes sure that the client owns the name, because Resume takes the name from any other
    Writer. A random key proves it, chosen by the client and repeated each time;
  - calls [Writer.Acknowledge] when the client sends its count;
  - calls [Writer.Fail] if a read fails or the connection ends without a goodbye of the protocol,
    and Close after a goodbye. A name does not linger after Close.

The client

  - counts each message of the Writer once it is complete, also greetings and pongs. The answer of
    Resume does not count; it is the first message of each connection;
  - sends its name and its count first on each connection, and the count alone now and then. It
    starts to count again only after [ErrWrongCount];
  - loads its state again if the answer reports missed messages, or an unknown number of them.

The count goes on over all connections, because a connection may break before anything has arrived
on it. The client then says the same count again, and its meaning does not change.

A Writer keeps at most Keep bytes, where each message counts 64 bytes more. It keeps less if the
client acknowledges often. Members of a room share the bytes of its messages, and a [Budget] counts
kept messages too. Nothing is missed if Keep has room for all messages between the server and the
client's program: the pending ones, those in both kernels, and those sent during Linger. The kernels
may hold 36 MiB; see "Peers that vanish". SetWriteBuffer at the server and SetReadBuffer at the
client bound this. Linux doubles the values, so with 64 KiB at both ends the kernels hold 280 KB.
Proxies and browsers have buffers too. If Keep is too small, Resumed says how many messages are
gone.

Kept messages are in memory. After a crash of the process, Resumed says that the number of missed
messages is unknown. Use a message broker if messages must survive the process. Resume and
[NameAttach] exclude each other, because several connections cannot share one count. Instead, give
each device of a user a name, and let them join a room.

# Across machines

A transport, such as package natsrelay, joins the Brokers of several processes, called nodes;
see BrokerOptions.Relay. All nodes should have the same BrokerOptions. Names and rooms are then
common to all nodes, and the code that sends does not change. A name has one Writer on one
node. Messages, rooms and presence reach all nodes. These are the differences from a single
Broker:

  - Register waits until this node owns the name. The other nodes know of it a moment later.
  - Send, SendTo and Flush of a Batch wait for a reply from the node that has the name, and fail
    with [ErrUnconfirmed] if none comes in time. The transport bounds the wait, and each has a
    form that takes a context. A call that sends to a room or to everyone does not wait for
    other nodes, and counts the recipients on this node.
  - Messages of one goroutine still reach a recipient in call order. Members of a room on one
    node still see one order. Members on another node see each node's messages in that node's
    order, but may see messages of different nodes in another sequence.
  - A message to a name is delivered, or its sender gets an error.
  - A message to a room or to everyone goes to the members this node knows. Each gets it at most
    once, also while its name moves between nodes; a later message to the name alone may overtake
    it then. If the message is lost in transit, the receiving node emits an [EventGap].
  - A node's view of the others may lag. Events from one node arrive in order; there is no order
    between nodes.
  - While nodes cannot reach each other, each serves its own names, and a name may be registered
    on two nodes. Each node finds its own Writer. When the nodes reach each other again, one of
    them loses the name, and its Writer ends with [ErrNameLost]. The transport decides how soon.

The package logs nothing, and starts no goroutine before there is something to do.
*/
package sendq
