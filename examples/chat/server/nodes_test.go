package server

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
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

// TestForward keeps lines of a user who is at another server already. They are sent there, and kept as
// long as that server refuses them.
func TestForward(t *testing.T) {
	r := new(otherServer)
	s := New(Options{Takeover: true, Log: slog.New(slog.DiscardHandler), Broker: sendq.BrokerOptions{Relay: r}})
	keep := func(line string) { s.keep("bob", slices.Values([][]byte{[]byte(line)}), nil) }
	r.refuses.Store(true)
	r.node.Apply("b", []relay.Event{{Kind: relay.EventJoined, Name: "bob", Token: 1}}, true)
	keep("one\n")
	isKept := func() bool {
		s.missed.mu.Lock()
		defer s.missed.mu.Unlock()
		return len(s.missed.lines["bob"]) == 1
	}
	require.Eventually(t, func() bool { return r.refused.Load() > 0 && isKept() }, chattest.Patience, time.Millisecond)
	r.refuses.Store(false)
	keep("two\n")
	require.Eventually(t, func() bool { return r.got() == "one\ntwo\n" }, chattest.Patience, time.Millisecond)
}

// An otherServer is a relay to a server that may refuse messages.
type otherServer struct {
	lossyRelay
	refuses atomic.Bool
	refused atomic.Int64
	mu      sync.Mutex
	lines   []byte
}

func (r *otherServer) Post(_ string, d relay.Delivery, outcome func(relay.Outcome)) {
	if r.refuses.Load() {
		r.refused.Add(1)
		go outcome(relay.Outcome{Err: sendq.ErrSlowConsumer})
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, bytes.Join(d.Messages, nil)...)
	go outcome(relay.Outcome{Accepted: len(d.Messages)})
}

func (r *otherServer) got() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return string(r.lines)
}
