package main

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq/examples/chat/server"
)

// loginWithKey logs in at a node with -resume, and returns the key.
func (n *node) loginWithKey(name string) (c *client, key string) {
	c = n.dial(name)
	key, found := strings.CutPrefix(c.hear(), "* your key is ")
	require.True(n.t, found)
	return c, key
}

// comeBack says the first line until the server lets the user in.
func (n *node) comeBack(first string) (c *client, answer string) {
	eventually(n.t, func() bool {
		c = n.dial(first)
		answer = c.hear()
		return !strings.Contains(answer, "try again later")
	})
	return c, answer
}

// TestResumeAtAnotherNode moves a user between nodes, with each kind of a broken connection.
func TestResumeAtAnotherNode(t *testing.T) {
	first, second := twoNodes(t, "-resume")
	alice, _ := first.loginWithKey("alice")
	bob, key := first.loginWithKey("bob")
	alice.say("/join #go")
	alice.expect("* alice joined #go")
	bob.say("/join #go")
	bob.expect("* bob joined #go")
	alice.expect("* bob joined #go")
	said := 0
	say := func(n int) {
		for range n {
			alice.say(fmt.Sprintf("bob: %d", said))
			said++
		}
		alice.until("/who #nobody", "names: ")
	}
	expect := func(from, to int) {
		for i := from; i < to; i++ {
			bob.expect(fmt.Sprintf("from alice: %d", i))
		}
	}

	// The connection was reset. The user is away, and then back at the other node.
	say(10)
	expect(0, 4)
	require.NoError(t, bob.conn.(*net.TCPConn).SetLinger(0))
	bob.conn.Close()
	alice.expect("* bob is away")
	say(5)
	bob, answer := second.comeBack("bob " + key + " 6 0")
	require.Equal(t, "* back: 11 lines", answer)
	expect(4, 15)
	alice.expect("* bob is back")
	bob.say("/who #go")
	bob.expect("names: alice, bob")

	// Nobody has noticed that this connection is broken. Its session ends without a word.
	say(10)
	expect(15, 20)
	old := bob
	bob, answer = first.comeBack("bob " + key + " 18 1")
	require.Equal(t, "* back: 5 lines", answer)
	expect(20, 25)
	old.rest()

	// The key is still good, at both nodes.
	for times, n := range []*node{second, first, second} {
		lines := 1
		if times == 0 {
			lines = 6
		}
		bob, answer = n.comeBack(fmt.Sprintf("bob %s %d %d", key, lines, times+2))
		require.Equal(t, "* back: 0 lines", answer)
	}
	alice.say("bob: good")
	bob.expect("from alice: good")
	bob.say("/quit")
	require.Empty(t, bob.rest())
	alice.expect("* bob left #go")
	_, answer = first.comeBack("bob " + key + " 2 5")
	require.Contains(t, answer, "taken")
}

// TestResumeAfterAStop: users of a node that stops get their lines, and come back at another one, for a
// while. Those who say goodbye do not.
func TestResumeAfterAStop(t *testing.T) {
	servers().waitUntilHealthy(t)
	cluster := newCluster(t)
	flags := []string{"-resume", "-linger", "8s", "-cluster", cluster}
	first, second := start(t, servers().url(0), flags...), start(t, servers().url(1), flags...)
	alice, aliceKey := first.loginWithKey("alice")
	bob, bobKey := first.loginWithKey("bob")
	carol, carolKey := first.loginWithKey("carol")
	dave, daveKey := first.loginWithKey("dave")
	alice.say("bob: hi")
	bob.expect("from alice: hi")
	carol.say("/quit")
	carol.rest()
	alice.conn.Close()
	bob.until("/who", "names: alice, bob, dave")
	text := strings.Repeat("x", 60_000)
	const lines = 100 // more than is kept
	for range lines {
		dave.say("bob: " + text)
	}
	dave.until("/who #nobody", "names: ")
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		first.stop()
	}()
	require.Equal(t, strings.Repeat("from dave: "+text+"\n", lines), bob.rest())
	<-stopped
	for user, key := range map[string]string{"alice": aliceKey, "bob": bobKey} {
		c, answer := second.comeBack(user + " " + key + " 1 0")
		require.Equal(t, "* back: lines are missing", answer)
		c.say("/who #nobody")
		c.expect("names: ")
		_, answer = second.comeBack(user + " " + key + " 2 1")
		require.Equal(t, "* back: 0 lines", answer)
	}
	_, answer := second.comeBack("carol " + carolKey + " 1 0")
	require.Contains(t, answer, "taken")
	_, kv, err := ticketsOf(t, cluster).open(t.Context())
	require.NoError(t, err)
	eventually(t, func() bool { // the ticket of a user who does not come back
		_, err := kv.Get(t.Context(), hex.EncodeToString([]byte("dave")))
		return errors.Is(err, jetstream.ErrKeyNotFound)
	})
	_, answer = second.comeBack("dave " + daveKey + " 1 0")
	require.Contains(t, answer, "taken")
	_, answer = second.comeBack("bob " + bobKey + " 1 2")
	require.Equal(t, "* back: 0 lines", answer)
}

