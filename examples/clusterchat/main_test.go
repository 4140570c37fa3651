package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"
)

// TestMain runs the program instead of the tests if RUN_CLUSTERCHAT is set. So tests can start nodes
// as processes.
func TestMain(m *testing.M) {
	if os.Getenv("RUN_CLUSTERCHAT") != "" {
		main()
		return
	}
	code := m.Run()
	for _, f := range atExit {
		f()
	}
	os.Exit(code)
}

// atExit are called after all tests.
var atExit []func()

// patience bounds every wait.
const patience = 30 * time.Second

// A node is a running process of this program.
type node struct {
	t     *testing.T
	flags []string
	addr  string
	cmd   *exec.Cmd
	log   logBuffer
}

// A logBuffer is what a node has logged.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// logs waits until the node has logged each of the messages.
func (n *node) logs(messages ...string) {
	for _, m := range messages {
		eventually(n.t, func() bool { return strings.Contains(n.log.String(), m) })
	}
}

// command returns a command that runs this program with flags until ctx is done.
func command(ctx context.Context, flags ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, os.Args[0], flags...)
	// Without this the race detector delays the exit by a second.
	cmd.Env = append(os.Environ(), "RUN_CLUSTERCHAT=1", "GORACE=atexit_sleep_ms=0")
	return cmd
}

// requireFails runs this program with flags, and returns what it says before it fails.
func requireFails(t *testing.T, flags ...string) (said string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	output, err := command(ctx, flags...).CombinedOutput()
	require.Error(t, err)
	require.NoError(t, ctx.Err(), "it runs: %s", output)
	return string(output)
}

// start starts a node that uses the NATS server at url.
func start(t *testing.T, url string, flags ...string) *node {
	if runtime.GOOS == "windows" {
		t.Skip("needs a signal that ends a program, and Windows has none")
	}
	n := &node{t: t, flags: append([]string{"-addr", "127.0.0.1:0", "-nats", url}, flags...)}
	n.start()
	t.Cleanup(func() {
		if n.cmd.ProcessState == nil {
			_ = n.cmd.Process.Kill()
			_ = n.cmd.Wait()
		}
	})
	return n
}

// start starts the process. After stop, it starts another one.
func (n *node) start() {
	t := n.t
	n.cmd = command(context.Background(), n.flags...)
	stderr, err := n.cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, n.cmd.Start())
	r := bufio.NewReader(stderr)
	line, _ := r.ReadString('\n')
	addr, found := strings.CutPrefix(line, "listening on ")
	require.True(t, found, line)
	n.addr = strings.TrimSpace(addr)
	go io.Copy(io.MultiWriter(t.Output(), &n.log), r)
}

// stop ends the node with SIGTERM and waits for its exit.
func (n *node) stop() {
	require.NoError(n.t, n.cmd.Process.Signal(syscall.SIGTERM))
	guard := time.AfterFunc(patience, func() { _ = n.cmd.Process.Kill() })
	defer guard.Stop()
	require.NoError(n.t, n.cmd.Wait())
}

// twoNodes starts two nodes. The first one runs the NATS server.
func twoNodes(t *testing.T, flags ...string) (first, second *node) {
	url := "nats://" + freeAddr()
	first = start(t, url, append(flags, "-embed")...)
	return first, start(t, url, flags...)
}

// A client is a connection to a node.
type client struct {
	t     *testing.T
	name  string
	conn  net.Conn
	lines *bufio.Reader
}

// connect logs in, and waits until the server has accepted the login.
func (n *node) connect(name string) *client {
	c := n.dial(name)
	c.say("/who")
	require.Contains(n.t, c.hear(), "names: ", "of %s", name)
	return c
}

func (n *node) dial(name string) *client {
	conn, err := net.Dial("tcp", n.addr)
	require.NoError(n.t, err)
	n.t.Cleanup(func() { conn.Close() })
	c := &client{n.t, name, conn, bufio.NewReader(conn)}
	c.say(name)
	return c
}

func (c *client) say(line string) {
	_ = c.conn.SetWriteDeadline(time.Now().Add(patience))
	_, err := fmt.Fprintln(c.conn, line)
	require.NoError(c.t, err)
}

func (c *client) hear() string {
	_ = c.conn.SetReadDeadline(time.Now().Add(patience))
	line, err := c.lines.ReadString('\n')
	require.NoError(c.t, err)
	return strings.TrimSuffix(line, "\n")
}

// rest returns everything until the connection ends.
func (c *client) rest() string {
	_ = c.conn.SetReadDeadline(time.Now().Add(patience))
	rest, err := io.ReadAll(c.lines)
	require.NoError(c.t, err)
	return string(rest)
}

func (c *client) expect(lines ...string) {
	for _, line := range lines {
		require.Equal(c.t, line, c.hear())
	}
}

// until repeats the line until that is the answer. It skips lines about rooms.
func (c *client) until(line, answer string) {
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		c.say(line)
		got := c.hear()
		for strings.HasPrefix(got, "* ") {
			got = c.hear()
		}
		if got == answer {
			return
		}
		require.True(c.t, time.Now().Before(deadline), "%s: still %s", line, got)
	}
}

