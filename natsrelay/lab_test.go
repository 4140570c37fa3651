package natsrelay

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/internal/netlab"
	"github.com/stretchr/testify/require"
)

// A lab is a cluster of three NATS servers and three nodes. All six are processes, each on a host of
// its own. Hosts 0 to 2 have the servers, hosts 3 to 5 the nodes.
type lab struct {
	*netlab.Hub
	servers []*natsServer
	nodes   []*labNode
}

// newLab returns a cluster in which each node knows the users of all others. Node i prefers server i.
func newLab(t *testing.T, opts Options) *lab {
	t.Helper()
	requireServers(t)
	l := &lab{Hub: netlab.NewHub(t, 6)}
	var routes, urls []string
	for i := range 3 {
		routes = append(routes, fmt.Sprintf("nats-route://%v:6222", l.Hosts[i].Addr(0)))
		urls = append(urls, fmt.Sprintf("nats://%v:4222", l.Hosts[i].Addr(0)))
	}
	for i := range 3 {
		addr := l.Hosts[i].Addr(0).String()
		s := &natsServer{host: l.Hosts[i], args: []string{
			"-a", addr, "-p", "4222", "-n", fmt.Sprint("s", i), "-js", "-sd", filepath.Join(t.TempDir(), "js"),
			"-cluster_name", "lab", "-cluster", routes[i], "-routes", strings.Join(routes, ","),
		}}
		s.start()
		t.Cleanup(s.kill)
		l.servers = append(l.servers, s)
	}
	for _, s := range l.servers {
		s.waitUntilReady()
	}
	for i := range 3 {
		opts.Node, opts.Cluster = fmt.Sprint("n", i), "lab"
		own := append(append([]string(nil), urls[i:]...), urls[:i]...)
		l.nodes = append(l.nodes, startLabNode(t, l.Hosts[3+i], strings.Join(own, ","), opts))
	}
	eventually(t, func() bool { return isWhole(l.reports(t)) })
	return l
}

// reports returns the reports of all nodes.
func (l *lab) reports(t *testing.T) (reports []labReport) {
	for _, n := range l.nodes {
		reports = append(reports, n.report(t))
	}
	return reports
}

// isWhole reports whether each node knows the users of all others, and nobody else.
func isWhole(reports []labReport) bool {
	names := reports[0].Names
	return len(names) >= 3 && !slices.ContainsFunc(reports, func(r labReport) bool { return !slices.Equal(r.Names, names) })
}

// A labNode is a process with a node. It has one user, with the name of the node, in the room "all".
type labNode struct {
	name    string
	host    *netlab.Host
	config  string
	cmd     *exec.Cmd
	input   io.WriteCloser
	answers *json.Decoder
}

// startLabNode starts this program as a node on a host.
func startLabNode(t *testing.T, host *netlab.Host, url string, opts Options) *labNode {
	config, err := json.Marshal(labConfig{url, opts.Cluster, opts.Node, opts.Lease, opts.Timeout})
	require.NoError(t, err)
	n := &labNode{name: opts.Node, host: host, config: string(config)}
	n.start(t)
	t.Cleanup(func() {
		_ = n.cmd.Process.Kill()
		_ = n.cmd.Wait()
	})
	return n
}

func (n *labNode) start(t *testing.T) {
	n.cmd = exec.Command(os.Args[0])
	n.cmd.Env = append(os.Environ(), "NATSRELAY_LAB="+n.config)
	n.cmd.Stderr = labLog{t, n.name}
	var err error
	n.input, err = n.cmd.StdinPipe()
	require.NoError(t, err)
	output, err := n.cmd.StdoutPipe()
	require.NoError(t, err)
	n.answers = json.NewDecoder(output)
	n.host.Do(func() { err = n.cmd.Start() })
	require.NoError(t, err)
}

// stop shuts the node down and waits for its exit.
func (n *labNode) stop(t *testing.T) {
	require.NoError(t, n.input.Close())
	require.NoError(t, n.cmd.Wait(), "node %s", n.name)
}

