package server

import (
	"context"
	"io"
	"log/slog"
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/examples/chat/internal/chattest"
)

// listen returns a listener on a free port, and its address.
func listen(t *testing.T) (l net.Listener, addr string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	return l, l.Addr().String()
}

// TestServeOtherwise: a program can serve in its own way, with a Broker of its own choice.
func TestServeOtherwise(t *testing.T) {
	t.Parallel()
	first, addr := listen(t)
	second, otherAddr := listen(t)
	handled, handledAddr := listen(t)
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error)
	s := New(Options{Log: slog.New(slog.DiscardHandler), Broker: sendq.BrokerOptions{NamePolicy: sendq.NameAttach}})
	go func() { served <- s.Serve(ctx, first) }()
	go func() { served <- s.Serve(ctx, second) }()
	go func() {
		for {
			conn, err := handled.Accept()
			if err != nil {
				return
			}
			go s.Handle(conn)
		}
	}()
	defer handled.Close()

	alice, bob := chattest.Login(t, addr, "alice"), chattest.Login(t, otherAddr, "bob")
	again := chattest.Login(t, handledAddr, "bob")
	alice.Say("bob: hi")
	bob.Expect("from alice: hi")
	again.Expect("from alice: hi")
	stop()
	require.NoError(t, <-served)
	require.NoError(t, <-served)
	alice.ExpectEnd()
	bob.ExpectEnd()
	again.ExpectEnd()

	late := chattest.Dial(t, handledAddr)
	_, err := io.ReadAll(late.Lines)
	require.NoError(t, err)
}
