//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/natsrelay"
)

// runRelay compares Brokers on several nodes with a single one. The nodes are in this process,
// and NATS is a separate process. The members' connections only count bytes, so the relay is
// measured and not the sockets.
func (b *bench) runRelay() (findings, error) {
	direct, fan, names := make([]relayFigure, len(directRoutes)), make([]relayFigure, len(fanoutLayouts)), new(nameFigure)
	for round := range b.rounds {
		b.progress("relay, round %d of %d", round+1, b.rounds)
		server, err := startChild(self("jetstream " + b.dir))
		if err != nil {
			return findings{}, err
		}
		err = errors.Join(b.relayDirect(server, direct), b.relayFanOut(server, fan), b.relayNames(server, names))
		server.stop()
		if err != nil {
			return findings{}, err
		}
	}
	return findings{tables: []table{b.directTable(direct), b.fanTable(fan), b.nameTable(names)}}, nil
}

// A relayFigure holds the time and the CPU time, including NATS, of a message or a delivery
// in ns.
type relayFigure struct{ time, cpu figure }

// A counter is a connection that counts the bytes written to it.
type counter struct {
	net.Conn
	bytes *atomic.Int64
}

func (c counter) Write(p []byte) (int, error) { c.bytes.Add(int64(len(p))); return len(p), nil }
func (c counter) Close() error                { return nil }
func (c counter) LocalAddr() net.Addr         { return &net.TCPAddr{} }

// A nodeSet is the Brokers of one cluster, or a single Broker without a Relay.
type nodeSet struct {
	brokers []*sendq.Broker
	bytes   atomic.Int64 // received by all members together
	server  *child
}

// newNodeSet returns Brokers on a number of nodes joined by the NATS server. With 0 nodes it
// returns a single Broker without a Relay.
func newNodeSet(server *child, nodes int) (*nodeSet, error) {
	n := &nodeSet{server: server}
	if nodes == 0 {
		n.brokers = []*sendq.Broker{sendq.NewBroker(nil)}
		return n, nil
	}
	for range nodes {
		relay, err := natsrelay.Connect("nats://"+server.addr.String(), nil)
		if err != nil {
			n.close()
			return nil, err
		}
		n.brokers = append(n.brokers, sendq.NewBroker(&sendq.BrokerOptions{Relay: relay}))
	}
	return n, nil
}

func (n *nodeSet) close() {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for _, broker := range n.brokers {
		_ = broker.Shutdown(ctx) // releases the names; otherwise they stay taken for a Lease
	}
}

// populate registers names in turn on the nodes, joins them to a room, and waits until all nodes
// know all members.
func (n *nodeSet) populate(names int) error {
	var registering sync.WaitGroup
	errs := make([]error, names)
	for i := range names {
		registering.Go(func() {
			broker, name := n.brokers[i%len(n.brokers)], memberOf(i)
			errs[i] = broker.Register(name, sendq.NewWriter(counter{bytes: &n.bytes}, nil))
			if errs[i] == nil {
				errs[i] = broker.Room("room").Join(name)
			}
		})
	}
	registering.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for _, broker := range n.brokers {
		for deadline := time.Now().Add(startTimeout); broker.Room("room").Len() < names; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				return fmt.Errorf("a node knows %d of %d members", broker.Room("room").Len(), names)
			}
		}
	}
	return nil
}

func memberOf(i int) string { return fmt.Sprintf("member%d", i) }

// measure calls send, waits for all deliveries and adds the time per delivery to f. The function
// send sends a number of messages of payload to a number of recipients each.
func (n *nodeSet) measure(f *relayFigure, messages, recipients int, send func() error) error {
	pids := []int{os.Getpid(), n.server.pid()}
	before, err := cpuOfAll(pids)
	if err != nil {
		return err
	}
	due := n.bytes.Load() + int64(messages*recipients*len(payload))
	start := time.Now()
	if err := send(); err != nil {
		return err
	}
	for deadline := start.Add(startTimeout); n.bytes.Load() < due; time.Sleep(50 * time.Microsecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("%d bytes did not arrive", due-n.bytes.Load())
		}
	}
	elapsed := time.Since(start)
	after, err := cpuOfAll(pids)
	f.time = append(f.time, float64(elapsed)/float64(messages*recipients))
	f.cpu = append(f.cpu, float64(after-before)/float64(messages*recipients))
	return err
}

