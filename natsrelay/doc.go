/*
Package natsrelay connects the Brokers of several processes over NATS, so that they share their
names and rooms.

	relay, err := natsrelay.Connect("nats://127.0.0.1:4222", nil)
	...
	broker := sendq.NewBroker(&sendq.BrokerOptions{Relay: relay})

Each such process is a node. Code that registers, sends and publishes stays the same: a name is
unique among all nodes, a message reaches its recipients wherever they are, and events cover
all nodes. The NATS servers need JetStream; a cluster of three survives the loss of one. All nodes
must use the same Cluster and Lease.

# What is guaranteed

While two nodes hear from each other at least once in a Lease, every message between them arrives
once and in order, also while NATS servers stop and restart. Nodes number their messages, keep
each one until the other node acknowledges it, and send again what NATS loses. There are two
exceptions: a full queue, see below, and a NATS server that comes back with a max_payload below
64 KiB that is smaller than before (TestSmallerPayload). The node learns how many messages it has
missed in both. Messages from one sender to one recipient are in order. While the recipient moves, a message
to it alone may overtake one to a room or to everyone. (TestServersAreRestarted, TestGap)

There is no order between nodes: members of a room on different nodes may see the messages of
several senders in different orders.

# What Send and Register return

A direct message to a name on another node waits for that node's answer: accepted, refused or
unknown. Besides the errors of recipients on this node, Broker.Send can fail with

  - sendq.ErrUnknownName if no node has the name. The error also wraps ErrNodeLost if the name was
    on a node that has just become unreachable.
  - ErrNodeBehind if Options.MaxQueuedBytes already wait for the node. The message was not sent;
    send it again later, or give it up.
  - sendq.ErrTooLarge if the messages are larger than 128 MiB together. They were not sent.
  - sendq.ErrUnconfirmed if the node does not answer within Options.Timeout or becomes
    unreachable; the error wraps ErrNodeLost in the second case. The message may have arrived.

Broker.SendTo and Batch report the same errors for each recipient.

Broker.Register fails with sendq.ErrNameTaken if another node has the name. If NATS or that node
does not answer within Options.Timeout, the error wraps context.DeadlineExceeded.

# Failures

If a node is unreachable for a Lease, the other nodes see its names leave, with ErrNodeLost as the
cause, and can register them (TestKilledNode). Messages in transit to it are given up. A node
that is only cut off goes on serving its own users and sees the names of the others leave, but
cannot register names. When it is reachable again

  - it learns how many messages it has missed of those in transit to it, from a sendq.EventGap event
    and from Stats (TestPartitionUnderLoad). An EventGap of unknown size follows, because the others
    published without it in the meantime (TestGivenUp);
  - it registers its names again and loses each one that another node has taken: the Writer ends
    with sendq.ErrNameLost (TestPartition). Until then both nodes have the name: throughout the
    partition, and at most about a Lease after NATS has recovered.

If a node becomes unreachable during a takeover, the undelivered messages of the name may be
passed to BrokerOptions.OnUndelivered on both nodes.

A NATS server may vanish, or be cut off from the others. Then its nodes move to another server before
their Lease is over, and nothing is lost (TestNetlabServerVanishes, TestNetlabServerIsCutOff). Without
a majority of the NATS servers no name can be registered, but messages go on
(TestNetlabTwoServersVanish).

If all NATS servers restart at once, the bucket with the names is lost. Each node notices within a
tenth of a Lease and registers its names again, but loses a name if another node has registered it
first (TestRegistryIsLost, TestNameInLostRegistry).

If a node does not accept messages fast enough, every other node queues Options.MaxQueuedBytes for
it, and no sender waits (TestSlowNode). If NATS does not, every node queues as much for each other
node. When the queue for a node is full, direct messages to it fail with ErrNodeBehind. Other
messages to it are dropped, and that node counts them as missed.

Broker.Shutdown waits until the other nodes have acknowledged everything and then gives up the
names, all within its context (TestDrain).

# Updates

Nodes can be updated one by one from each release to the next: each release speaks the newest version
of the protocol of the release before (TestNextVersion). Nothing is lost if each node is shut down
before it is replaced (TestNetlabRestart). A node without a common version stays
unreachable, which Options.Log reports, but keeps its names.

# NATS

A Relay uses two connections, the subjects CLUSTER.all and CLUSTER.to.NODE, and a bucket of
JetStream's key-value store called CLUSTER. The bucket is in memory; the first node creates it.
README.md lists the rights that a node needs, what a client with these rights can do, and how to run
three servers. If you restart servers one by one, wait until each is healthy before you stop the next,
because JetStream requires it.
*/
package natsrelay
