package server

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
)

// TestMain lets the tests start a server as a program: the test binary becomes it when it
// finds this variable.
func TestMain(m *testing.M) {
	if os.Getenv("RUN_SERVER") == "" {
		os.Exit(m.Run())
	}
	var o Options
	o.AddFlags(flag.CommandLine)
	flag.Parse()
	if err := Run(o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// environment is that of the program. The race detector would have it sleep for a
// second before it exits.
var environment = append(os.Environ(), "RUN_SERVER=1", "GORACE=atexit_sleep_ms=0")

// patience bounds every wait. It is never reached unless something is wrong.
const patience = 30 * time.Second

// A process is a chat server that runs as users run it.
type process struct {
	addr   string
	cmd    *exec.Cmd
	stderr *bytes.Buffer // what it said after "listening on"; complete after wait
	copied chan struct{}
}

// start runs the server on a free port, with flags.
func start(t *testing.T, flags ...string) *process { return startBy(t, nil, flags...) }

// startBy is start by other words, such as a shell that sets limits.
func startBy(t *testing.T, before []string, flags ...string) *process {
	words := slices.Concat(before, []string{os.Args[0], "-addr", "127.0.0.1:0"}, flags)
	p := &process{cmd: exec.Command(words[0], words[1:]...), stderr: new(bytes.Buffer), copied: make(chan struct{})}
	p.cmd.Env = environment
	pipe, err := p.cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, p.cmd.Start())

	stderr := bufio.NewReader(pipe)
	first, err := stderr.ReadString('\n')
	require.NoError(t, err)
	addr, found := strings.CutPrefix(first, "listening on ")
	require.True(t, found, first)
	p.addr = strings.TrimSpace(addr)
	go func() {
		defer close(p.copied)
		io.Copy(p.stderr, stderr)
	}()
	t.Cleanup(func() {
		if p.cmd.ProcessState == nil {
			p.stop(t)
		}
	})
	return p
}

// stop ends the server as an operator does, and returns what it had to say.
func (p *process) stop(t *testing.T) string {
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	guard := time.AfterFunc(patience, func() { p.cmd.Process.Kill() })
	defer guard.Stop()
	<-p.copied
	assert.NoError(t, p.cmd.Wait(), "the server exits with status 0; it said: %s", p.stderr)
	assert.NotContains(t, p.stderr.String(), "DATA RACE")
	return p.stderr.String()
}

// A client is a connection to the server.
type client struct {
	t *testing.T
	*net.TCPConn
	lines *bufio.Reader
	out   io.Writer
}

func (p *process) connect(t *testing.T) *client {
	conn, err := net.Dial("tcp", p.addr)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	patient := patientConn{conn.(*net.TCPConn)}
	return &client{t, patient.TCPConn, bufio.NewReader(patient), patient}
}

// A patientConn bounds each wait, and not all of a connection's together: on a busy machine
// some megabytes take long.
type patientConn struct{ *net.TCPConn }

func (c patientConn) Read(p []byte) (int, error) {
	c.SetReadDeadline(time.Now().Add(patience))
	return c.TCPConn.Read(p)
}

func (c patientConn) Write(p []byte) (int, error) {
	c.SetWriteDeadline(time.Now().Add(patience))
	return c.TCPConn.Write(p)
}

// login connects and waits until the server knows the name.
func (p *process) login(t *testing.T, name string) *client {
	c := p.connect(t)
	c.say(name)
	require.Contains(t, c.ask("/who"), name)
	return c
}

func (c *client) say(lines ...string) {
	c.t.Helper()
	_, err := io.WriteString(c.out, strings.Join(lines, "\n")+"\n")
	require.NoError(c.t, err)
}

// next returns the next line that arrives.
func (c *client) next() string {
	c.t.Helper()
	line, err := c.lines.ReadString('\n')
	require.NoError(c.t, err, "after %q", line)
	return strings.TrimSuffix(line, "\n")
}

// ask returns the answer to a /who, whatever comes before it.
func (c *client) ask(who string) string {
	c.say(who)
	for {
		if line := c.next(); strings.HasPrefix(line, "names: ") {
			return line
		}
	}
}

func (c *client) expect(lines ...string) {
	c.t.Helper()
	for _, line := range lines {
		require.Equal(c.t, line, c.next())
	}
}

// expectError takes one line that must be an error, and tell what.
func (c *client) expectError(about string) {
	c.t.Helper()
	line := c.next()
	require.True(c.t, strings.HasPrefix(line, "error: "), line)
	require.Contains(c.t, line, about)
}

// expectSilence proves that nothing came before the answer to a question asked now.
func (c *client) expectSilence() {
	c.t.Helper()
	c.say("/who #nobody")
	c.expect("names: ")
}

// expectEnd takes the end of the connection, which must not be a reset.
func (c *client) expectEnd() {
	c.t.Helper()
	rest, err := io.ReadAll(c.lines)
	require.NoError(c.t, err)
	require.Empty(c.t, rest)
}

// reset ends the connection the hard way.
func (c *client) reset() {
	c.SetLinger(0)
	c.Close()
}

func TestDirectMessage(t *testing.T) {
	server := start(t)
	alice, bob, carol := server.login(t, "alice"), server.login(t, "bob"), server.login(t, "carol")

	carol.say("bob, alice: hi")
	alice.expect("from carol: hi")
	bob.expect("from carol: hi")
	carol.expectSilence()

	carol.say("nobody, bob,ghost: are you there?: yes")
	bob.expect("from carol: are you there?: yes")
	carol.expect("error: no such user: nobody", "error: no such user: ghost")

	carol.say("bob, bob, carol: once")
	bob.expect("from carol: once")
	carol.expect("from carol: once")
	bob.expectSilence()
}

func TestMessageToAll(t *testing.T) {
	server := start(t)
	alice, bob, carol := server.login(t, "alice"), server.login(t, "bob"), server.login(t, "carol")
	carol.say("*: hi")
	alice.expect("from carol: hi")
	bob.expect("from carol: hi")
	carol.expectSilence()
}

func TestRoom(t *testing.T) {
	server := start(t)
	alice, bob, carol := server.login(t, "alice"), server.login(t, "bob"), server.login(t, "carol")

	alice.say("/join #go")
	alice.expect("* alice joined #go")
	bob.say("/join #go")
	bob.expect("* bob joined #go")
	alice.expect("* bob joined #go")

	bob.say("#go: hi")
	alice.expect("from bob in #go: hi")
	bob.expectSilence()
	carol.say("#go: let me in")
	carol.expect("error: not in #go")

	carol.say("/who #go", "/who")
	carol.expect("names: alice, bob", "names: alice, bob, carol")

	bob.say("/leave #go")
	alice.expect("* bob left #go")
	bob.say("/leave #go", "#go: still here?")
	bob.expect("error: not in #go", "error: not in #go")
	carol.say("/who #go")
	carol.expect("names: alice")

	alice.say("/join #go")
	alice.expectError("already in #go")
}

// Whoever goes, in whatever way, leaves the rooms as with /leave.
func TestRoomHearsWhoGoes(t *testing.T) {
	server := start(t)
	alice := server.login(t, "alice")
	alice.say("/join #go")
	alice.expect("* alice joined #go")
	for way, end := range map[string]func(c *client){
		"quit":       func(c *client) { c.say("/quit") },
		"half-close": func(c *client) { c.CloseWrite() },
		"close":      func(c *client) { c.Close() },
		"reset":      func(c *client) { c.reset() },
	} {
		bob := server.login(t, way)
		bob.say("/join #go")
		alice.expect("* " + way + " joined #go")
		bob.expect("* " + way + " joined #go")
		end(bob)
		alice.expect("* " + way + " left #go")
		alice.say("/who", "/who #go")
		alice.expect("names: alice", "names: alice")
	}
}

func TestQuitDeliversWhatIsQueued(t *testing.T) {
	server := start(t)
	alice, bob := server.login(t, "alice"), server.login(t, "bob")
	text := strings.Repeat("x", 60_000)
	const messages = 100 // more than the kernel buffers
	for range messages {
		alice.say("bob: " + text)
	}
	alice.expectSilence() // all are accepted
	bob.say("/quit", "*: said after /quit, so nobody hears it")
	for range messages {
		bob.expect("from alice: " + text)
	}
	bob.expectEnd()
	alice.expectSilence()
}

func TestAnythingElseIsAnError(t *testing.T) {
	server := start(t)
	alice, bob := server.login(t, "alice"), server.login(t, "bob")
	for _, test := range []struct{ line, about string }{
		{"", "bob: text"},
		{"hello", "bob: text"},
		{": hello", "bob: text"},
		{",, ,: hello", "bob: text"},
		{"bob:", "bob: text"},
		{"*:  ", "*: text"},
		{"/", "/join #room"},
		{"/dance", "/join #room"},
		{"/join", "/join #room"},
		{"/join go", "'#'"},
		{"/join #", "'#'"},
		{"/join #a #b", "/join #room"},
		{"/join #" + strings.Repeat("x", 33), "'#'"},
		{"/leave #go", "not in #go"},
		{"/who are you", "/who"},
		{"/quit now", "/quit"},
		{"#: hello", "not in #"},
		{"bob, *: hello", "no such user: *"},
	} {
		alice.say(test.line)
		if strings.HasPrefix(test.line, "bob, ") {
			bob.expect("from alice: hello")
		}
		alice.expectError(test.about)
		alice.expectSilence()
	}
	bob.expectSilence()
}

func TestLoginThatIsRefused(t *testing.T) {
	server := start(t)
	server.login(t, "alice")
	for login, about := range map[string]string{
		"":                             "1 to 32",
		" alice":                       "1 to 32",
		"al ice":                       "1 to 32",
		"*":                            "1 to 32",
		"#go":                          "1 to 32",
		"a:b":                          "1 to 32",
		"a\x00":                        "1 to 32",
		"\x1b[2Jeve":                   "1 to 32",
		"\xff\xfe":                     "1 to 32",
		strings.Repeat("x", 33):        "1 to 32",
		strings.Repeat("x", maxLine+1): "longer than",
		"alice":                        "taken",
	} {
		c := server.connect(t)
		// What the client has said meanwhile, unread, must not cost it the answer.
		c.say(login, "alice: hi", strings.Repeat("more ", 1000))
		c.expectError(about)
		c.expectEnd()
	}
	for _, login := range []string{"x", "A-1_b.C", strings.Repeat("x", 32)} {
		server.login(t, login)
	}
}

func TestLoginTakesTooLong(t *testing.T) {
	if testing.Short() {
		t.Skip("takes as long as the server gives a client for its login")
	}
	t.Parallel()
	c := start(t).connect(t)
	c.Write([]byte("ali")) // not a line
	c.expectError("within 10s")
	c.expectEnd()
}

func TestLines(t *testing.T) {
	server := start(t)
	bob := server.login(t, "bob")

	t.Run("byte by byte", func(t *testing.T) {
		c := server.connect(t)
		c.SetNoDelay(true)
		for _, b := range []byte("slow\r\nbob: h\u00e9llo\r\n/who\n") {
			c.Write([]byte{b})
		}
		bob.expect("from slow: h\u00e9llo")
		c.expect("names: bob, slow")
		c.say("/quit")
		c.expectEnd()
	})
	t.Run("many in one write", func(t *testing.T) {
		const n = 5000
		c := server.connect(t)
		var all strings.Builder
		all.WriteString("fast\n")
		for i := range n {
			fmt.Fprintf(&all, "bob: %d\n", i)
		}
		all.WriteString("/quit\n")
		c.Write([]byte(all.String()))
		for i := range n {
			bob.expect(fmt.Sprintf("from fast: %d", i))
		}
		c.expectEnd()
	})
	t.Run("of the longest length", func(t *testing.T) {
		c := server.login(t, "long")
		for _, end := range []string{"\n", "\r\n"} {
			text := strings.Repeat("x", maxLine-len("bob: "))
			c.Write([]byte("bob: " + text + end))
			bob.expect("from long: " + text)
		}
		c.say("/quit")
		c.expectEnd()
	})
	t.Run("longer", func(t *testing.T) {
		c := server.login(t, "longer")
		c.Write([]byte("bob: " + strings.Repeat("x", maxLine-len("bob: ")+1) + "\nbob: after it\n"))
		c.expectError("longer than 65536 bytes")
		c.expectEnd()
		bob.expectSilence()
	})
	t.Run("longer and without an end", func(t *testing.T) {
		c := server.login(t, "endless")
		go c.Write(bytes.Repeat([]byte("x"), 10*maxLine))
		c.expectError("longer than 65536 bytes")
		c.expectEnd()
		bob.expectSilence()
	})
	t.Run("cut off", func(t *testing.T) {
		c := server.login(t, "cut")
		c.Write([]byte("bob: transfer 100"))
		c.CloseWrite()
		c.expectEnd()
		bob.expectSilence()
	})
	t.Run("not UTF-8, control characters", func(t *testing.T) {
		c := server.login(t, "eve")
		c.say("bob: a\xffb", "bob: \x1b[2J\x07\x00\u009b31mred", "bob: left\u202eright", "bob: tab\there", "bob: a\rb",
			"\x1b[2J: hi")
		bob.expect("from eve: a\ufffdb", "from eve: \ufffd[2J\ufffd\ufffd\ufffd31mred", "from eve: left\ufffdright",
			"from eve: tab here", "from eve: a\ufffdb")
		c.expect("error: no such user: \ufffd[2J")
		c.say("/quit")
		c.expectEnd()
	})
}

// One line for thousands of names is one message.
func TestLineForManyNames(t *testing.T) {
	server := start(t)
	peak := func() (kilobytes int) {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", server.cmd.Process.Pid))
		if err != nil {
			t.Skip("the system does not tell what memory a process has used")
		}
		_, after, _ := strings.Cut(string(status), "VmHWM:")
		_, err = fmt.Sscan(after, &kilobytes)
		require.NoError(t, err)
		return kilobytes
	}
	alice := server.login(t, "alice")
	before := peak()
	var names []string
	for i := range 6000 {
		names = append(names, fmt.Sprintf("%04x", i))
	}
	alice.say(strings.Join(names, ",") + ":" + strings.Repeat("x", 30_000))
	for _, name := range names {
		alice.expect("error: no such user: " + name)
	}
	require.Less(t, peak()-before, 50_000)
}

// Lines that come together have the effect of lines that come one by one.
func TestLinesThatComeTogether(t *testing.T) {
	server := start(t)
	alice, bob := server.login(t, "alice"), server.login(t, "bob")
	bob.say("/join #go")
	bob.expect("* bob joined #go")
	alice.say("bob: 1", "*: 2", "nobody: 3", "alice: 4", "/who", "bob: 5", "/join #go", "#go: 6", "*: 7", "nobody, bob: 8",
		"#no: 9", "bob", "/leave #go", "bob: 10", "/quit", "bob: 11")
	bob.expect("from alice: 1", "from alice: 2", "from alice: 5", "* alice joined #go", "from alice in #go: 6",
		"from alice: 7", "from alice: 8", "* alice left #go", "from alice: 10")
	alice.expect("from alice: 4", "error: no such user: nobody", "names: alice, bob", "* alice joined #go",
		"error: no such user: nobody", "error: not in #no")
	alice.expectError("type a message")
	alice.expectEnd()
	bob.expectSilence()
}

// 16 users come and go, half of them with a reset, while others write to them.
func TestComingAndGoingLeavesNoGhost(t *testing.T) {
	server := start(t)
	watcher := server.login(t, "watcher")
	stop := make(chan struct{})
	var writers, users sync.WaitGroup

	names := make([]string, 16)
	for i := range names {
		names[i] = fmt.Sprintf("user%d", i)
	}
	for i := range 2 {
		c := server.login(t, fmt.Sprintf("writer%d", i))
		writers.Go(func() {
			go io.Copy(io.Discard, c.lines)
			for {
				select {
				case <-stop:
					c.Close()
					return
				default:
					fmt.Fprintf(c, "%s: hello\n*: all\n#go: room\n/join #go\n", strings.Join(names, ","))
				}
			}
		})
	}
	for i, name := range names {
		users.Go(func() {
			for visit := range 20 {
				conn, err := net.Dial("tcp", server.addr)
				if !assert.NoError(t, err) {
					return
				}
				conn.SetDeadline(time.Now().Add(patience))
				fmt.Fprintf(conn, "%s\n/join #go\n#go: hi\n", name)
				// The name may not be free yet, which is an error line and EOF.
				bufio.NewReader(conn).ReadString('\n')
				if (visit+i)%2 == 0 {
					conn.(*net.TCPConn).SetLinger(0)
				}
				conn.Close()
			}
		})
	}
	go io.Copy(io.Discard, watcher.lines)
	users.Wait()
	close(stop)
	writers.Wait()
	watcher.Close()

	observer := server.login(t, "observer")
	require.Eventually(t, func() bool {
		return observer.ask("/who") == "names: observer" && observer.ask("/who #go") == "names: "
	}, patience, 10*time.Millisecond)
}

// Short visits, thousands of them, leave neither a descriptor nor a name behind.
func TestShortVisitsLeaveNothing(t *testing.T) {
	server := start(t)
	descriptors := func() int {
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", server.cmd.Process.Pid))
		if err != nil {
			t.Skip("the system does not list the descriptors of a process")
		}
		return len(entries)
	}
	server.login(t, "alice").Close()
	before := descriptors()

	var visitors sync.WaitGroup
	for v := range 8 {
		visitors.Go(func() {
			for i := range 250 {
				conn, err := net.Dial("tcp", server.addr)
				if !assert.NoError(t, err) {
					return
				}
				switch i % 4 {
				case 0: // says nothing
				case 1:
					fmt.Fprintf(conn, "v%d\n", v)
				case 2:
					fmt.Fprintf(conn, "v%d\n/who\n*: hi\n", v)
				case 3:
					conn.(*net.TCPConn).SetLinger(0)
					fmt.Fprintf(conn, "v%d\n/who\n", v)
				}
				conn.Close()
			}
		})
	}
	visitors.Wait()
	require.Eventually(t, func() bool { return descriptors() <= before }, patience, 10*time.Millisecond)
	bob := server.login(t, "bob")
	// A last visitor may have waited to be accepted.
	require.Eventually(t, func() bool { return bob.ask("/who") == "names: bob" }, patience, 10*time.Millisecond)
}

// With no descriptor left the server waits until one is free.
func TestTooManyOpenFiles(t *testing.T) {
	server := startBy(t, []string{"sh", "-c", `ulimit -n 20 && exec "$0" "$@"`})
	var crowd []net.Conn
	for range 40 { // the kernel completes these connections, accepted or not
		conn, err := net.Dial("tcp", server.addr)
		require.NoError(t, err)
		crowd = append(crowd, conn)
	}
	for _, conn := range crowd {
		conn.Close()
	}
	server.login(t, "alice")
	require.Contains(t, server.stop(t), "too many open files")
}

func TestStopDeliversWhatIsQueued(t *testing.T) {
	server := start(t)
	alice, bob := server.login(t, "alice"), server.login(t, "bob")
	alice.say("/join #go")
	alice.expect("* alice joined #go")
	server.connect(t) // somebody who has not logged in holds nothing up

	text := strings.Repeat("x", 60_000)
	const size = 10 << 20
	messages := size/len(text) + 1
	for range messages {
		alice.say("bob: " + text)
	}
	alice.expectSilence() // all are accepted; bob has read none

	stopped := make(chan string)
	go func() { stopped <- server.stop(t) }()
	alice.expectEnd()
	for i := range messages { // slowly
		bob.expect("from alice: " + text)
		if i%10 == 0 {
			time.Sleep(10 * time.Millisecond)
		}
	}
	bob.expectEnd()
	require.NotContains(t, <-stopped, "lost")
}

func TestStopSaysWhatIsLost(t *testing.T) {
	if testing.Short() {
		t.Skip("takes as long as the server gives a client to take what is queued")
	}
	t.Parallel()
	server := start(t)
	alice, bob := server.login(t, "alice"), server.login(t, "bob")
	text := strings.Repeat("x", 60_000)
	for range 200 {
		alice.say("bob: " + text)
	}
	alice.expectSilence()
	said := server.stop(t) // bob never reads
	require.Contains(t, said, "user=bob")
	require.Contains(t, said, "messages not delivered")
	require.NotContains(t, said, `WARN connection lost user=alice`)
	bob.Close()
}

func TestStopWithNobodyThere(t *testing.T) {
	require.Empty(t, start(t).stop(t))
}

// A program can serve in its own way, with a Broker of its own choice.
func TestServeOtherwise(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error)
	s := New(Options{Log: slog.New(slog.DiscardHandler), Broker: sendq.BrokerOptions{Names: sendq.Attach}})
	go func() { served <- s.Serve(ctx, l) }()

	server := &process{addr: l.Addr().String()}
	alice, bob, again := server.login(t, "alice"), server.login(t, "bob"), server.login(t, "bob")
	alice.say("bob: hi")
	bob.expect("from alice: hi")
	again.expect("from alice: hi")
	stop()
	require.NoError(t, <-served)
	bob.expectEnd()
}

