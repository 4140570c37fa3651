package natsrelay

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/relay"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestConnectFails(t *testing.T) {
	for _, opts := range []Options{
		{Cluster: "a.b"},
		{Cluster: ">"},
		{Node: "a b"},
		{Lease: time.Millisecond},
		{Timeout: -1},
		{MaxQueuedBytes: -1},
		{Replicas: -1},
	} {
		_, err := Connect(servers(t).url(), &opts)
		assert.ErrorContains(t, err, "natsrelay: ", "%+v", opts)
	}
	s := newNATSServer(t)
	_, err := Connect(s.url, &Options{Timeout: 2 * time.Second})
	assert.ErrorContains(t, err, "the NATS servers need JetStream")
	s.stop()
	for _, o := range []nats.Option{nats.Name("x"), nats.RetryOnFailedConnect(true)} {
		_, err = Connect(s.url, nil, o)
		assert.ErrorIs(t, err, nats.ErrNoServers)
	}
}

// TestOneServer uses a single server with a password.
func TestOneServer(t *testing.T) {
	s := newNATSServer(t, "-js", "-sd", t.TempDir(), "-user", "user", "-pass", "secret")
	_, err := Connect(s.url, nil)
	assert.ErrorIs(t, err, nats.ErrAuthorization)
	n := newFake(t, s.url, Options{}, nats.UserInfo("user", "secret"))
	_, _, err = n.relay.Claim(t.Context(), "x", false)
	require.NoError(t, err)
	require.NoError(t, n.relay.Close(t.Context()))
}

// TestErrorsShowNoSecrets connects with credentials in the URL, and finds them in no error.
func TestErrorsShowNoSecrets(t *testing.T) {
	for servers, shown := range map[string]string{
		"nats://user:secret@127.0.0.1:1":                     "nats://127.0.0.1:1",
		"nats://secret@127.0.0.1:1, user:secret@127.0.0.1:2": "nats://127.0.0.1:1,nats://127.0.0.1:2",
		"user:secret@127.0.0.1:1":                            "nats://127.0.0.1:1",
		"nats://user:secret%zz@127.0.0.1:1":                  "(malformed URL)",
		"nats://user:secret@127.0.0.1:port":                  "(malformed URL)",
	} {
		_, err := Connect(servers, nil)
		require.ErrorContains(t, err, "natsrelay: connect to "+shown+": ")
		assert.NotContains(t, err.Error(), "secret")
	}
}

// TestTwoServers connects to a cluster that has too few servers for three replicas.
func TestTwoServers(t *testing.T) {
	requireServers(t)
	c := newNATSClusterOf(2, t.TempDir())
	t.Cleanup(c.stop)
	_, err := Connect(c.url(0, 1), &Options{Timeout: 5 * time.Second, Replicas: 3})
	require.ErrorContains(t, err, "no suitable peers")
	log := new(logBuffer)
	n := newFake(t, c.url(0, 1), Options{Log: slog.New(slog.NewTextHandler(log, nil))})
	assert.Contains(t, log.String(), "replicas=2 wanted=3")
	_, _, err = n.relay.Claim(t.Context(), "x", false)
	require.NoError(t, err)
}

// TestThreeServers starts three servers as README.md says. The names are on all of them.
func TestThreeServers(t *testing.T) {
	requireServers(t)
	config := configOf(t, "server_name: a\n")
	clients, routes := freePorts(3), freePorts(3)
	for i, port := range routes {
		config = strings.ReplaceAll(config, fmt.Sprintf("nats://%c:6222", 'a'+i), fmt.Sprint("nats://127.0.0.1:", port))
	}
	var urls []string
	var servers []*natsServer
	for i, port := range routes {
		own := strings.NewReplacer("server_name: a", fmt.Sprintf("server_name: %c", 'a'+i), "0.0.0.0:6222", fmt.Sprint("127.0.0.1:", port))
		file := filepath.Join(t.TempDir(), "nats.conf")
		require.NoError(t, os.WriteFile(file, []byte(own.Replace(config)), 0o600))
		s := &natsServer{args: []string{"-c", file, "-a", "127.0.0.1", "-p", fmt.Sprint(clients[i]), "-sd", t.TempDir()}}
		s.start()
		t.Cleanup(s.stop)
		servers = append(servers, s)
	}
	for _, s := range servers {
		s.waitUntilReady()
		urls = append(urls, s.url)
	}
	n := newFake(t, strings.Join(urls, ","), Options{})
	stream, err := n.relay.registry.bucket.(*bucket).js.Stream(t.Context(), "KV_"+n.relay.opts.Cluster)
	require.NoError(t, err)
	assert.Equal(t, 3, stream.CachedInfo().Config.Replicas)
}

