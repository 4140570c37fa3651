package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// threeNodes starts a node at each of three NATS servers. alice, bob and carol each log in at one of
// them and join #go.
func threeNodes(t *testing.T, flags ...string) (nodes []*node, users []*client) {
	servers().waitUntilHealthy(t)
	flags = append([]string{"-cluster", newCluster(t)}, flags...)
	var here []string
	for i, name := range []string{"alice", "bob", "carol"} {
		nodes = append(nodes, start(t, servers().url(i), flags...))
		users = append(users, nodes[i].connect(name))
		here = append(here, name)
		for _, u := range users {
			u.until("/who", "names: "+strings.Join(here, ", "))
		}
		for _, u := range users[:i] { // what they have said in #go is heard before, by nobody
			u.say(name + ": ready")
			users[i].expect("from " + u.name + ": ready")
		}
		users[i].say("/join #go")
		for _, u := range users {
			u.expect(fmt.Sprintf("* %s joined #go", name))
			u.until("/who #go", "names: "+strings.Join(here, ", "))
		}
	}
	return nodes, users
}

// newCluster returns the name of a cluster that has no nodes yet.
func newCluster(t *testing.T) string {
	runs++
	return fmt.Sprint(t.Name(), runs)
}

var runs int

// untilAll makes each user say the line until that is the answer.
func untilAll(users []*client, line, answer string) {
	for _, u := range users {
		u.until(line, answer)
	}
}

// accepted says a line and reports whether it was accepted. If not, answer is the error. It skips
// messages of other users.
func (c *client) accepted(line string) (isAccepted bool, answer string) {
	c.say(line)
	c.say("/who")
	for heard := ""; !strings.HasPrefix(heard, "names: "); {
		if heard = c.hear(); strings.HasPrefix(heard, "error: ") {
			answer = heard
		}
	}
	return answer == "", answer
}

// TestKilledNode ends one of three nodes with SIGKILL. Its users are gone a lease later, and all others
// go on.
func TestKilledNode(t *testing.T) {
	nodes, users := threeNodes(t, "-lease", "2s")
	alice, carol := users[0], users[2]
	nodes[2].dial("bob").expect("error: the login bob is taken, choose another one")
	require.NoError(t, nodes[1].cmd.Process.Kill())
	isAccepted, answer := alice.accepted("bob: are you there?")
	require.False(t, isAccepted)
	require.Contains(t, []string{
		"error: the server of bob does not answer: the message may have arrived, or not",
		"error: no such user: bob",
	}, answer)
	carol.expect("* bob left #go")
	untilAll([]*client{alice, carol}, "/who #go", "names: alice, carol")
	_, answer = carol.accepted("bob: are you there?")
	require.Equal(t, "error: no such user: bob", answer)
	bob := nodes[2].connect("bob")
	alice.until("/who", "names: alice, bob, carol")
	alice.say("bob: welcome back")
	bob.expect("from alice: welcome back")
	alice.say("#go: two of us")
	carol.expect("from alice in #go: two of us")
	nodes[0].logs("node unreachable")
}

// TestRestart restarts one NATS server after the other while alice talks. Every line arrives once and
// in order.
func TestRestart(t *testing.T) {
	c := servers()
	nodes, users := threeNodes(t, "-lease", "30s", "-nats", c.urls())
	alice, bob, carol := users[0], users[1], users[2]
	stop, said := make(chan struct{}), make(chan int)
	go func() {
		for n := 0; ; n++ {
			fmt.Fprintf(alice.conn, "#go: %d\n", n)
			select {
			case <-stop:
				said <- n
				return
			case <-time.After(time.Millisecond):
			}
		}
	}()
	for i := range c.servers {
		c.stop(i)
		c.start(i)
		c.waitUntilHealthy(t)
	}
	close(stop)
	last := <-said
	for _, u := range []*client{bob, carol} {
		for n := range last + 1 {
			u.expect(fmt.Sprintf("from alice in #go: %d", n))
		}
	}
	t.Logf("%d lines", last+1)
	alice.until("/who #go", "names: alice, bob, carol")
	nodes[0].logs("NATS connection lost", "NATS connection restored")
}

// TestPartition cuts a NATS server and its node off from the others for longer than a lease. Both sides
// go on, each with an alice. After the partition the first alice is disconnected, and the second one
// keeps the name.
func TestPartition(t *testing.T) {
	c := servers()
	nodes, users := threeNodes(t, "-lease", "2s")
	first, bob, carol := users[0], users[1], users[2]
	dave := nodes[0].connect("dave")
	untilAll(users, "/who", "names: alice, bob, carol, dave")

	c.wall.shut()
	defer c.wall.open()
	first.until("/who", "names: alice, dave")
	untilAll([]*client{bob, carol}, "/who", "names: bob, carol")
	first.say("dave: can you hear me?")
	dave.expect("from alice: can you hear me?")
	var second *client
	require.Eventually(t, func() bool { // JetStream may have to elect a leader first
		second = nodes[1].dial("alice")
		second.say("/who")
		answer := second.hear()
		return strings.HasPrefix(answer, "names: ")
	}, patience, 100*time.Millisecond)
	carol.until("/who", "names: alice, bob, carol")
	carol.say("alice: the second one?")
	second.expect("from carol: the second one?")
	nodes[0].dial("eve").expect("error: nobody can log in at the moment, try again later")

	c.wall.open()
	opened := time.Now()
	require.Equal(t, "error: you are logged in on another server\n", first.rest())
	t.Logf("name lost %v after the partition", time.Since(opened))
	untilAll([]*client{second, bob, carol, dave}, "/who", "names: alice, bob, carol, dave")
	dave.say("alice: and who are you?")
	second.expect("from dave: and who are you?")
	bob.say("dave: good to have you back")
	dave.expect("from bob: good to have you back")
	nodes[0].logs("node reachable", "name lost to another node", "messages of another server are lost", "user=alice")
}

