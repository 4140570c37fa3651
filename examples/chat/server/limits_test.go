package server

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPerAddress(t *testing.T) {
	server := start(t, "-per-address", "2")
	alice := server.login(t, "alice")
	server.connect(t) // before its login it counts as well
	for range 3 {
		c := server.connect(t)
		c.say("bob")
		c.expectError("more than 2 connections")
		c.expectEnd()
	}
	alice.say("/quit")
	alice.expectEnd()
	require.Eventually(t, func() bool { // the server has noticed
		c := server.connect(t)
		c.say("bob", "/who")
		return c.next() == "names: bob"
	}, patience, time.Millisecond)
}

func TestAddressesThatCount(t *testing.T) {
	for addr, want := range map[string]string{
		"192.0.2.1:80":              "192.0.2.1",
		"[::ffff:192.0.2.1]:80":     "192.0.2.1",
		"[2001:db8:1:2:3:4:5:6]:80": "2001:db8:1:2::",
		"[fe80::1%eth0]:80":         "fe80::",
		"@":                         "invalid IP",
	} {
		require.Equal(t, want, ipOf(namedAddr(addr)).String())
	}
}

type namedAddr string

func (namedAddr) Network() string  { return "test" }
func (a namedAddr) String() string { return string(a) }

func TestRate(t *testing.T) {
	server := start(t, "-rate", "5")
	alice, bob := server.login(t, "alice"), server.login(t, "bob")
	const lines = 2000
	begin := time.Now()
	for i := range lines {
		alice.say(fmt.Sprintf("bob: %d", i))
	}
	alice.say("/quit") // is heard always
	complaints, err := io.ReadAll(alice.lines)
	require.NoError(t, err)
	seconds := int(time.Since(begin)/time.Second) + 1
	told := strings.Count(string(complaints), "error: slow down: more than 5 lines a second")
	require.Equal(t, told, strings.Count(string(complaints), "\n"), "nothing else is said")
	require.GreaterOrEqual(t, told, 1)
	require.LessOrEqual(t, told, seconds)

	bob.say("bob: end")
	heard := 0
	for bob.next() != "from bob: end" {
		heard++
	}
	require.GreaterOrEqual(t, heard, 19, "four seconds' worth at once, one of which was /who")
	require.LessOrEqual(t, heard, 20+5*seconds)
}

func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPace(10)
		allowed := func() (n int) {
			for p.allows() {
				n++
			}
			return n
		}
		require.Equal(t, 40, allowed(), "four seconds' worth at once")
		require.True(t, p.mayComplain())
		require.False(t, p.mayComplain())
		for range 3 {
			time.Sleep(time.Second)
			require.True(t, p.mayComplain())
			require.Equal(t, 10, allowed())
		}
		time.Sleep(time.Hour)
		require.Equal(t, 40, allowed(), "silence is not saved up for longer")
	})
	require.True(t, newPace(0).allows())
}

// dialTLS connects to a server that has made its own certificate.
func (p *process) dialTLS(t *testing.T) *client {
	c := p.connect(t)
	conn := tls.Client(patientConn{c.TCPConn}, &tls.Config{InsecureSkipVerify: true})
	c.lines, c.out = bufio.NewReader(conn), conn
	return c
}

func TestTLS(t *testing.T) {
	server := start(t, "-tls-self-signed")
	alice, bob := server.dialTLS(t), server.dialTLS(t)
	bob.say("bob")
	bob.ask("/who")
	alice.say("alice")
	alice.ask("/who")
	text := strings.Repeat("x", maxLine-len("bob: "))
	const messages = 100 // more than the kernel buffers
	for range messages {
		alice.say("bob: " + text)
	}
	alice.expectSilence()
	bob.say("/quit")
	for range messages {
		bob.expect("from alice: " + text)
	}
	bob.expectEnd()
	alice.say("alice: " + text + "x")
	alice.expectError("longer than")
	alice.expectEnd()
}

func TestTLSHandshakeThatNeverEnds(t *testing.T) {
	if testing.Short() {
		t.Skip("takes as long as the server gives a client for its login")
	}
	t.Parallel()
	server := start(t, "-tls-self-signed")
	silent, slow := server.connect(t), server.connect(t)
	hello, err := io.ReadAll(io.LimitReader(clientHello(), 100))
	require.NoError(t, err)
	_, err = slow.Write(hello) // a part of it
	require.NoError(t, err)
	silent.expectEnd()
	slow.expectEnd()
	require.Contains(t, server.stop(t), "within 10s")
}

// clientHello reads what a TLS client says first.
func clientHello() io.Reader {
	conn, peer := net.Pipe()
	go tls.Client(conn, &tls.Config{InsecureSkipVerify: true}).Handshake()
	return peer
}

// The operator is told of the end of each connection.
func TestLog(t *testing.T) {
	server := start(t)
	for name, end := range map[string]func(c *client){
		"quits":  func(c *client) { c.say("/quit") },
		"closes": func(c *client) { c.CloseWrite() },
		"errs":   func(c *client) { c.say(strings.Repeat("x", maxLine+1)) },
	} {
		c := server.login(t, name)
		end(c)
		io.ReadAll(c.lines)
	}
	resets := server.login(t, "resets")
	resets.reset()
	refused := server.connect(t)
	refused.say("a b")
	io.ReadAll(refused.lines)
	alice := server.login(t, "alice")
	require.Eventually(t, func() bool { return alice.ask("/who") == "names: alice" }, patience, time.Millisecond)

	said := server.stop(t)
	for _, want := range []string{
		`INFO session ended user=quits peer=` + `.* cause="the user has quit" after=.* messages=1 bytes=`,
		`INFO session ended user=closes .* cause="the client has closed the connection"`,
		`INFO session ended user=errs .* cause="the line is longer than 65536 bytes"`,
		`WARN connection lost user=resets .* cause="cannot read: .*reset`,
		`INFO connection without login ended user="" .* cause="a login is 1 to 32`,
		`INFO session ended user=alice .* cause="the server is shutting down"`,
	} {
		require.Regexp(t, want, said)
	}
}
