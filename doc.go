/*
Package sendq sends messages from many goroutines over one connection, whole and in
order, without making any of them wait for the network.

Only one goroutine may write to a connection at a time, or foo and bar arrive as
fobaor. A [Writer] takes a [net.Conn] over for writing: every call of its Write is a
message, which is queued and then written by one goroutine at a time. A [Broker] gives
Writers names and sends to one of them, to all, or to the members of a [Room].

	w := sendq.NewWriter(conn, nil)
	go w.WriteString("from one goroutine\n")
	go w.WriteString("from another\n")
	...
	err := w.Close() // delivers what is queued, or says how much it could not

A complete program, a chat server, is in examples/chat. For WebSockets, examples/websocket
shows what to write for gorilla/websocket, coder/websocket and gobwas/ws, so that no write is
concurrent; examples/webchat is the chat for browsers.

# Guarantees

Each is followed by the test that holds it.

A Writer:

 1. Whole. The bytes of one message are contiguous on the connection, however many
    goroutines send. (TestWriterWhole)
 2. In order. Messages reach the connection in the order in which they were accepted;
    those of one goroutine are accepted in the order of its calls. (TestWriterInOrder)
 3. Never in the way. A send never waits for the network, unless the overflow policy
    is Block, and no lock is held across a call into the connection: no sender, no
    other Writer and no Broker waits for a slow peer. To an idle Writer on a socket a
    sender itself writes what the kernel takes at once. (TestWriterNeverInTheWay)
 4. One flusher. At most one goroutine writes to the connection at a time. While there
    is nothing to write there is none, and no buffer either. (TestWriterOneFlusher)
 5. Accounted for. Every accepted message ends in exactly one way: written (the
    connection took every byte), dropped (by the overflow policy), or undelivered (the
    Writer ended first);
    accepted = written + dropped + undelivered + pending in every snapshot of Stats.
    (TestWriterAccountedFor)
 6. Never torn. After a failed or partial write nothing more is written: the Writer
    ends, closes the connection, so that its reader wakes, and keeps the error.
    (TestWriterNeverTorn)
 7. Close delivers. Close writes what is queued, within a bound, so that a peer that
    reads to the end gets every byte, even if it has sent bytes that nobody read.
    CloseNow can always interrupt a stuck write. (TestWriterCloseDelivers)
 8. Memory comes back. After a burst the queue's memory is returned; what a stalled
    peer costs is its backlog, not a multiple of it. (TestWriterMemoryComesBack) Of
    a room's messages, which all members share, one that is pending keeps up to 128 KiB.
    A Budget counts what is really held: bytes that many share count once.
    (TestBudgetSparesACrowd)

A Broker:

 9. A name maps to its Writer until that Writer ends or is unregistered. The end of an
    old Writer never removes a newer one under the same name.
    (TestBrokerNameMapsUntilEnd)
 10. Every member of a room sees the room's messages in one same order
    (TestRoomOneOrder), and one sender's messages, direct, to a room or to all, reach
    a recipient in call order (TestBrokerSenderOrder).
 11. A fan-out copies a message at most once, however many recipients it has, and a
    stalled recipient slows no other. A Batch makes a copy of its own before that, and so
    does a room that keeps its last messages. (TestBrokerFanOutCopiesOnce,
    TestStalledMembersShareOneBacklog)
 12. The caller learns what became of each recipient: from Send, whether it is unknown,
    has accepted the message or refused it, and why; from SendTo and a Batch, the same of
    each that has not accepted; from other fan-outs, how many accepted.
    (TestBrokerTellsOutcome, TestSendTo, TestBatchReportsRefusals)

# Slow peers

What a peer does not read stays in memory until it does, or until its Writer ends: the
queue is unbounded, unless [WriterOptions] bound it, by size, by age, by progress, or
by a [Budget] that many Writers share. [Writer.Stats] tells how much is pending, and
[Broker.Stats] and a [Tally] tell it of many Writers together.

# Peers that vanish

A peer whose machine is switched off, or whose network is cut, says no goodbye. What notices:

  - While nothing is under way, only keepalive, which package net turns on: after
    about two and a half minutes, unless [net.KeepAliveConfig] says otherwise. No limit of a
    Writer does.
  - With data under way, WriteTimeout, on Linux: in that time and a quarter, however little it
    is. Without it TCP gives up after about 15 minutes.
  - MaxPending, MaxAge and a Budget see only what is pending, which is what the kernel has not
    taken. The kernels of both ends may hold 36 MiB for a peer that does not read (32 MiB at
    the receiver on Linux 6.16 and later, and 4 MiB here), and this one holds up to 4 MiB for
    a peer that is gone. SetWriteBuffer of the connection bounds that, so that these
    limits notice sooner, and less is lost.

Where the kernel is not asked, which is on other systems and behind a wrapper without NetConn,
WriteTimeout sees only writes that wait.

# Those who come, go, and come back

[BrokerOptions] say whether a second Writer with the same name is refused, takes over what
the first has not written, or shares the name; who gets what a Writer leaves behind; and
how much a room keeps for those who join late. [Broker.Events] tells who is here.

# Across machines

With a [Relay] in BrokerOptions, the Brokers of several processes, which are called nodes,
have their names and rooms in common, and the code that sends does not change: a name is
one Writer's on one node, and messages, rooms and presence reach all nodes. All should have
the same options. This is different from a single Broker:

  - Register waits until the others agree. Send, SendTo and the Flush of a Batch wait for
    the answer of the node that has the name; if it does not come in time they fail with
    [ErrUnconfirmed]. The Relay bounds both. Fan-outs wait for no other node, and count
    the recipients on this one.
  - What one goroutine sends still reaches a recipient in the order of its calls. The members
    of a room on one node still see one order, and those on another node see the messages of
    each node in the same order; but how the messages of different nodes mix is up to where
    they arrive.
  - A message to a name is delivered or its sender is told. One to a room or to all is
    delivered at most once, by those members of which this node knows, and if it is lost on
    the way the node for which it was tells so by a [Gap] among its Events. While a name
    moves from one node to another, such a message may reach it twice, or not at all.
  - What this node knows of others is what they have told, some time ago. What happens on one
    node is told in its order; there is none between nodes.
  - While nodes cannot reach each other, each serves its own names. A name may then be
    registered on two; each node finds its own, until they reach each other again
    and one loses it: its Writer ends with [ErrNameLost]. How soon is up to the Relay.

# What accepted means

A message is accepted when Write returns nil; one that is refused with [ErrDropped]
counts as accepted and dropped. It is written when the connection has
taken it, which [Writer.Flush] waits for, and delivered when the peer's machine has
acknowledged it, which [Writer.Close] waits for. Whether the peer's program has read it
only the peer can tell. After the end of a Writer, [Writer.Err] says why it ended, and
[Writer.Undelivered] returns what was accepted and not written. What the kernel had taken
then, which may be some megabytes, has arrived or not: where that matters, number the
messages, and have the peer tell what it has got.

The package logs nothing, and starts no goroutine before there is something to do.
*/
package sendq
