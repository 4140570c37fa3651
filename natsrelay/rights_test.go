package natsrelay

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// rightsConfig returns the configuration with rights in README.md.
func rightsConfig(t *testing.T) string { return configOf(t, "jetstream") }

// configOf returns the configuration of a NATS server in README.md that begins with a word.
func configOf(t *testing.T, word string) string {
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	config := regexp.MustCompile("(?s)```conf\n(" + word + ".*?)```").FindSubmatch(readme)
	require.NotNil(t, config)
	return string(config[1])
}

// newConfiguredServer returns a server with a configuration, for the user of README.md.
func newConfiguredServer(t *testing.T, config string) *natsServer {
	file := filepath.Join(t.TempDir(), "nats.conf")
	require.NoError(t, os.WriteFile(file, []byte(config), 0o600))
	return newNATSServer(t, "-c", file, "-sd", t.TempDir())
}

// TestRights uses a server that grants the rights in README.md and no others.
func TestRights(t *testing.T) {
	s := newConfiguredServer(t, rightsConfig(t))
	log := new(logBuffer)
	opts := Options{Cluster: "sendq", Log: slog.New(slog.NewTextHandler(log, nil)), Lease: time.Second}
	user := nats.UserInfo("node", "secret")
	a, b := newFake(t, s.url, opts, user), newFake(t, s.url, opts, user)
	waitUntilAllKnow(t, a, b)
	_, _, err := a.relay.Claim(t.Context(), "x", false)
	require.NoError(t, err)
	a.relay.Release("x")
	a.postNumbers(b, 100, nil)
	eventually(t, func() bool { return isAccounted(a, b) })
	a.relay.registry.sweep()
	require.NoError(t, a.relay.Close(t.Context()))
	_, revision := b.readKey(t, nameKey("x"))
	require.Zero(t, revision)
	assert.NotContains(t, log.String(), "ermission")
}

// TestMissingRights takes one right after the other away. Connect names it.
func TestMissingRights(t *testing.T) {
	all := rightsConfig(t)
	for _, list := range []string{"publish", "subscribe"} {
		begin := strings.Index(all, list+": [")
		end := begin + strings.Index(all[begin:], "]")
		for _, right := range regexp.MustCompile(`"\S+"`).FindAllString(all[begin:end], -1) {
			t.Run(list+" "+right, func(t *testing.T) {
				t.Parallel()
				s := newConfiguredServer(t, all[:begin]+strings.Replace(all[begin:end], right, "", 1)+all[end:])
				var handled atomic.Int64
				_, err := Connect(s.url, &Options{Timeout: 10 * time.Second}, nats.UserInfo("node", "secret"),
					nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) { handled.Add(1) }))
				require.ErrorIs(t, err, nats.ErrPermissionViolation)
				assert.ErrorContains(t, err, "needs the right to "+list+" "+right)
				eventually(t, func() bool { return handled.Load() > 0 }, "the handler of the caller is called")
			})
		}
	}
}

// TestRefusedLater restarts NATS with one right less. The log of the node says which.
func TestRefusedLater(t *testing.T) {
	requireServers(t)
	config, file := rightsConfig(t), filepath.Join(t.TempDir(), "nats.conf")
	require.NoError(t, os.WriteFile(file, []byte(config), 0o600))
	s := &natsServer{args: []string{"-c", file, "-a", "127.0.0.1", "-p", fmt.Sprint(freePorts(1)[0]), "-sd", t.TempDir()}}
	s.start()
	s.waitUntilReady()
	t.Cleanup(func() { s.stop() })
	log := new(logBuffer)
	newFake(t, s.url, Options{Cluster: "sendq", Log: slog.New(slog.NewTextHandler(log, nil))}, nats.UserInfo("node", "secret"))
	s.stop()
	begin := strings.Index(config, "subscribe: [")
	config = config[:begin] + strings.Replace(config[begin:], `"sendq.all"`, "", 1)
	require.NoError(t, os.WriteFile(file, []byte(config), 0o600))
	s.start()
	s.waitUntilReady()
	eventually(t, func() bool {
		return strings.Contains(log.String(), `Permissions Violation for Subscription to \"sendq.all\"`)
	})
}