// TestJetStreamErrors connects where JetStream refuses what a node needs. The errors say why.
func TestJetStreamErrors(t *testing.T) {
	s := newConfiguredServer(t, `
		jetstream { max_memory_store: 1GB }
		accounts { A { users: [{user: a, password: a}] }, B { jetstream: true, users: [{user: b, password: b}] } }`)
	_, err := Connect(s.url, &Options{Timeout: 2 * time.Second}, nats.UserInfo("a", "a"))
	assert.ErrorContains(t, err, "the NATS servers need JetStream, in the account of this user")

	s = newConfiguredServer(t, `jetstream { max_memory_store: 600 }`)
	n := newFake(t, s.url, Options{Timeout: 4 * time.Second, Lease: 3 * time.Second})
	for i := 0; err == nil || i == 0; i++ {
		_, _, err = n.relay.Claim(t.Context(), fmt.Sprint(i), false)
	}
	assert.ErrorContains(t, err, "insufficient resources")
	assert.NotErrorIs(t, err, context.DeadlineExceeded, "the answer is no")
	for range maxWorkers {
		_, _, err = n.relay.Claim(t.Context(), "x", false)
		assert.ErrorContains(t, err, "insufficient resources")
	}
	eventually(t, func() bool { return n.relay.registry.leaseAge() > n.relay.opts.Lease }) // it needs room too
	_, _, err = n.relay.Claim(t.Context(), "x", false)
	assert.ErrorContains(t, err, "insufficient resources")
	n.relay.Release("0") // needs a worker and the bucket
	eventually(t, func() bool {
		_, _, err = n.relay.Claim(t.Context(), "x", false)
		return err == nil
	})
}

// TestSmallerPayload restarts NATS with a smaller limit on messages while larger envelopes are queued.
// The other node learns how many messages it has missed, and gets later ones.
func TestSmallerPayload(t *testing.T) {
	file := filepath.Join(t.TempDir(), "nats.conf")
	limit := func(bytes int) {
		require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, "max_payload: %d", bytes), 0o600))
	}
	requireServers(t)
	limit(1 << 20)
	s := &natsServer{args: []string{"-c", file, "-a", "127.0.0.1", "-p", fmt.Sprint(freePorts(1)[0]), "-js", "-sd", t.TempDir()}}
	s.start()
	s.waitUntilReady()
	t.Cleanup(func() { s.stop() })
	a, b := newFake(t, s.url, Options{Lease: time.Minute}), newFake(t, s.url, Options{Lease: time.Minute})
	waitUntilAllKnow(t, a, b)
	s.stop()
	big := relay.Delivery{Messages: [][]byte{make([]byte, 20<<10)}}
	outcomes := make(chan relay.Outcome, 1)
	for range 10 {
		a.relay.Post(b.relay.id, big, nil)
	}
	a.relay.Post(b.relay.id, big, func(o relay.Outcome) { outcomes <- o })
	limit(4 << 10)
	s.start()
	s.waitUntilReady()
	require.ErrorIs(t, (<-outcomes).Err, sendq.ErrUnconfirmed)
	a.postNumbers(b, 100, nil)
	a.relay.Post(b.relay.id, big, func(o relay.Outcome) { outcomes <- o })
	require.Equal(t, 1, (<-outcomes).Accepted, "a new message is divided")
	eventually(t, func() bool { return isAccounted(a, b) })
	assert.Equal(t, 11, b.recorded().missed)
	a.announce(relay.Event{Kind: relay.EventJoined, Name: "x"})
	eventually(t, func() bool { return len(b.recorded().learned[a.relay.id]) == 1 })

	limit(100)
	s.stop()
	s.start()
	s.waitUntilReady()
	_, err := Connect(s.url, nil)
	require.ErrorContains(t, err, "max_payload of the NATS server is 100 bytes, want at least 1024")
}
