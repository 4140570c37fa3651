package main

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestMain lets the tests start the chat program itself: the test binary becomes it
// when it finds this variable.
func TestMain(m *testing.M) {
	if os.Getenv("RUN_CHAT") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// chat is the program with flags, as users run it. The race detector would have it sleep for
// a second before it exits.
func chat(flags ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], flags...)
	cmd.Env = append(os.Environ(), "RUN_CHAT=1", "GORACE=atexit_sleep_ms=0")
	return cmd
}

// serve runs the server on a free port, until stop or the end of the test.
func serve(t *testing.T, flags ...string) (addr string, stop func()) {
	if runtime.GOOS == "windows" {
		t.Skip("needs a signal that ends a program, and Windows has none")
	}
	cmd := chat(append(flags, "-addr", "127.0.0.1:0")...)
	stderr, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	stop = sync.OnceFunc(func() {
		assert.NoError(t, cmd.Process.Signal(os.Interrupt))
		assert.NoError(t, cmd.Wait())
	})
	t.Cleanup(stop)
	first, err := bufio.NewReader(stderr).ReadString('\n')
	require.NoError(t, err)
	addr, found := strings.CutPrefix(first, "listening on ")
	require.True(t, found, first)
	return strings.TrimSpace(addr), stop
}

// A terminal is the chat client.
type terminal struct {
	t      *testing.T
	cmd    *exec.Cmd
	typed  io.WriteCloser
	shown  *bufio.Reader
	stderr strings.Builder
}

func openTerminal(t *testing.T, addr, name string, flags ...string) *terminal {
	c := &terminal{t: t, cmd: chat(append(flags, "-connect", addr, "-name", name)...)}
	var err error
	c.typed, err = c.cmd.StdinPipe()
	require.NoError(t, err)
	shown, err := c.cmd.StdoutPipe()
	require.NoError(t, err)
	c.shown = bufio.NewReader(shown)
	c.cmd.Stderr = &c.stderr
	require.NoError(t, c.cmd.Start())
	t.Cleanup(func() { c.cmd.Process.Kill() })
	return c
}

// login opens a terminal and waits until the server knows the name.
func login(t *testing.T, addr, name string) *terminal {
	c := openTerminal(t, addr, name)
	io.WriteString(c.typed, "/who\n")
	line, err := c.shown.ReadString('\n')
	require.NoError(t, err)
	require.Contains(t, line, name)
	return c
}

// expect takes one line, as soon as it is shown.
func (c *terminal) expect(line string) {
	c.t.Helper()
	shown, err := c.shown.ReadString('\n')
	require.NoError(c.t, err)
	require.Equal(c.t, line+"\n", shown)
}

// end waits for the end of the client, and returns the rest of its output.
func (c *terminal) end() (shown string, err error) {
	rest, err := io.ReadAll(c.shown)
	require.NoError(c.t, err)
	return string(rest), c.cmd.Wait()
}

func TestClientShowsWhatArrivesAndSendsWhatIsTyped(t *testing.T) {
	addr, _ := serve(t)
	bob, carol := login(t, addr, "bob"), openTerminal(t, addr, "carol")
	io.WriteString(carol.typed, "bob: hi\n")
	bob.expect("from carol: hi")
	io.WriteString(bob.typed, "carol: hello\n")
	carol.expect("from bob: hello") // while nothing is typed

	// Ctrl-D: typed lines go out, and are answered, before the client ends.
	for range 10_000 {
		io.WriteString(carol.typed, "bob: bye\n")
	}
	io.WriteString(carol.typed, "/who") // a last line without an end counts
	carol.typed.Close()
	shown, err := carol.end()
	require.NoError(t, err, carol.stderr.String())
	require.Equal(t, "names: bob, carol\n", shown)
	for range 10_000 {
		bob.expect("from carol: bye")
	}
}

func TestClientQuits(t *testing.T) {
	addr, _ := serve(t)
	carol := openTerminal(t, addr, "carol")
	io.WriteString(carol.typed, "/who\n/quit\n")
	shown, err := carol.end()
	require.NoError(t, err, carol.stderr.String())
	require.Equal(t, "names: carol\n", shown)
}

func TestClientSaysThatTheServerWentAway(t *testing.T) {
	addr, stop := serve(t)
	carol := login(t, addr, "carol")
	stop()
	_, err := carol.end()
	require.Error(t, err)
	require.Contains(t, carol.stderr.String(), "the server closed the connection")
}

func TestClientShowsWhyItsLoginIsRefused(t *testing.T) {
	addr, _ := serve(t)
	login(t, addr, "carol")
	shown, err := openTerminal(t, addr, "carol").end()
	require.Error(t, err)
	require.Contains(t, shown, "error: the login carol is taken")
}

func TestClientSpeaksTLS(t *testing.T) {
	addr, _ := serve(t, "-tls-self-signed")
	carol := openTerminal(t, addr, "carol", "-tls-insecure")
	io.WriteString(carol.typed, "carol: hi\n")
	carol.expect("from carol: hi")
	carol.typed.Close()
	_, err := carol.end()
	require.NoError(t, err, carol.stderr.String())

	// Nobody vouches for that certificate.
	dave := openTerminal(t, addr, "dave", "-tls")
	_, err = dave.end()
	require.Error(t, err)
	require.Contains(t, dave.stderr.String(), "certificate")
}

func TestClientFindsNoServer(t *testing.T) {
	addr, stop := serve(t)
	stop()
	carol := openTerminal(t, addr, "carol")
	_, err := carol.end()
	require.Error(t, err)
	require.Contains(t, carol.stderr.String(), "connection refused")
}

func TestFlagsThatMakeNoSense(t *testing.T) {
	for flags, about := range map[string]string{
		"-connect 127.0.0.1:1": "-name",
		"-name carol":          "-connect",
		"serve":                "serve",
		"-addr nowhere:x":      "unknown port",
		"-replay -1":           "negative",
		"-rate -1":             "negative",
		"-per-address -1":      "negative",
		"-resume -takeover":    "does not go with",
		"-linger -1s":          "negative",
		"-tls":                 "-connect",
		"-tls-cert x":          "-tls-key",
		"-tls-self-signed -tls-cert x -tls-key y": "-tls-self-signed does not go with",
		"-tls-cert x -tls-key y":                  "certificate for TLS: open x",
	} {
		out, err := chat(strings.Fields(flags)...).CombinedOutput()
		require.Error(t, err, flags)
		require.Contains(t, string(out), about)
	}
}
