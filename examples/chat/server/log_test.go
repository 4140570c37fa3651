package server

import (
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq/examples/chat/core"
	"github.com/sendq-go/sendq/examples/chat/internal/chattest"
)

// The operator is told of the end of each connection.
func TestLog(t *testing.T) {
	t.Parallel()
	server := start(t)
	for name, end := range map[string]func(c *chattest.Client){
		"quits":  func(c *chattest.Client) { c.Say("/quit") },
		"closes": func(c *chattest.Client) { c.CloseWrite() },
		"errs":   func(c *chattest.Client) { c.Say(strings.Repeat("x", core.MaxLine+1)) },
	} {
		c := server.login(t, name)
		end(c)
		io.ReadAll(c.Lines)
	}
	resets := server.login(t, "resets")
	resets.Reset()
	refused := server.connect(t)
	refused.Say("a b")
	io.ReadAll(refused.Lines)
	alice := server.login(t, "alice")
	require.Eventually(t, func() bool { return alice.Ask("/who") == "names: alice" }, chattest.Patience, time.Millisecond)

	said := server.stop(t)
	for _, want := range []string{
		`INFO session ended user=quits peer=` + `.* cause="the user has quit" after=.* sent.accepted=1 sent.written=1 sent.accepted_bytes=`,
		`INFO session ended user=closes .* cause="the connection has ended: EOF"`,
		`INFO session ended user=errs .* cause="the line is longer than 65536 bytes"`,
		`WARN connection lost user=resets .* cause="the connection has ended: .*reset`,
		`INFO connection without login ended user="" .* cause="a login is 1 to 32`,
		`INFO session ended user=alice .* cause="the server is shutting down"`,
	} {
		require.Regexp(t, want, said)
	}
}