// A labLog writes what a node logs to the log of the test.
type labLog struct {
	t    *testing.T
	node string
}

func (l labLog) Write(p []byte) (int, error) {
	fmt.Fprintf(l.t.Output(), "%s: %s", l.node, p)
	return len(p), nil
}

// ask writes a command to the node and decodes its answer.
func (n *labNode) ask(t *testing.T, answer any, command string) {
	_, err := fmt.Fprintln(n.input, command)
	require.NoError(t, err, "node %s", n.name)
	require.NoError(t, n.answers.Decode(answer), "node %s", n.name)
}

func (n *labNode) report(t *testing.T) (r labReport) {
	n.ask(t, &r, "report")
	return r
}

// register registers a name on the node and returns how long that took, and the error.
func (n *labNode) register(t *testing.T, name string) (took time.Duration, failure string) {
	var a labAnswer
	n.ask(t, &a, "register "+name)
	return a.Took, a.Failure
}

// load starts or stops messages from the node to the users of all nodes.
func (n *labNode) load(t *testing.T, command string) {
	var a labAnswer
	n.ask(t, &a, command)
}

func (l *lab) load(t *testing.T, command string) {
	for _, n := range l.nodes {
		n.load(t, command)
	}
}

type labConfig struct {
	URL, Cluster, Node string
	Lease, Timeout     time.Duration
}

type labAnswer struct {
	Took    time.Duration
	Failure string
}

// A labReport says what a node has seen so far.
type labReport struct {
	Names     []string
	Received  map[string]int // messages to the room, by the node of the sender
	Skipped   int            // messages to the room between those received
	Missed    map[string]int // by node, from the gaps among the events
	Gaps      []string       // nodes with gaps of an unknown size
	Disorder  int            // messages that were not in order
	Gone      []string       // names that left because their node was unreachable
	Sent      int            // direct messages accepted
	Failed    map[string]int // direct messages, by error
	Longest   time.Duration  // of a Send
	Disturbed time.Time      // when a name last came or went, or a Send failed
	Lost      time.Time      // when the user of the node lost its name
	Stats     Stats
}

// labProgram runs a node until its input ends, and shuts it down.
func labProgram(config string) error {
	var c labConfig
	if err := json.Unmarshal([]byte(config), &c); err != nil {
		return err
	}
	var r *Relay
	opts := Options{
		Cluster: c.Cluster, Node: c.Node, Lease: c.Lease, Timeout: c.Timeout,
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	}
	err := insist(func() (err error) {
		r, err = Connect(c.URL, &opts, nats.DontRandomize())
		return err
	})
	if err != nil {
		return err
	}
	n := &labWorker{
		Broker: sendq.NewBroker(&sendq.BrokerOptions{Relay: r}),
		relay:  r,
		name:   c.Node,
		next:   make(map[string]int),
		r:      labReport{Received: make(map[string]int), Missed: make(map[string]int), Failed: make(map[string]int)},
	}
	go n.watch()
	u := newUser(0)
	u.onLine = n.receive
	u.writer.OnEnd(func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		if errors.Is(u.writer.Err(), sendq.ErrNameLost) {
			n.r.Lost = time.Now()
		}
	})
	if err := insist(func() error { return n.Register(n.name, u.writer) }); err != nil {
		return err
	}
	if err := n.Room("all").Join(n.name); err != nil {
		return err
	}
	answers := json.NewEncoder(os.Stdout)
	for commands := bufio.NewScanner(os.Stdin); commands.Scan(); {
		command, argument, _ := strings.Cut(commands.Text(), " ")
		var answer any = labAnswer{}
		switch command {
		case "start":
			n.beginLoad()
		case "stop":
			n.endLoad()
		case "register":
			start, failure := time.Now(), ""
			if err := n.Register(argument, newUser(0).writer); err != nil {
				failure = err.Error()
			}
			answer = labAnswer{time.Since(start), failure}
		case "report":
			answer = n.report()
		}
		if err := answers.Encode(answer); err != nil {
			return err
		}
	}
	if n.stop != nil {
		n.endLoad()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return n.Shutdown(ctx)
}

