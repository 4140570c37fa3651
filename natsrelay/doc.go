/*
Package natsrelay makes the names and rooms of a sendq.Broker reach across machines, over
NATS.

	relay, err := natsrelay.Connect("nats://127.0.0.1:4222", nil)
	...
	broker := sendq.NewBroker(&sendq.BrokerOptions{Relay: relay})

Each process that does so is a node. The code that registers, sends and publishes does not
change: a name is unique among all nodes, a message reaches whoever has the name or is in the
room, wherever that is, and presence tells of all. The NATS servers need JetStream; three of
them in a cluster survive the loss of one. All nodes must have the same Cluster and Lease.

# What is certain

Between two nodes that hear of each other at least once in a Lease, every message arrives
once and in order, also while NATS servers come and go: the nodes number what they send,
keep it until the other one has it, and send again what NATS has lost. What one sender
sends to one recipient, directly, to a room or to all, is in order. (TestServersAreRestarted,
TestGap)

What two nodes send to a third is in no order: the members of a room on different nodes may
see the messages of several senders in different orders.

A direct message is accepted, refused, or unknown, as the node tells that has the name. If it
does not answer within Options.Timeout the error is sendq.ErrUnconfirmed, and the message may
arrive or not.

# What is not

When a node is not heard of for a Lease, the others see its names leave, with ErrNodeLost as the cause,
and can have them (TestKilledNode). What was on the way to it is given up. If it is only
cut off, it goes on serving its own users and sees the others leave, but cannot register
names. When it comes back

  - it learns how many messages it has missed, by an event sendq.Gap, and Stats
    (TestPartitionUnderLoad);
  - it enters its names again, and loses those that others have taken: their Writers end with
    sendq.ErrNameLost (TestPartition). Until then there are two with the name: for as
    long as the partition lasts and at most about a Lease after NATS is well again.

What a name had left, and was on the way to a node that is not heard of any more, may be handed back
to BrokerOptions.OnUndelivered on both sides.

When all NATS servers of three, or the only one, are started anew, the bucket with the names is lost. Each
node finds that out within a third of a Lease and enters its names again; one that another
node has registered meanwhile it loses (TestRegistryIsLost, TestNameInLostRegistry).

A node that does not take what is sent to it, or a NATS that does not, costs the others
Options.MaxQueued bytes each, and no time (TestSlowNode). What is more is not sent: a direct message
fails with sendq.ErrWouldBlock, other messages count as missed on the node that they were
for.

Broker.Shutdown waits, within its bound, until the other nodes have all that was sent, and
gives the names up (TestDrain).

# NATS

A Relay uses two connections, the subjects CLUSTER.all and CLUSTER.to.NODE, and the bucket
CLUSTER of JetStream's key-value store, in memory, which it makes if it is not there. Whoever may
publish to these subjects is trusted. When servers are restarted one by one, wait until each
is healthy before the next: JetStream needs that.
*/
package natsrelay