// TestTicketsExpire: a ticket lives on for the time of its Delete, and a newer one stays.
func TestTicketsExpire(t *testing.T) {
	servers().waitUntilHealthy(t)
	cluster := newCluster(t)
	start(t, servers().url(0), "-cluster", cluster) // it makes the bucket of the names
	all := ticketsOf(t, cluster)
	first, second := server.Ticket{Hash: []byte{1}, Bases: []int64{0}}, server.Ticket{Hash: []byte{2}, Bases: []int64{0}}
	have := func(want server.Ticket) bool {
		got, err := all.Get(t.Context(), "bob")
		require.NoError(t, err)
		return got.Equal(want)
	}
	require.NoError(t, all.Put(t.Context(), "bob", first))
	require.NoError(t, all.Delete(t.Context(), "bob", first, time.Second))
	require.NoError(t, all.Put(t.Context(), "bob", second))
	time.Sleep(3 * time.Second)
	require.NoError(t, all.Delete(t.Context(), "bob", first, 0))
	require.NoError(t, all.Delete(t.Context(), "bob", first, time.Second))
	require.True(t, have(second))
	require.NoError(t, all.Delete(t.Context(), "bob", second, time.Minute))
	require.True(t, have(second))
	require.NoError(t, all.Delete(t.Context(), "bob", second, time.Millisecond))
	eventually(t, func() bool { return have(server.Ticket{}) })
	require.NoError(t, all.Put(t.Context(), "bob", first))
	require.NoError(t, all.Delete(t.Context(), "bob", first, 0))
	require.True(t, have(server.Ticket{}))
}

// ticketsOf returns the tickets of a cluster.
func ticketsOf(t *testing.T, cluster string) *tickets {
	nc, err := nats.Connect(servers().url(0))
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	all, err := newTickets(nc, cluster)
	require.NoError(t, err)
	return all
}

// TestTicketsAreNoKeys: whoever may read the bucket cannot take a user over.
func TestTicketsAreNoKeys(t *testing.T) {
	servers().waitUntilHealthy(t)
	cluster := newCluster(t)
	n := start(t, servers().url(0), "-resume", "-cluster", cluster)
	_, key := n.loginWithKey("bob")
	_, kv, err := ticketsOf(t, cluster).open(t.Context())
	require.NoError(t, err)
	entry, err := kv.Get(t.Context(), hex.EncodeToString([]byte("bob")))
	require.NoError(t, err)
	require.NotContains(t, string(entry.Value()), key)
	require.NotContains(t, string(entry.Value()), base64.StdEncoding.EncodeToString([]byte(key)))
}

