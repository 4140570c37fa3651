package server

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq/examples/chat/core"
	"github.com/sendq-go/sendq/examples/chat/internal/chattest"
)

// dialTLS connects to a server with a self-signed certificate.
func (p *process) dialTLS(t *testing.T) *chattest.Client {
	c := p.connect(t)
	conn := tls.Client(chattest.Patient{TCPConn: c.TCPConn}, &tls.Config{InsecureSkipVerify: true})
	c.Lines, c.Out = bufio.NewReader(conn), conn
	return c
}

func TestTLS(t *testing.T) {
	t.Parallel()
	server := start(t, "-tls-self-signed")
	alice, bob := server.dialTLS(t), server.dialTLS(t)
	bob.Say("bob")
	bob.Ask("/who")
	alice.Say("alice")
	alice.Ask("/who")
	text := strings.Repeat("x", core.MaxLine-len("bob: "))
	const messages = 100 // more than the kernel buffers
	for range messages {
		alice.Say("bob: " + text)
	}
	alice.ExpectSilence()
	bob.Say("/quit")
	for range messages {
		bob.Expect("from alice: " + text)
	}
	bob.ExpectEnd()
	alice.Say("alice: " + text + "x")
	alice.ExpectError("longer than")
	alice.ExpectEnd()
}

// TestLoginTakesTooLong: a client is told, unless its TLS handshake has not ended.
func TestLoginTakesTooLong(t *testing.T) {
	if testing.Short() {
		t.Skip("takes as long as the server gives a client for its login")
	}
	t.Parallel()
	plain, secure := start(t), start(t, "-tls-self-signed")
	told, silent, slow := plain.connect(t), secure.connect(t), secure.connect(t)
	told.Write([]byte("ali")) // not a line
	hello, err := io.ReadAll(io.LimitReader(clientHello(), 100))
	require.NoError(t, err)
	_, err = slow.Write(hello) // a part of it
	require.NoError(t, err)

	told.ExpectError("within 10s")
	told.ExpectEnd()
	silent.ExpectEnd()
	slow.ExpectEnd()
	require.Contains(t, secure.stop(t), "within 10s")
}

// clientHello reads the first bytes of a TLS client.
func clientHello() io.Reader {
	conn, peer := net.Pipe()
	go tls.Client(conn, &tls.Config{InsecureSkipVerify: true}).Handshake()
	return peer
}
