package main

import (
	"bufio"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"
)

// TestMain lets the tests start the program itself: the test binary becomes it when it finds
// this variable.
func TestMain(m *testing.M) {
	if os.Getenv("RUN_WEBCHAT") == "" {
		os.Exit(m.Run())
	}
	main()
}

// patience bounds every wait. It is never reached unless something is wrong.
const patience = 30 * time.Second

// A process is a running webchat.
type process struct {
	t      *testing.T
	lines  string // the address for lines over TCP
	page   string // the URL of the page, without a path
	cmd    *exec.Cmd
	said   strings.Builder // after the two addresses; complete after stop
	copied chan struct{}
}

// start runs the program on free ports.
func start(t *testing.T, flags ...string) *process {
	if runtime.GOOS == "windows" {
		t.Skip("needs a signal that ends a program, and Windows has none")
	}
	p := &process{t: t, copied: make(chan struct{})}
	p.cmd = exec.Command(os.Args[0], append([]string{"-addr", "127.0.0.1:0", "-http", "127.0.0.1:0"}, flags...)...)
	// The race detector would have it sleep for a second before it exits.
	p.cmd.Env = append(os.Environ(), "RUN_WEBCHAT=1", "GORACE=atexit_sleep_ms=0")
	stderr, err := p.cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, p.cmd.Start())
	t.Cleanup(func() {
		if p.cmd.ProcessState == nil {
			p.stop()
		}
	})
	r := bufio.NewReader(stderr)
	p.lines = after(t, r, "listening on ")
	p.page = strings.TrimSuffix(after(t, r, "page at "), "/")
	go func() {
		defer close(p.copied)
		io.Copy(&p.said, r)
	}()
	return p
}

// after returns what follows prefix in the next line.
func after(t *testing.T, r *bufio.Reader, prefix string) string {
	line, err := r.ReadString('\n')
	require.NoError(t, err)
	rest, found := strings.CutPrefix(strings.TrimSpace(line), prefix)
	require.True(t, found, line)
	return rest
}

// stop ends the program as an operator does, and returns its output.
func (p *process) stop() string {
	require.NoError(p.t, p.cmd.Process.Signal(syscall.SIGTERM))
	guard := time.AfterFunc(patience, func() { _ = p.cmd.Process.Kill() })
	defer guard.Stop()
	<-p.copied
	require.NoError(p.t, p.cmd.Wait(), "it exits with status 0; it said: %s", &p.said)
	require.NotContains(p.t, p.said.String(), "DATA RACE")
	return p.said.String()
}

// A user is connected, over TCP or by a browser.
type user interface {
	say(lines ...string)
	hear() string // the next line
}

// A tcpUser speaks the chat's protocol.
type tcpUser struct {
	t *testing.T
	net.Conn
	r *bufio.Reader
}

func (p *process) dial() *tcpUser {
	conn, err := net.Dial("tcp", p.lines)
	require.NoError(p.t, err)
	p.t.Cleanup(func() { conn.Close() })
	u := &tcpUser{p.t, conn, bufio.NewReader(conn)}
	u.wait()
	return u
}

// wait sets the deadline of the next operation.
func (u *tcpUser) wait() { _ = u.SetDeadline(time.Now().Add(patience)) }

func (u *tcpUser) say(lines ...string) {
	u.wait()
	_, err := io.WriteString(u, strings.Join(lines, "\n")+"\n")
	require.NoError(u.t, err)
}

func (u *tcpUser) hear() string {
	u.wait()
	line, err := u.r.ReadString('\n')
	require.NoError(u.t, err)
	return strings.TrimSuffix(line, "\n")
}

// A webUser is a browser, without the page.
type webUser struct {
	t *testing.T
	*websocket.Conn
}

func (p *process) open() *webUser {
	conn, _, err := websocket.Dial(p.t.Context(), p.page+"/ws", nil)
	require.NoError(p.t, err)
	p.t.Cleanup(func() { conn.CloseNow() })
	conn.SetReadLimit(1 << 20)
	return &webUser{p.t, conn}
}

func (u *webUser) say(lines ...string) {
	for _, line := range lines {
		require.NoError(u.t, u.Write(u.t.Context(), websocket.MessageText, []byte(line)))
	}
}

func (u *webUser) hear() string {
	kind, line, err := u.Read(u.t.Context())
	require.NoError(u.t, err)
	require.Equal(u.t, websocket.MessageText, kind)
	text, found := strings.CutSuffix(string(line), "\n")
	require.True(u.t, found, "%q", line)
	return text
}

// login logs the user in, and waits for it.
func login[U user](u U, name string) U {
	u.say(name, "/who")
	u.hear()
	return u
}

func expect(t *testing.T, u user, lines ...string) {
	t.Helper()
	for _, line := range lines {
		require.Equal(t, line, u.hear())
	}
}

// TestTwoKinds: users of both kinds have the same names and rooms.
func TestTwoKinds(t *testing.T) {
	t.Parallel()
	p := start(t)
	alice, bob := login(p.open(), "alice"), login(p.dial(), "bob")
	alice.say("bob: hi")
	expect(t, bob, "from alice: hi")
	bob.say("alice: hi yourself")
	expect(t, alice, "from bob: hi yourself")
	alice.say("/join #go")
	expect(t, alice, "* alice joined #go")
	bob.say("/join #go")
	expect(t, bob, "* alice joined #go", "* bob joined #go")
	expect(t, alice, "* bob joined #go")
	alice.say("#go: gophers", "/who #go")
	expect(t, alice, "names: alice, bob")
	expect(t, bob, "from alice in #go: gophers")
	alice.say("/quit")
	expect(t, bob, "* alice left #go")
	_, _, err := alice.Read(t.Context())
	require.Equal(t, websocket.StatusNormalClosure, websocket.CloseStatus(err), err)
}
