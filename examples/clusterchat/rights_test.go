package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq/internal/missing"
)

// startWithRights starts a NATS server that grants a node the rights in the README of natsrelay, and
// these further ones. It returns the URL for the node.
func startWithRights(t *testing.T, rights []string) (url string) {
	readme, err := os.ReadFile("../../natsrelay/README.md")
	if err != nil {
		missing.Skip(t, "the documentation of a clone: ", err)
	}
	config := regexp.MustCompile("(?s)```conf\n(jetstream.*?)```").FindSubmatch(readme)
	require.NotNil(t, config)
	file := filepath.Join(t.TempDir(), "nats.conf")
	granted := strings.Replace(string(config[1]), "publish: [", "publish: [\n"+strings.Join(rights, "\n"), 1)
	require.NoError(t, os.WriteFile(file, []byte(granted), 0o600))
	o, err := natsserver.ProcessConfigFile(file)
	require.NoError(t, err)
	o.Host, o.Port, o.StoreDir, o.NoLog, o.NoSigs = "127.0.0.1", -1, t.TempDir(), true, true
	s, err := natsserver.NewServer(o)
	require.NoError(t, err)
	s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	require.True(t, s.ReadyForConnections(patience))
	return "nats://node:secret@" + s.Addr().String()
}

// furtherRights returns the rights that the documentation of this program adds.
func furtherRights(t *testing.T) []string {
	source, err := os.ReadFile("main.go")
	require.NoError(t, err)
	rights := regexp.MustCompile(`"\$\S+-tickets\S*"`).FindAllString(string(source), -1)
	require.Len(t, rights, 5)
	return rights
}

// TestRights: the documented rights are enough for users who come back, at a running node and after a
// stop.
func TestRights(t *testing.T) {
	url := startWithRights(t, furtherRights(t))
	first, second := start(t, url, "-resume", "-linger", "8s"), start(t, url, "-resume", "-linger", "8s")
	alice, aliceKey := first.loginWithKey("alice")
	bob, bobKey := first.loginWithKey("bob")
	require.NoError(t, bob.conn.Close())
	bob, answer := second.comeBack("bob " + bobKey + " 1 0")
	require.Equal(t, "* back: 0 lines", answer)
	bob.say("/quit")
	require.Empty(t, bob.rest())
	_, answer = first.comeBack("bob " + bobKey + " 2 1")
	require.Contains(t, answer, "taken")
	first.stop()
	require.Empty(t, alice.rest())
	_, answer = second.comeBack("alice " + aliceKey + " 1 0")
	require.Equal(t, "* back: lines are missing", answer)
	for _, n := range []*node{first, second} {
		require.NotContains(t, n.log.String(), "WARN")
	}
}

// TestMissingRights takes one right after the other away. The program says which.
func TestMissingRights(t *testing.T) {
	rights := furtherRights(t)
	for i, right := range rights {
		t.Run(right, func(t *testing.T) {
			t.Parallel()
			rest := append(append([]string(nil), rights[:i]...), rights[i+1:]...)
			said := requireFails(t, "-addr", "127.0.0.1:0", "-nats", startWithRights(t, rest), "-resume")
			subject, _ := strings.CutSuffix(strings.Trim(right, `"`), ">")
			require.Contains(t, said, "clusterchat: -resume needs a right at NATS, see Rights in the documentation: ")
			require.Contains(t, said, subject)
		})
	}
}
