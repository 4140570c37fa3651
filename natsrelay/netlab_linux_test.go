package natsrelay

import (
	"flag"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/sendq-go/sendq/internal/netlab"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// freeze suspends a node for a time.
func (n *labNode) freeze(t *testing.T, d time.Duration) {
	require.NoError(t, n.cmd.Process.Signal(syscall.SIGSTOP))
	time.Sleep(d)
	require.NoError(t, n.cmd.Process.Signal(syscall.SIGCONT))
}

// restore ends all cuts.
func (l *lab) restore() {
	for i := range l.Hosts {
		l.Each(i, func(link *netlab.Link) { link.Set(netlab.Conditions{}) })
	}
}

// An outcome says what a fault has cost.
type outcome struct {
	gone     int           // names that left because their node was lost, on all nodes
	missed   int           // room messages that were not delivered, according to Stats
	told     int           // of missed, what Gap events have told
	gaps     int           // of unknown size
	skipped  int           // room messages that a user did not get between two others
	failed   int           // direct messages that were not confirmed
	disorder int           // messages that were not in order
	longest  time.Duration // of a Send
}

// during puts load on the nodes, causes a fault, waits until all is well again, and returns the cost.
func (l *lab) during(t *testing.T, fault func()) (o outcome) {
	l.load(t, "start")
	time.Sleep(time.Second)
	fault()
	l.restore()
	ended := time.Now()
	var disturbed time.Time
	eventually(t, func() bool {
		reports := l.reports(t)
		for _, r := range reports {
			disturbed = latest(disturbed, r.Disturbed)
		}
		return isWhole(reports) && time.Since(latest(disturbed, ended)) > calm
	})
	l.load(t, "stop")
	var reports []labReport
	eventually(t, func() bool {
		reports = l.reports(t)
		return isSettled(reports)
	})
	for i, r := range reports {
		o.gone += len(r.Gone)
		o.disorder += r.Disorder
		o.gaps += len(r.Gaps)
		o.skipped += r.Skipped
		o.longest = max(o.longest, r.Longest)
		for _, n := range r.Failed {
			o.failed += n
		}
		for j, s := range reports {
			if i != j {
				o.missed += int(r.Stats.Nodes[s.Stats.Node].Missed)
				o.told += r.Missed[s.Stats.Node[:2]]
			}
		}
		t.Logf("%s: %+v", l.nodes[i].name, r)
	}
	t.Logf("%s: healed after %v, %+v", t.Name(), max(0, disturbed.Sub(ended)).Round(100*time.Millisecond), o)
	return o
}

// calm is how long no name must come or go, and no Send fail, until a fault is over.
const calm = 2 * time.Second

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// isSettled reports whether each message was received or is known to be missed.
func isSettled(reports []labReport) bool {
	for _, to := range reports {
		for _, from := range reports {
			sent, got := from.Stats.Nodes[to.Stats.Node], to.Stats.Nodes[from.Stats.Node]
			if sent.Posted+sent.Dropped != got.Received+got.Missed {
				return false
			}
		}
	}
	return true
}

// TestNetlabServerVanishes takes a NATS server off the network without a reset. Nothing is lost, and no
// node is given up.
func TestNetlabServerVanishes(t *testing.T) {
	t.Parallel()
	l := newLab(t, Options{})
	o := l.during(t, func() {
		l.Each(0, (*netlab.Link).Cut)
		time.Sleep(12 * time.Second)
	})
	assertNothingLost(t, o)
	assert.Zero(t, o.failed)
}

// TestNetlabTwoServersVanish takes two of three NATS servers off the network. Nobody can register, but the
// messages go on.
func TestNetlabTwoServersVanish(t *testing.T) {
	if !*long {
		t.Skip("needs -long")
	}
	t.Parallel()
	l := newLab(t, Options{})
	o := l.during(t, func() {
		l.Each(0, (*netlab.Link).Cut)
		l.Each(1, (*netlab.Link).Cut)
		time.Sleep(20 * time.Second)
		_, failure := l.nodes[2].register(t, "x")
		assert.NotEmpty(t, failure)
	})
	assertNothingLost(t, o)
	took, failure := l.nodes[2].register(t, "x")
	assert.Empty(t, failure)
	t.Logf("%s: registered in %v", t.Name(), took)
}

// TestNetlabCut cuts a node off from all servers: shorter than a Lease, which costs nothing, and longer,
// after which the node learns what it has missed.
func TestNetlabCut(t *testing.T) {
	bothWays := func(l *lab, server int) { l.Link(server, 3).Cut(); l.Link(3, server).Cut() }
	toNode := func(l *lab, server int) { l.Link(server, 3).Cut() }
	fromNode := func(l *lab, server int) { l.Link(3, server).Cut() }
	for _, test := range []struct {
		name    string
		seconds int
		cut     func(l *lab, server int)
		isLong  bool // behind -long
	}{
		{"3 s both ways", 3, bothWays, true},
		{"3 s to the node", 3, toNode, true},
		{"3 s from the node", 3, fromNode, true},
		{"7 s both ways", 7, bothWays, false},
		{"7 s to the node", 7, toNode, true},
		{"7 s from the node", 7, fromNode, true},
		{"12 s both ways", 12, bothWays, false},
		{"12 s to the node", 12, toNode, true},
		{"12 s from the node", 12, fromNode, true},
		{"60 s both ways", 60, bothWays, true},
		{"60 s to the node", 60, toNode, true},
		{"60 s from the node", 60, fromNode, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.isLong && !*long {
				t.Skip("needs -long")
			}
			t.Parallel()
			l := newLab(t, Options{})
			o := l.during(t, func() {
				for i := range 3 {
					test.cut(l, i)
				}
				time.Sleep(time.Duration(test.seconds) * time.Second)
			})
			if test.seconds < 10 {
				assertNothingLost(t, o)
			} else {
				assert.Zero(t, o.disorder)
				assert.Equal(t, o.missed, o.told)
				assert.Equal(t, 4, o.gaps, "node 0 and the others do not know what they have missed of each other")
			}
		})
	}
}

