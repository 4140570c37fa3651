package natsrelay

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/sendq-go/sendq/internal/netlab"
	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq/internal/missing"
)

// A natsServer is a NATS server in a process of its own.
type natsServer struct {
	url string // known when the server was ready once

	args   []string     // flags of nats-server
	host   *netlab.Host // nil: this one
	cmd    *exec.Cmd
	input  io.Closer
	output *bufio.Reader
}

// newNATSServer returns a server that is ready. It stops with the test.
func newNATSServer(t *testing.T, args ...string) *natsServer {
	t.Helper()
	requireServers(t)
	s := &natsServer{args: append(args, "-a", "127.0.0.1", "-p", "-1")}
	s.start()
	t.Cleanup(s.stop)
	s.waitUntilReady()
	return s
}

// start starts the process.
func (s *natsServer) start() {
	program, err := serverProgram()
	must(err)
	s.cmd = exec.Command(program, s.args...)
	s.cmd.Stderr = os.Stderr
	s.input, err = s.cmd.StdinPipe()
	must(err)
	output, err := s.cmd.StdoutPipe()
	must(err)
	s.output = bufio.NewReader(output)
	start := func() { err = s.cmd.Start() }
	if s.host == nil {
		start()
	} else {
		s.host.Do(start)
	}
	must(err)
}

// waitUntilReady waits for the URL that the server prints when it is ready.
func (s *natsServer) waitUntilReady() {
	late := time.AfterFunc(time.Minute, s.kill)
	defer late.Stop()
	_, err := fmt.Fscanln(s.output, &s.url)
	must(err)
}

// stop shuts the server down.
func (s *natsServer) stop() {
	s.input.Close()
	_ = s.cmd.Wait()
}

// kill ends the process with SIGKILL.
func (s *natsServer) kill() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}

// requireServers skips a test where the module of the server is missing. The module natsrelay does
// not contain it, so it exists only in a clone.
func requireServers(t testing.TB) {
	t.Helper()
	if _, err := os.Stat(serverModule); err != nil {
		missing.Skip(t, "the NATS server of a clone: ", err)
	}
	_, err := serverProgram()
	require.NoError(t, err)
}

const serverModule = "internal/natsserver"

// serverProgram builds the server and returns the path of the program.
var serverProgram = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "natsrelay")
	if err != nil {
		return "", err
	}
	atExit(func() { _ = os.RemoveAll(dir) })
	// With -trimpath, internal/outside shares the compiled packages of nats-server.
	build := exec.Command("go", "build", "-trimpath", "-o", dir+string(filepath.Separator), ".")
	build.Dir = serverModule
	if output, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", serverModule, err, output)
	}
	return exec.LookPath(filepath.Join(dir, "natsserver"))
})

func must(err error) {
	if err != nil {
		panic(err)
	}
}