// TestDrain ends a node with SIGTERM while its users and others talk to each other. All accepted
// messages arrive.
func TestDrain(t *testing.T) {
	nodes, users := threeNodes(t)
	alice, bob, carol := users[0], users[1], users[2]
	const lines = 2000
	for i := range lines {
		fmt.Fprintf(alice.conn, "#go: %d\n", i)
	}
	alice.say("/who")
	require.Contains(t, alice.hear(), "names: ") // so the server has handled all earlier lines
	terminated := make(chan struct{})
	accepted := 0
	for isAccepted := true; isAccepted; accepted++ {
		if accepted == 10 {
			go func() {
				defer close(terminated)
				nodes[0].stop()
			}()
		}
		isAccepted, _ = carol.accepted(fmt.Sprintf("alice: %d", accepted))
	}
	<-terminated
	accepted--
	for i := range accepted {
		alice.expect(fmt.Sprintf("from carol: %d", i))
	}
	require.Empty(t, alice.rest())
	for i := range lines {
		bob.expect(fmt.Sprintf("from alice in #go: %d", i))
	}
	bob.expect("* alice left #go")
	bob.until("/who", "names: bob, carol")
}

// TestRollingRestart restarts one node after the other with SIGTERM, as an update does, while all users
// talk. The user of the node comes back. The others hear each other's lines once and in order.
func TestRollingRestart(t *testing.T) {
	nodes, users := threeNodes(t, "-lease", "30s", "-nats", servers().urls())
	for i, n := range nodes {
		stop := make(chan struct{})
		var talking sync.WaitGroup
		talk := func(u *client) { talking.Go(func() { u.talk(stop) }) }
		var listeners []*listener
		for _, u := range users {
			talk(u)
			listeners = append(listeners, newListener(u, map[string]int{"alice": 0, "bob": 0, "carol": 0}))
		}
		for _, l := range listeners {
			l.until(func() bool { return l.hasHeard(users, 10) })
		}
		n.stop()
		for line := range strings.Lines(users[i].rest()) {
			listeners[i].heed(strings.TrimSuffix(line, "\n"))
		}
		n.start()
		users[i] = n.connect(users[i].name)
		users[i].say("/join #go")
		talk(users[i])
		listeners[i] = newListener(users[i], make(map[string]int))
		for _, l := range listeners {
			l.until(func() bool { return l.hasHeard(users, 10) && (l == listeners[i] || l.returned) })
		}
		close(stop)
		for _, l := range listeners {
			l.until(func() bool { return l.ended == 2 })
		}
		talking.Wait()
	}
}

// talk says numbered lines in #go until stop is closed, and an end, or until the connection is closed.
func (c *client) talk(stop <-chan struct{}) {
	for n := 0; ; n++ {
		line := fmt.Sprintf("#go: %d\n", n)
		select {
		case <-stop:
			line = "#go: end\n"
		case <-time.After(time.Millisecond):
		}
		if _, err := io.WriteString(c.conn, line); err != nil || line == "#go: end\n" {
			return
		}
	}
}

// A listener checks that the lines of each other user come once and in order.
type listener struct {
	*client
	next     map[string]int // number of the next line of a user; absent: any number
	returned bool           // somebody has left and is heard again
	ended    int            // users that have said their last line
}

func newListener(c *client, next map[string]int) *listener { return &listener{client: c, next: next} }

func (l *listener) until(f func() bool) {
	for !f() {
		l.heed(l.hear())
	}
}

func (l *listener) heed(line string) {
	var from, what string
	switch {
	case strings.HasSuffix(line, " left #go"):
		delete(l.next, strings.Fields(line)[1])
		return
	case !strings.HasPrefix(line, "from "):
		return
	}
	_, err := fmt.Sscanf(line, "from %s in #go: %s", &from, &what)
	require.NoError(l.t, err, line)
	if what == "end" {
		l.ended++
		return
	}
	n, err := strconv.Atoi(what)
	require.NoError(l.t, err, line)
	next, isKnown := l.next[from]
	l.returned = l.returned || !isKnown
	require.True(l.t, !isKnown || n == next, "%s hears number %d of %s after %d", l.name, n, from, next-1)
	l.next[from] = n + 1
}

// hasHeard reports whether at least n lines of each other user were heard.
func (l *listener) hasHeard(users []*client, n int) bool {
	for _, u := range users {
		if u.name != l.name && l.next[u.name] < n {
			return false
		}
	}
	return true
}
