package natsrelay

import (
	"fmt"
	"log/slog"
	"time"
)

// Options configure a Relay. A zero field means its default.
type Options struct {
	// Cluster is the common name of all nodes of a cluster: at most 64 letters, digits,
	// "-" and "_". It is the prefix of their NATS subjects and the name of their bucket. The
	// default is "sendq".
	Cluster string

	// Node is the name of this node in events and statistics: at most 32 letters, digits, "-" and
	// "_". A random suffix makes it unique, also after a restart, because a restarted process does
	// not own its previous names. The default is the random part alone.
	Node string

	// Lease is how long an unreachable node keeps its names. After that the other nodes see the
	// names leave and can register them. All nodes of a Cluster must use the same Lease. The
	// minimum is 1 s, the default 10 s.
	Lease time.Duration

	// Timeout bounds the wait for an answer in Register, JoinReplay and direct messages, and for
	// JetStream's answer in Connect. A context, as of RegisterContext, may end the wait earlier.
	// The default is 5 s.
	Timeout time.Duration

	// MaxQueuedBytes limits the queue for each other node, which grows while NATS or the node does
	// not accept messages. At the limit a direct message fails with ErrNodeBehind. Any other
	// message is dropped, and the node learns how many it has missed. The default is 64 MiB.
	MaxQueuedBytes int

	// Replicas is the number of NATS servers that store the names. The default is 3 if the
	// connected server belongs to a cluster, or fewer if the cluster is smaller, otherwise 1. Only
	// the node that creates the bucket uses it. The log of each node says if the bucket has fewer.
	Replicas int

	// Log gets a record when a node or NATS is lost and when it is back, when messages were missed,
	// a name was lost, or a right is missing. The default is no log.
	Log *slog.Logger
}

// setDefaults sets the fields that are zero, and returns an error if a field is invalid.
func (o *Options) setDefaults() error {
	if o.Cluster == "" {
		o.Cluster = "sendq"
	}
	if o.Lease == 0 {
		o.Lease = 10 * time.Second
	}
	if o.Timeout == 0 {
		o.Timeout = 5 * time.Second
	}
	if o.MaxQueuedBytes == 0 {
		o.MaxQueuedBytes = 64 << 20
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	switch {
	case !validToken(o.Cluster, 64):
		return fmt.Errorf("natsrelay: Cluster %q: want 1 to 64 letters, digits, - or _", o.Cluster)
	case o.Node != "" && !validToken(o.Node, 32):
		return fmt.Errorf("natsrelay: Node %q: want at most 32 letters, digits, - or _", o.Node)
	case o.Lease < time.Second:
		return fmt.Errorf("natsrelay: Lease %v is shorter than 1s", o.Lease)
	case o.Timeout < 0:
		return fmt.Errorf("natsrelay: negative Timeout %v", o.Timeout)
	case o.MaxQueuedBytes < 0:
		return fmt.Errorf("natsrelay: negative MaxQueuedBytes %d", o.MaxQueuedBytes)
	case o.Replicas < 0:
		return fmt.Errorf("natsrelay: negative Replicas %d", o.Replicas)
	}
	return nil
}

// tickInterval returns the time between two heartbeats.
func (o *Options) tickInterval() time.Duration { return min(o.Lease/5, time.Second) }

// pingInterval returns the time between two pings of a NATS server. A connection is given up at the
// third ping without an answer, so a node has moved to another server long before its lease ends.
func (o *Options) pingInterval() time.Duration {
	return min(max(o.Lease/10, 250*time.Millisecond), 2*time.Second)
}

// renewInterval returns the time between two renewals of the lease.
func (o *Options) renewInterval() time.Duration { return o.Lease / 10 }

// attemptTimeout bounds one request to JetStream, because its answer may be lost. There is time for a
// second one in Timeout, and for moving to another server in a Lease.
func (o *Options) attemptTimeout() time.Duration {
	return max(min(o.Timeout/2, o.Lease/4), time.Second)
}

// netTimeout bounds a write to a NATS server, and connecting to one.
func (o *Options) netTimeout() time.Duration { return min(max(o.Lease/5, time.Second), 5*time.Second) }

// ticksIn returns the number of ticks in d, rounded up.
func (o *Options) ticksIn(d time.Duration) int {
	return int((d + o.tickInterval() - 1) / o.tickInterval())
}