func cpuOfAll(pids []int) (sum time.Duration, err error) {
	for _, pid := range pids {
		t, err := cpuTime(pid)
		if err != nil {
			return 0, err
		}
		sum += t
	}
	return sum, nil
}

// directRoutes are the ways of sending to one name. Member 0 is on the first node. Member 1 is on
// the second one, if there are two.
var directRoutes = []struct {
	name   string
	nodes  int     // 0 means no Relay
	to     int     // the member
	share  float64 // messages to send, relative to the local case
	sender func(b *sendq.Broker, to string, messages int) error
}{
	{"on one machine, no relay", 0, 0, 1, sendOneByOne},
	{"on this node, beside another", 2, 0, 1, sendOneByOne},
	{"to another node, one at a time", 2, 1, 0.01, sendOneByOne},
	{"to another node, by 64 goroutines", 2, 1, 0.1, sendByMany},
	{"to another node, a Batch of 64", 2, 1, 0.2, sendBatches},
}

func sendOneByOne(b *sendq.Broker, to string, messages int) error {
	for range messages {
		if err := b.Send(to, []byte(payload)); err != nil {
			return err
		}
	}
	return nil
}

const senders = 64

func sendByMany(b *sendq.Broker, to string, messages int) error {
	errs := make([]error, senders)
	var sending sync.WaitGroup
	for i := range senders {
		sending.Go(func() { errs[i] = sendOneByOne(b, to, messages/senders) })
	}
	sending.Wait()
	return errors.Join(errs...)
}

func sendBatches(b *sendq.Broker, to string, messages int) error {
	batch := b.NewBatch()
	for range messages / senders {
		for range senders {
			batch.Send(to, []byte(payload))
		}
		if r := batch.Flush(); r.Refused != nil {
			return r.Refused[0].Err
		}
	}
	return nil
}

func (b *bench) relayDirect(server *child, figures []relayFigure) error {
	for i, route := range directRoutes {
		n, err := newNodeSet(server, route.nodes)
		if err != nil {
			return err
		}
		messages := max(1, int(route.share*float64(b.relay.messages))/senders) * senders
		err = n.populate(2)
		if err == nil {
			err = n.measure(&figures[i], messages, 1, func() error { return route.sender(n.brokers[0], memberOf(route.to), messages) })
		}
		n.close()
		if err != nil {
			return fmt.Errorf("%s: %w", route.name, err)
		}
	}
	return nil
}

// fanoutLayouts are the distributions of a room's members over nodes.
var fanoutLayouts = []struct {
	name  string
	nodes int // 0 means no Relay
}{{"on one machine, no relay", 0}, {"a relay, and no other node", 1}, {"over 2 nodes", 2}, {"over 3 nodes", 3}}

func (b *bench) relayFanOut(server *child, figures []relayFigure) error {
	for i, layout := range fanoutLayouts {
		n, err := newNodeSet(server, layout.nodes)
		if err != nil {
			return err
		}
		windows := max(1, b.relay.fanoutMessages/senders)
		err = n.populate(b.relay.members)
		if err == nil {
			err = n.measure(&figures[i], windows*senders, b.relay.members, func() error {
				batch := n.brokers[0].NewBatch()
				for range windows {
					for range senders {
						batch.Publish("room", []byte(payload))
					}
					batch.Flush()
				}
				return nil
			})
		}
		n.close()
		if err != nil {
			return fmt.Errorf("fan-out %s: %w", layout.name, err)
		}
	}
	return nil
}

// A nameFigure holds the cost of registering names, and the time until a dead node's name is free.
type nameFigure struct {
	local, one, many figure // ns per name: without a Relay, one at a time, many at a time
	free             figure // ns from killing a node until its name can be registered
}

func (b *bench) relayNames(server *child, f *nameFigure) error {
	for _, way := range []struct {
		to       *figure
		nodes    int
		together int
	}{{&f.local, 0, 1}, {&f.one, 1, 1}, {&f.many, 1, senders}} {
		n, err := newNodeSet(server, way.nodes)
		if err != nil {
			return err
		}
		each := max(1, b.relay.names/way.together)
		errs := make([]error, way.together)
		var registering sync.WaitGroup
		start := time.Now()
		for i := range way.together {
			registering.Go(func() {
				for j := range each {
					err := n.brokers[0].Register(memberOf(i*each+j), sendq.NewWriter(counter{bytes: &n.bytes}, nil))
					errs[i] = errors.Join(errs[i], err)
				}
			})
		}
		registering.Wait()
		*way.to = append(*way.to, float64(time.Since(start))/float64(each*way.together))
		n.close()
		if err := errors.Join(errs...); err != nil {
			return err
		}
	}
	return b.relayKilled(server, f)
}

