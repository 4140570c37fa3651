package server

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq/examples/chat/internal/chattest"
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

// A process is a chat server that runs as users run it.
type process struct {
	addr   string
	cmd    *exec.Cmd
	stderr *bytes.Buffer // the output after "listening on"; complete after stop
	copied chan struct{}
}

// start runs the server on a free port, with flags.
func start(t *testing.T, flags ...string) *process { return startBy(t, nil, flags...) }

// startBy is start by another command, such as a shell with limits.
func startBy(t *testing.T, before []string, flags ...string) *process {
	if runtime.GOOS == "windows" {
		t.Skip("needs a signal that ends a program, and Windows has none")
	}
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

// stop ends the server as an operator does, and returns its output.
func (p *process) stop(t *testing.T) string {
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	guard := time.AfterFunc(chattest.Patience, func() { p.cmd.Process.Kill() })
	defer guard.Stop()
	<-p.copied
	assert.NoError(t, p.cmd.Wait(), "the server exits with status 0; it said: %s", p.stderr)
	assert.NotContains(t, p.stderr.String(), "DATA RACE")
	return p.stderr.String()
}

// connect connects to the server.
func (p *process) connect(t *testing.T) *chattest.Client {
	t.Helper()
	return chattest.Dial(t, p.addr)
}

// login connects and waits until the server knows the name.
func (p *process) login(t *testing.T, name string) *chattest.Client {
	t.Helper()
	return chattest.Login(t, p.addr, name)
}
