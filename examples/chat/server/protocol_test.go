package server

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq/examples/chat/internal/chattest"
)

// TestProtocol: all armour keeps the protocol.
func TestProtocol(t *testing.T) {
	for name, flags := range map[string][]string{
		"by default":  nil,
		"with limits": {"-per-address", "100", "-rate", "1000000"},
	} {
		t.Run(name, func(t *testing.T) {
			chattest.Protocol(t, func(t *testing.T) string { return start(t, flags...).addr })
		})
	}
}

// One line for thousands of names is one message.
func TestLineForManyNames(t *testing.T) {
	t.Parallel()
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
	alice.Say(strings.Join(names, ",") + ":" + strings.Repeat("x", 30_000))
	for _, name := range names {
		alice.Expect("error: no such user: " + name)
	}
	require.Less(t, peak()-before, 50_000)
}
