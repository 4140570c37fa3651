//go:build unix

package main

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestFrozenNode suspends a node for longer than a lease. The others do not wait for it, and bob logs
// in elsewhere. When the node resumes, the new bob stays.
func TestFrozenNode(t *testing.T) {
	nodes, users := threeNodes(t, "-lease", "2s")
	alice, old, carol := users[0], users[1], users[2]
	require.NoError(t, nodes[1].cmd.Process.Signal(syscall.SIGSTOP))
	const lines = 2000
	for i := range lines {
		fmt.Fprintf(alice.conn, "#go: %d\n", i)
	}
	for i := range lines {
		carol.expect(fmt.Sprintf("from alice in #go: %d", i))
	}
	untilAll([]*client{alice, carol}, "/who", "names: alice, carol")
	bob := nodes[2].connect("bob")
	require.NoError(t, nodes[1].cmd.Process.Signal(syscall.SIGCONT))
	rest, isTold := strings.CutSuffix(old.rest(), "error: you are logged in on another server\n")
	require.True(t, isTold)
	for line := range strings.Lines(rest) {
		require.Regexp(t, `^from alice in #go: |^\* \w+ left #go`, line)
	}
	alice.until("/who", "names: alice, bob, carol")
	alice.say("bob: still you?")
	bob.expect("from alice: still you?")
	dave := nodes[1].connect("dave") // the node is part of the cluster again
	alice.until("/who", "names: alice, bob, carol, dave")
	alice.say("dave: hi")
	dave.expect("from alice: hi")
}

// TestSlowNode suspends a node briefly. The others do not wait for it, and it misses nothing.
func TestSlowNode(t *testing.T) {
	nodes, users := threeNodes(t, "-lease", "30s")
	alice, bob, carol := users[0], users[1], users[2]
	require.NoError(t, nodes[1].cmd.Process.Signal(syscall.SIGSTOP))
	const lines = 20000
	go func() {
		for i := range lines {
			fmt.Fprintf(alice.conn, "#go: %d\n", i)
		}
	}()
	for i := range lines {
		carol.expect(fmt.Sprintf("from alice in #go: %d", i))
	}
	require.NoError(t, nodes[1].cmd.Process.Signal(syscall.SIGCONT))
	for i := range lines {
		bob.expect(fmt.Sprintf("from alice in #go: %d", i))
	}
}
