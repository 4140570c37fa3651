package natsrelay

import (
	"fmt"
	"time"
)

// Options configure a Relay. The zero value of each field is its default.
type Options struct {
	// Cluster is the name that the nodes which belong together have in common: letters, digits,
	// "-" and "_". It begins the subjects that they use, and is the name of their bucket. The
	// default is "sendq".
	Cluster string

	// Node is what this node is called in events and statistics: letters, digits, "-" and "_", up to
	// 32. Something random is added, so that no two nodes have the same name, and
	// neither has a process that is started again: it does not own what it did before.
	Node string

	// Lease is how long a node that is not heard of keeps its names: at least 1 s. When it is over
	// the other nodes see them leave, and they are free. The default is 10 s.
	Lease time.Duration

	// Timeout bounds how long Register, a direct message and JoinReplay wait for others. The
	// default is 5 s.
	Timeout time.Duration

	// MaxQueued is how many bytes wait for each of the other nodes while NATS, or that node, does
	// not take them. What is more is lost, and counted: a direct message fails, and of
	// others the node is told how many. The default is 64 MiB.
	MaxQueued int

	// Replicas is on how many servers NATS keeps the names. The default is 3 if the server that
	// answers is one of a cluster, and else 1. It matters to the node that comes first.
	Replicas int
}

// setDefaults puts defaults in the place of zeros.
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
	if o.MaxQueued == 0 {
		o.MaxQueued = 64 << 20
	}
	switch {
	case !validToken(o.Cluster, 64):
		return fmt.Errorf("natsrelay: Cluster cannot be %q", o.Cluster)
	case o.Node != "" && !validToken(o.Node, 32):
		return fmt.Errorf("natsrelay: Node cannot be %q", o.Node)
	case o.Lease < time.Second:
		return fmt.Errorf("natsrelay: Lease %v is shorter than 1s", o.Lease)
	case o.Timeout < 0, o.MaxQueued < 0, o.Replicas < 0:
		return fmt.Errorf("natsrelay: negative option: %+v", *o)
	}
	return nil
}

// tickInterval is how often a node says that it lives.
func (o *Options) tickInterval() time.Duration { return min(o.Lease/5, time.Second) }

// ticksIn returns how many of them are at least d.
func (o *Options) ticksIn(d time.Duration) int {
	return int((d + o.tickInterval() - 1) / o.tickInterval())
}