// TestRelayLoses: what is lost between servers is told.
func TestRelayLoses(t *testing.T) {
	r, logged := new(lossyRelay), make(logLines, 100)
	s := New(Options{Log: slog.New(slog.NewTextHandler(logged, nil)), Broker: sendq.BrokerOptions{Relay: r}})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error)
	go func() { served <- s.Serve(ctx, l) }()
	require.Eventually(t, func() bool {
		r.node.Missed("b", 3)
		return logged.have("node=b messages=3")
	}, patience, 10*time.Millisecond)
	cancel()
	require.NoError(t, <-served)
	require.True(t, logged.have("not confirmed"))
}

// A lossyRelay is alone, and cannot tell whether what it has sent has arrived.
type lossyRelay struct {
	sendq.Relay
	node *sendq.Node
}

func (r *lossyRelay) Start(node *sendq.Node) string {
	r.node = node
	return "a"
}

func (r *lossyRelay) Close(context.Context) error { return errors.New("not confirmed") }

// logLines are what was logged, a Write each.
type logLines chan string

func (c logLines) Write(p []byte) (int, error) {
	c <- string(p)
	return len(p), nil
}

// have tells whether a line has it, and takes those up to that one.
func (c logLines) have(what string) bool {
	for {
		select {
		case line := <-c:
			if strings.Contains(line, what) {
				return true
			}
		default:
			return false
		}
	}
}