var long = flag.Bool("long", false, "run all netlab tests, which takes some minutes")

// TestNetlabNameOnTwoNodes cuts a node off until another one has registered its name. After the cut, the
// node loses the name.
func TestNetlabNameOnTwoNodes(t *testing.T) {
	t.Parallel()
	l := newLab(t, Options{})
	for i := range 3 {
		l.Link(i, 3).Cut()
		l.Link(3, i).Cut()
	}
	cut := time.Now()
	eventually(t, func() bool {
		_, failure := l.nodes[1].register(t, "n0")
		return failure == ""
	})
	t.Logf("%s: free after %v", t.Name(), time.Since(cut).Round(100*time.Millisecond))
	require.Contains(t, l.nodes[0].report(t).Names, "n0", "on two nodes")
	l.restore()
	restored := time.Now()
	var lost time.Time
	eventually(t, func() bool {
		lost = l.nodes[0].report(t).Lost
		return !lost.IsZero()
	})
	t.Logf("%s: lost %v after the cut", t.Name(), lost.Sub(restored).Round(100*time.Millisecond))
	eventually(t, func() bool { return isWhole(l.reports(t)) })
}

// TestNetlabFrozenNode suspends a node.
func TestNetlabFrozenNode(t *testing.T) {
	for _, seconds := range []int{7, 12} {
		t.Run(fmt.Sprint(seconds, " s"), func(t *testing.T) {
			if seconds == 7 && !*long {
				t.Skip("needs -long")
			}
			t.Parallel()
			l := newLab(t, Options{})
			o := l.during(t, func() { l.nodes[0].freeze(t, time.Duration(seconds)*time.Second) })
			if seconds < 10 {
				assertNothingLost(t, o)
			} else {
				assert.Zero(t, o.disorder)
				assert.Equal(t, o.missed, o.told)
				assert.Equal(t, 2, o.gaps, "node 0 does not know what it has missed of the others")
			}
		})
	}
}

// TestNetlabRestart restarts the nodes or the NATS servers one after another, as an update does. Nothing
// is lost, and no node is given up.
func TestNetlabRestart(t *testing.T) {
	t.Run("nodes", func(t *testing.T) {
		t.Parallel()
		l := newLab(t, Options{})
		o := l.during(t, func() {
			for _, n := range l.nodes {
				n.stop(t)
				n.start(t)
				n.load(t, "start")
				eventually(t, func() bool { return isWhole(l.reports(t)) })
			}
		})
		assertNothingLost(t, o)
	})
	t.Run("servers", func(t *testing.T) {
		t.Parallel()
		l := newLab(t, Options{})
		o := l.during(t, func() {
			for _, s := range l.servers {
				s.stop()
				s.start()
				s.waitUntilReady()
			}
		})
		assertNothingLost(t, o)
		assert.Zero(t, o.failed)
	})
}

// assertNothingLost requires that no node was given up, and that no message to the room was lost.
func assertNothingLost(t *testing.T, o outcome) {
	t.Helper()
	assert.Zero(t, o.gone, "names that left")
	assert.Zero(t, o.missed)
	assert.Zero(t, o.gaps)
	assert.Zero(t, o.skipped)
	assert.Zero(t, o.disorder)
}

// TestNetlabServerIsCutOff cuts a NATS server off from the other two, but not from the nodes. The node
// at that server moves to another one, and can register names while the cut lasts.
func TestNetlabServerIsCutOff(t *testing.T) {
	t.Parallel()
	l := newLab(t, Options{})
	o := l.during(t, func() {
		for i := range 2 {
			l.Link(0, 1+i).Cut()
			l.Link(1+i, 0).Cut()
		}
		time.Sleep(12 * time.Second)
		took, failure := l.nodes[0].register(t, "x")
		assert.Empty(t, failure)
		t.Logf("registered in %v", took)
		time.Sleep(3 * time.Second)
	})
	assertNothingLost(t, o)
}

// TestNetlabSlowNetwork registers names on nodes that are far away from all servers. None fails because
// one request takes long: with 600 ms each way, an answer takes 1.2 s. Timeout leaves a busy machine time.
func TestNetlabSlowNetwork(t *testing.T) {
	for name, c := range map[string]netlab.Conditions{
		"200 ms, 2 % lost": {Delay: 200 * time.Millisecond, Loss: 0.02},
		"600 ms":           {Delay: 600 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, Options{Timeout: testTimeout})
			for i := range 3 {
				l.Each(3+i, func(link *netlab.Link) { link.Set(c) })
			}
			for i := range 10 {
				took, failure := l.nodes[i%3].register(t, fmt.Sprint("x", i))
				require.Empty(t, failure)
				t.Logf("%s: registered in %v", t.Name(), took.Round(time.Millisecond))
			}
		})
	}
}