// insist calls f until it succeeds, because a busy machine may exceed Options.Timeout.
func insist(f func() error) (err error) {
	for start := time.Now(); time.Since(start) < testTimeout; time.Sleep(10 * time.Millisecond) {
		if err = f(); err == nil {
			break
		}
	}
	return err
}

// A labWorker is a node of a lab, in its process.
type labWorker struct {
	*sendq.Broker
	relay *Relay
	name  string
	stop  chan struct{} // closed at the end of the load; nil without load
	loops sync.WaitGroup

	mu   sync.Mutex
	next map[string]int // lowest number expected, by kind and id of the sender
	r    labReport
}

// beginLoad publishes to the room, and sends to the users of the other nodes one message after the
// other.
func (n *labWorker) beginLoad() {
	n.stop = make(chan struct{})
	loop := func(f func(number int)) {
		n.loops.Go(func() {
			for i := 0; ; i++ {
				f(i)
				select {
				case <-n.stop:
					return
				case <-time.After(50 * time.Millisecond):
				}
			}
		})
	}
	id := n.relay.Stats().Node // another one after a restart
	loop(func(i int) {
		n.Room("all").PublishFrom(n.name, fmt.Appendf(nil, "room %s %d\n", id, i))
	})
	for _, to := range []string{"n0", "n1", "n2"} {
		if to != n.name {
			loop(func(i int) { n.send(to, fmt.Appendf(nil, "direct %s %d\n", id, i)) })
		}
	}
}

func (n *labWorker) endLoad() {
	close(n.stop)
	n.loops.Wait()
	n.stop = nil
}

func (n *labWorker) send(to string, message []byte) {
	start := time.Now()
	err := n.Send(to, message)
	took := time.Since(start)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.r.Longest = max(n.r.Longest, took)
	if err != nil {
		n.r.Disturbed = time.Now()
	}
	switch {
	case err == nil:
		n.r.Sent++
	case errors.Is(err, sendq.ErrUnconfirmed):
		n.r.Failed["unconfirmed"]++
	case errors.Is(err, sendq.ErrUnknownName):
		n.r.Failed["unknown"]++
	default:
		n.r.Failed[err.Error()]++
	}
}

// receive checks and counts a message to the user of this node.
func (n *labWorker) receive(line string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	var kind, from string
	var number int
	if _, err := fmt.Sscan(line, &kind, &from, &number); err != nil {
		panic(err)
	}
	next, hasNext := n.next[kind+from]
	if number < next {
		n.r.Disorder++
	}
	n.next[kind+from] = number + 1
	if kind == "room" {
		n.r.Received[from[:2]]++
	}
	if kind == "room" && hasNext {
		n.r.Skipped += max(0, number-next)
	}
}

func (n *labWorker) watch() {
	for e := range n.Events(context.Background()) {
		n.mu.Lock()
		switch {
		case e.Kind == sendq.EventGap && e.Missed < 0:
			n.r.Gaps = append(n.r.Gaps, e.Node[:2])
		case e.Kind == sendq.EventGap:
			n.r.Missed[e.Node[:2]] += e.Missed
		case e.Kind == sendq.EventLeft && errors.Is(e.Cause, ErrNodeLost):
			n.r.Gone = append(n.r.Gone, e.Name)
		}
		if e.Kind == sendq.EventLeft || e.Kind == sendq.EventJoined {
			n.r.Disturbed = time.Now()
		}
		n.mu.Unlock()
	}
}

func (n *labWorker) report() labReport {
	n.mu.Lock()
	defer n.mu.Unlock()
	r := n.r
	r.Names = slices.Sorted(n.Names())
	r.Received, r.Missed, r.Failed = maps.Clone(r.Received), maps.Clone(r.Missed), maps.Clone(r.Failed)
	r.Stats = n.relay.Stats()
	return r
}
