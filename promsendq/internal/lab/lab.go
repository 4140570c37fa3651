// Package lab starts the servers of the operating system's packages, and nodes of a cluster, for
// tests. A test is skipped if the server is not installed.
package lab

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq/internal/missing"
)

// patience bounds the wait for a server, also on a busy machine.
const patience = time.Minute

// Find returns the path of a program, or calls missing.Skip.
func Find(t testing.TB, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		missing.Skip(t, err)
	}
	return path
}

// WaitFor waits until f returns true. Unlike require.Eventually it calls f in the goroutine of the
// test, so f may end the test.
func WaitFor(t testing.TB, f func() bool, what ...any) {
	t.Helper()
	for start := time.Now(); !f(); time.Sleep(10 * time.Millisecond) {
		if time.Since(start) > patience {
			require.Fail(t, "waited too long", what...)
		}
	}
}

// start starts a program, which ends with the test, and waits until isReady.
func start(t testing.TB, isReady func() bool, path string, args ...string) {
	t.Helper()
	var output bytes.Buffer
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = &output, &output
	require.NoError(t, cmd.Start())
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
	})
	WaitFor(t, func() bool {
		select {
		case <-ended:
			require.Fail(t, path+" ended", output.String())
		default:
		}
		return isReady()
	}, path)
}

// freePort returns a port of 127.0.0.1 that was free a moment ago. The kernel gives none of this range
// to a client that connects in between.
func freePort(t testing.TB) string {
	t.Helper()
	for range 100 {
		port := fmt.Sprint(20_000 + rand.IntN(10_000))
		if l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", port)); err == nil {
			require.NoError(t, l.Close())
			return port
		}
	}
	require.Fail(t, "no free port")
	return ""
}
