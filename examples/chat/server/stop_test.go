package server

import (
	"context"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq/examples/chat/internal/chattest"
)

func TestStopDeliversWhatIsQueued(t *testing.T) {
	t.Parallel()
	server := start(t)
	alice, bob := server.login(t, "alice"), server.login(t, "bob")
	alice.Say("/join #go")
	alice.Expect("* alice joined #go")
	server.connect(t) // a client without a login holds nothing up

	text := strings.Repeat("x", 60_000)
	const size = 10 << 20
	messages := size/len(text) + 1
	for range messages {
		alice.Say("bob: " + text)
	}
	alice.ExpectSilence() // all are accepted; bob has read none

	stopped := make(chan string)
	go func() { stopped <- server.stop(t) }()
	alice.ExpectEnd()
	for i := range messages { // slowly
		bob.Expect("from alice: " + text)
		if i%10 == 0 {
			time.Sleep(10 * time.Millisecond)
		}
	}
	bob.ExpectEnd()
	require.NotContains(t, <-stopped, "lost")
}

func TestStopSaysWhatIsLost(t *testing.T) {
	if testing.Short() {
		t.Skip("takes as long as the server gives a client to take what is queued")
	}
	t.Parallel()
	server := start(t)
	alice, bob := server.login(t, "alice"), server.login(t, "bob")
	text := strings.Repeat("x", 60_000)
	for range 200 {
		alice.Say("bob: " + text)
	}
	alice.ExpectSilence()
	said := server.stop(t) // bob never reads
	require.Contains(t, said, "user=bob")
	require.Contains(t, said, "undelivered messages")
	require.NotContains(t, said, `WARN connection lost user=alice`)
	bob.Close()
}

func TestStopWithNobodyThere(t *testing.T) {
	t.Parallel()
	require.Empty(t, start(t).stop(t))
}

func TestDrainSpreadsTheEnds(t *testing.T) {
	t.Parallel()
	server := start(t, "-drain", "2s")
	alice, bob := server.login(t, "alice"), server.login(t, "bob")
	server.connect(t) // a client without a login holds nothing up
	began := time.Now()
	stopped := make(chan string)
	go func() { stopped <- server.stop(t) }()
	alice.ExpectEnd()
	bob.ExpectEnd()
	require.GreaterOrEqual(t, time.Since(began), time.Second, "the second turn comes after half of the time")
	require.NotContains(t, <-stopped, "lost")
}

// A key outlives the server of its user, unless the user has said goodbye.
func TestStopKeepsTickets(t *testing.T) {
	t.Parallel()
	all := &localTickets{byUser: make(map[string]Ticket)}
	s := New(Options{Resume: true, Tickets: all, Log: slog.New(slog.DiscardHandler)})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error)
	go func() { served <- s.Serve(ctx, l) }()
	for _, user := range []string{"alice", "bob", "carol"} {
		c := chattest.Login(t, l.Addr().String(), user)
		switch user {
		case "bob":
			c.Reset()
			require.Eventually(t, func() bool { return s.Broker().Stats().Away == 1 }, chattest.Patience, time.Millisecond)
		case "carol":
			c.Say("/quit")
			c.ExpectEnd()
		}
	}
	stop()
	require.NoError(t, <-served)
	for user, keeps := range map[string]bool{"alice": true, "bob": true, "carol": false} {
		ticket, err := all.Get(t.Context(), user)
		require.NoError(t, err)
		require.Equal(t, keeps, ticket.Hash != nil, user)
	}
}
