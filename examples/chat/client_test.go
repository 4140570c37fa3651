package main

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A terminal is the chat client, run as users run it.
type terminal struct {
	cmd    *exec.Cmd
	typed  io.WriteCloser
	shown  *bufio.Reader
	stderr strings.Builder
}

func (p *process) openTerminal(t *testing.T, name string) *terminal {
	c := &terminal{cmd: exec.Command(os.Args[0], "-connect", p.addr, "-name", name)}
	c.cmd.Env = environment
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

// end takes what is shown until the client ends by itself.
func (c *terminal) end(t *testing.T) (shown string, err error) {
	rest, err := io.ReadAll(c.shown)
	require.NoError(t, err)
	return string(rest), c.cmd.Wait()
}

func TestClientShowsWhatArrivesAndSendsWhatIsTyped(t *testing.T) {
	server := start(t)
	bob := server.login(t, "bob")
	carol := server.openTerminal(t, "carol")
	io.WriteString(carol.typed, "bob: hi\n")
	bob.expect("from carol: hi")
	bob.say("carol: hello")
	line, err := carol.shown.ReadString('\n') // while nothing is typed
	require.NoError(t, err)
	require.Equal(t, "from bob: hello\n", line)

	// Ctrl-D: what was typed goes out, and is answered, before the client ends.
	for range 10_000 {
		io.WriteString(carol.typed, "bob: bye\n")
	}
	io.WriteString(carol.typed, "/who") // a last line without an end counts
	carol.typed.Close()
	shown, err := carol.end(t)
	require.NoError(t, err, carol.stderr.String())
	require.Equal(t, "names: bob, carol\n", shown)
	for range 10_000 {
		bob.expect("from carol: bye")
	}
}

func TestClientQuits(t *testing.T) {
	server := start(t)
	carol := server.openTerminal(t, "carol")
	io.WriteString(carol.typed, "/who\n/quit\n")
	shown, err := carol.end(t)
	require.NoError(t, err, carol.stderr.String())
	require.Equal(t, "names: carol\n", shown)
}

func TestClientSaysThatTheServerWentAway(t *testing.T) {
	server := start(t)
	carol := server.openTerminal(t, "carol")
	io.WriteString(carol.typed, "/who\n")
	carol.shown.ReadString('\n')
	server.stop(t)
	_, err := carol.end(t)
	require.Error(t, err)
	require.Contains(t, carol.stderr.String(), "the server closed the connection")
}

func TestClientShowsWhyItsLoginIsRefused(t *testing.T) {
	server := start(t)
	server.login(t, "carol")
	again := server.openTerminal(t, "carol")
	shown, err := again.end(t)
	require.Error(t, err)
	require.Contains(t, shown, "error: the login carol is taken")
}

func TestClientFindsNoServer(t *testing.T) {
	server := start(t)
	server.stop(t)
	carol := server.openTerminal(t, "carol")
	_, err := carol.end(t)
	require.Error(t, err)
	require.Contains(t, carol.stderr.String(), "connection refused")
}

func TestFlagsThatMakeNoSense(t *testing.T) {
	for flags, about := range map[string]string{
		"-connect 127.0.0.1:1": "-name",
		"-name carol":          "-connect",
		"serve":                "serve",
		"-addr nowhere:x":      "unknown port",
	} {
		cmd := exec.Command(os.Args[0], strings.Fields(flags)...)
		cmd.Env = environment
		out, err := cmd.CombinedOutput()
		require.Error(t, err, flags)
		require.Contains(t, string(out), about)
	}
}
