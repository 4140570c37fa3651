package server

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/examples/chat/internal/chattest"
	"github.com/sendq-go/sendq/relay"
)

// TestRelayLoses: the log has the losses between servers.
func TestRelayLoses(t *testing.T) {
	t.Parallel()
	r, logged := new(lossyRelay), make(logLines, 100)
	s := New(Options{Log: slog.New(slog.NewTextHandler(logged, nil)), Broker: sendq.BrokerOptions{Relay: r}})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error)
	go func() { served <- s.Serve(ctx, l) }()
	require.Eventually(t, func() bool {
		r.node.MessagesLost("b", 3)
		return logged.have("node=b messages=3")
	}, chattest.Patience, 10*time.Millisecond)
	cancel()
	require.NoError(t, <-served)
	require.True(t, logged.have("not confirmed"))
}

// A lossyRelay has no other nodes, and cannot confirm that anything has arrived.
type lossyRelay struct {
	relay.Transport
	node relay.Node
}

func (r *lossyRelay) Start(node relay.Node) string {
	r.node = node
	return "a"
}

func (r *lossyRelay) Close(context.Context) error { return errors.New("not confirmed") }

// logLines are the lines of a log, one a Write.
type logLines chan string

func (c logLines) Write(p []byte) (int, error) {
	c <- string(p)
	return len(p), nil
}

// have takes lines until one contains what, and reports whether there is one.
func (c logLines) have(what string) bool {
	for {
		select {
		case line := <-c:
			if strings.Contains(line, what) {
				return true
			}
		default:
			return false
		}
	}
}

// Users are told why somebody did not get a message.
func TestWhy(t *testing.T) {
	for err, want := range map[error]string{
		sendq.ErrClosed:       "bob has just left",
		sendq.ErrUnconfirmed:  "the server of bob does not answer: the message may have arrived, or not",
		errors.New("another"): "the message to bob was not sent: try again later",
	} {
		require.Equal(t, want, why(sendq.Refusal{Name: "bob", Err: err}))
	}
}