// victim is the name of the killed node, and killedLease the node's Lease.
const (
	victim      = "victim"
	killedLease = 2 * time.Second
)

// relayKilled measures how long the name of a node that is killed stays taken.
func (b *bench) relayKilled(server *child, f *nameFigure) error {
	node, err := startChild(self("node " + server.addr.String()))
	if err != nil {
		return err
	}
	defer node.stop()
	relay, err := natsrelay.Connect("nats://"+server.addr.String(), &natsrelay.Options{Cluster: "killed", Lease: killedLease})
	if err != nil {
		return err
	}
	broker := sendq.NewBroker(&sendq.BrokerOptions{Relay: relay})
	defer broker.CloseNow()
	w := sendq.NewWriter(discard{}, nil)
	defer w.CloseNow()
	if err := broker.Register(victim, w); !errors.Is(err, sendq.ErrNameTaken) {
		return fmt.Errorf("the name of a live node is not taken: %w", err)
	}
	node.kill()
	start := time.Now()
	for err = sendq.ErrNameTaken; errors.Is(err, sendq.ErrNameTaken); err = broker.Register(victim, w) {
		if time.Since(start) > startTimeout {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
	f.free = append(f.free, float64(time.Since(start)))
	return err
}

// serveNode runs the node to be killed. It accepts connections once it has the name.
func serveNode(natsAddr, addr string) error {
	relay, err := natsrelay.Connect("nats://"+natsAddr, &natsrelay.Options{Cluster: "killed", Lease: killedLease})
	if err != nil {
		return err
	}
	broker := sendq.NewBroker(&sendq.BrokerOptions{Relay: relay})
	if err := broker.Register(victim, sendq.NewWriter(discard{}, nil)); err != nil {
		return err
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		conn.Close()
	}
}

func (b *bench) directTable(figures []relayFigure) table {
	t := table{name: "relay-direct", title: "A message of 64 bytes to one name, on this node and on another one",
		head: []string{"", "ns/message", "CPU, ns/message"}, notes: b.relayNotes("Send to another node returns once the node has answered; a Batch waits for all answers together.")}
	for i, route := range directRoutes {
		t.row(route.name, figures[i].time.against(figures[0].time, significant), figures[i].cpu.against(figures[0].cpu, significant))
	}
	return t
}

func (b *bench) fanTable(figures []relayFigure) table {
	t := table{name: "relay-fanout", title: fmt.Sprintf("A room of %s members on several nodes, batches of 64 messages of 64 bytes", thousands(int64(b.relay.members))),
		head: []string{"", "ns/delivery", "CPU, ns/delivery"}, notes: b.relayNotes("All nodes share the cores of this machine, so more nodes are not faster here. The CPU time counts.")}
	for i, layout := range fanoutLayouts {
		t.row(layout.name, figures[i].time.against(figures[0].time, significant), figures[i].cpu.against(figures[0].cpu, significant))
	}
	return t
}

func (b *bench) nameTable(f *nameFigure) table {
	perSecond := func(ns figure) string { return count(1e9 / median(ns)) }
	t := table{name: "relay-names", title: "Names in a cluster", head: []string{"", ""}, notes: b.relayNotes()}
	t.row("registrations per second, no relay", perSecond(f.local))
	t.row("with a relay, one at a time", perSecond(f.one))
	t.row("with a relay, 64 at a time", perSecond(f.many))
	t.row(fmt.Sprintf("until a name of a node that was killed is free, with a lease of %v", killedLease), span(median(f.free)))
	return t
}

func (b *bench) relayNotes(more ...string) []string {
	return append(more,
		"The nodes are in one process, and their members' connections only count bytes. CPU is the time of this process and of NATS.",
		strings.Join([]string{"nats-server", moduleVersion("github.com/nats-io/nats-server/v2") + ", one, with JetStream; nats.go",
			moduleVersion("github.com/nats-io/nats.go") + "."}, " "))
}