// TestResumeAfterADeadNode: what the node kept is gone, and the user is told.
func TestResumeAfterADeadNode(t *testing.T) {
	servers().waitUntilHealthy(t)
	flags := []string{"-resume", "-lease", "2s", "-cluster", newCluster(t)}
	first, second := start(t, servers().url(0), flags...), start(t, servers().url(1), flags...)
	alice, _ := second.loginWithKey("alice")
	_, key := first.loginWithKey("bob")
	alice.until("/who", "names: alice, bob")
	require.NoError(t, first.cmd.Process.Kill())
	bob, answer := second.comeBack("bob " + key + " 1 0")
	require.Equal(t, "* back: lines are missing", answer)
	alice.say("bob: welcome back")
	bob.expect("from alice: welcome back")
	_, answer = second.comeBack("bob " + key + " 2 1")
	require.Equal(t, "* back: 0 lines", answer)
	second.dial("bob").expect("error: the login bob is taken, choose another one")
}

// TestResumeAfterNATS: when NATS comes back without its memory, users get keys as before.
func TestResumeAfterNATS(t *testing.T) {
	o := &natsserver.Options{Host: "127.0.0.1", Port: port(freeAddr()), JetStream: true, NoLog: true, NoSigs: true}
	run := func() *natsserver.Server {
		o.StoreDir = t.TempDir()
		s, err := natsserver.NewServer(o)
		require.NoError(t, err)
		s.Start()
		require.True(t, s.ReadyForConnections(patience))
		return s
	}
	stop := func(s *natsserver.Server) {
		s.Shutdown()
		s.WaitForShutdown()
	}
	s := run()
	n := start(t, s.ClientURL(), "-resume", "-lease", "2s")
	_, key := n.loginWithKey("bob")
	stop(s)
	n.dial("bob " + key + " 1 0").expect("error: nobody can log in at the moment, try again later")
	n.logs("WARN login failed user=bob error=")
	defer stop(run())
	carol, answer := n.comeBack("carol")
	require.Contains(t, answer, "* your key is ")
	carol.conn.Close()
	_, answer = n.comeBack("carol " + strings.TrimPrefix(answer, "* your key is ") + " 1 0")
	require.Equal(t, "* back: 0 lines", answer)
}

// TestRollingRestartLosesNothing restarts two nodes with SIGTERM while bob is at one of them, with the
// client of examples/chat. The client comes back at the other node by itself, and shows every line for
// bob once and in order. He stays in his rooms.
func TestRollingRestartLosesNothing(t *testing.T) {
	servers().waitUntilHealthy(t)
	flags, addrs := []string{"-resume", "-cluster", newCluster(t)}, []string{freeAddr(), freeAddr()}
	first := start(t, servers().url(0), append(flags, "-addr", addrs[0])...)
	second := start(t, servers().url(1), append(flags, "-addr", addrs[1])...)
	third := start(t, servers().url(2), flags...)
	alice, _ := third.loginWithKey("alice")
	carol, _ := third.loginWithKey("carol")
	bob := runClient(t, balance(t, addrs), "bob")
	bob.say("/join #go")
	bob.expect("* bob joined #go")
	carol.until("/who #go", "names: bob")

	stop := make(chan struct{})
	var talking sync.WaitGroup
	talking.Go(func() {
		for n := 0; ; n++ {
			fmt.Fprintf(alice.conn, "bob: %d\n", n)
			fmt.Fprintf(carol.conn, "#go: %d\n", n)
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
		}
	})
	var direct, toRoom int
	hear := func(lines int) {
		for range lines {
			switch line := bob.hear(); line {
			case fmt.Sprintf("from alice: %d", direct):
				direct++
			case fmt.Sprintf("from carol in #go: %d", toRoom):
				toRoom++
			default:
				t.Fatalf("%q, not line %d of alice or %d of carol", line, direct, toRoom)
			}
		}
	}
	for _, n := range []*node{first, second, first} {
		hear(100)
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			n.stop()
		}()
		hear(100)
		<-stopped
		hear(100)
		n.start()
	}
	close(stop)
	talking.Wait()
	alice.until("/who #go", "names: bob")
	notes := bob.said.String()
	require.Equal(t, 3, strings.Count(notes, "back, "), notes)
	require.NotContains(t, notes, "missing")
}