func TestTwoNodes(t *testing.T) {
	first, second := twoNodes(t)
	alice := first.connect("alice")
	bob := second.connect("bob")
	alice.until("/who", "names: alice, bob")
	bob.until("/who", "names: alice, bob")

	alice.say("bob: hi")
	bob.expect("from alice: hi")
	bob.say("alice, nobody: hi yourself")
	alice.expect("from bob: hi yourself")
	bob.expect("error: no such user: nobody")
	alice.say("*: all")
	bob.expect("from alice: all")

	alice.say("/join #go")
	alice.expect("* alice joined #go")
	alice.say("bob: I am in #go") // it is heard after what alice has said there
	bob.expect("from alice: I am in #go")
	bob.until("/who #go", "names: alice")
	bob.say("/join #go")
	bob.expect("* bob joined #go")
	alice.expect("* bob joined #go")
	alice.say("#go: gophers")
	bob.expect("from alice in #go: gophers")

	second.dial("alice").expect("error: the login alice is taken, choose another one")

	bob.say("/quit")
	alice.expect("* bob left #go")
	alice.until("/who", "names: alice")
}

func TestTakeoverFromAnotherNode(t *testing.T) {
	first, second := twoNodes(t, "-takeover")
	alice := first.connect("alice")
	old := first.connect("bob")
	old.say("/join #go")
	old.expect("* bob joined #go")

	bob := second.connect("bob")
	require.Empty(t, old.rest(), "the old session ends")
	bob.until("/who #go", "names: bob")
	alice.say("bob: welcome back")
	bob.expect("from alice: welcome back")
}

// TestTakeoverGetsPendingLines: a user whose connection hangs logs in at another node, and gets there what
// the first connection has not got.
func TestTakeoverGetsPendingLines(t *testing.T) {
	first, second := twoNodes(t, "-takeover")
	alice, old := first.connect("alice"), first.connect("bob")
	text := strings.Repeat("x", 60_000)
	const lines = 200
	for i := range lines {
		alice.say(fmt.Sprintf("bob: %d %s", i, text)) // bob reads nothing
	}
	alice.say("/who")
	require.Contains(t, alice.hear(), "names: ")
	bob := second.dial("bob")
	line := bob.hear() // before the first connection is read, or it would get all
	next := strings.Count(old.rest(), "\n")
	for i := next; i < lines; i++ {
		require.Equal(t, fmt.Sprintf("from alice: %d %s", i, text), line)
		if i < lines-1 {
			line = bob.hear()
		}
	}
}

// TestNATSAway stops NATS. Users on one node go on, and a new login is refused with the reason.
func TestNATSAway(t *testing.T) {
	s, err := natsserver.NewServer(&natsserver.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), NoLog: true, NoSigs: true})
	require.NoError(t, err)
	s.Start()
	require.True(t, s.ReadyForConnections(patience))
	n := start(t, s.ClientURL())
	alice, bob := n.connect("alice"), n.connect("bob")
	s.Shutdown()
	s.WaitForShutdown()

	n.dial("carol").expect("error: nobody can log in at the moment, try again later")
	alice.say("bob: still here")
	bob.expect("from alice: still here")
}

// TestSecuredNATS connects with TLS and a password.
func TestSecuredNATS(t *testing.T) {
	ca := filepath.Join(t.TempDir(), "ca.pem")
	s, err := natsserver.NewServer(&natsserver.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(),
		NoLog: true, NoSigs: true, Username: "chat", Password: "secret", TLSConfig: selfSigned(t, ca), TLSTimeout: 10})
	require.NoError(t, err)
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	require.True(t, s.ReadyForConnections(patience))
	port := s.Addr().(*net.TCPAddr).Port

	url := fmt.Sprintf("tls://chat:secret@127.0.0.1:%d", port)
	first, second := start(t, url, "-nats-ca", ca), start(t, url, "-nats-ca", ca)
	alice, bob := first.connect("alice"), second.connect("bob")
	alice.until("/who", "names: alice, bob")
	alice.say("bob: in private")
	bob.expect("from alice: in private")

	for _, flags := range [][]string{
		{"-nats", url},
		{"-nats", fmt.Sprintf("tls://chat:wrong@127.0.0.1:%d", port), "-nats-ca", ca},
	} {
		said := requireFails(t, append(flags, "-addr", "127.0.0.1:0")...)
		require.Contains(t, said, "clusterchat: natsrelay: connect to ")
		require.NotContains(t, said, "wrong", "no error shows a password")
	}
}

// TestEmbeddedPassword starts a NATS server inside with the user and password, or the token, of -nats.
// It lets nobody in without them.
func TestEmbeddedPassword(t *testing.T) {
	for _, secret := range []string{"chat:secret", "token"} {
		addr := freeAddr()
		start(t, "nats://"+secret+"@"+addr, "-embed").connect("alice")
		for _, other := range []string{"", "chat:wrong@", "wrong@"} {
			said := requireFails(t, "-addr", "127.0.0.1:0", "-nats", "nats://"+other+addr)
			require.Contains(t, said, "Authorization Violation")
		}
	}
}

func TestInvalidFlags(t *testing.T) {
	for _, test := range []struct{ flags, want string }{
		{"-nats nats://127.0.0.1:1", "clusterchat: natsrelay: connect to "},
		{"-embed -nats nonsense", "-embed needs one address"},
		{"-embed -nats nats://127.0.0.1:x", "-embed needs one address"},
		{"-embed -nats tls://127.0.0.1:4222", "not for tls://"},
		{"-embed -nats-creds file", "-embed starts a NATS server without TLS and credentials"},
		{"-embed -nats-cert file -nats-key file", "-embed starts a NATS server without TLS and credentials"},
		{"-cluster a.b -nats nats://" + freeAddr() + " -embed", "Cluster"},
		{"stray", `unexpected argument "stray"`},
	} {
		require.Contains(t, requireFails(t, strings.Fields(test.flags)...), test.want, test.flags)
	}
}
