// Package chattest talks to a chat server in tests, as its users do.
package chattest

import (
	"bufio"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Patience bounds every wait. It is never reached unless something is wrong.
const Patience = 30 * time.Second

// A Client is a connection to a server.
type Client struct {
	*net.TCPConn
	Lines *bufio.Reader // from the server
	Out   io.Writer     // to the server
	t     *testing.T
}

// Dial connects to the server at addr, until the end of the test.
func Dial(t *testing.T, addr string) *Client {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	patient := Patient{conn.(*net.TCPConn)}
	return &Client{patient.TCPConn, bufio.NewReader(patient), patient, t}
}

// Login connects and waits until the server knows the name.
func Login(t *testing.T, addr, name string) *Client {
	t.Helper()
	c := Dial(t, addr)
	c.Say(name)
	require.Contains(t, c.Ask("/who"), name)
	return c
}

// A Patient connection bounds each wait, and not all of them together: on a busy machine some
// megabytes take long.
type Patient struct{ *net.TCPConn }

func (c Patient) Read(p []byte) (int, error) {
	c.SetReadDeadline(time.Now().Add(Patience))
	return c.TCPConn.Read(p)
}

func (c Patient) Write(p []byte) (int, error) {
	c.SetWriteDeadline(time.Now().Add(Patience))
	return c.TCPConn.Write(p)
}

// Say sends lines.
func (c *Client) Say(lines ...string) {
	c.t.Helper()
	_, err := io.WriteString(c.Out, strings.Join(lines, "\n")+"\n")
	require.NoError(c.t, err)
}

// Next returns the next line from the server.
func (c *Client) Next() string {
	c.t.Helper()
	line, err := c.Lines.ReadString('\n')
	require.NoError(c.t, err, "after %q", line)
	return strings.TrimSuffix(line, "\n")
}

// Ask returns the answer to a /who, and skips all lines before it.
func (c *Client) Ask(who string) string {
	c.t.Helper()
	c.Say(who)
	for {
		if line := c.Next(); strings.HasPrefix(line, "names: ") {
			return line
		}
	}
}

// Expect requires that these lines come next.
func (c *Client) Expect(lines ...string) {
	c.t.Helper()
	for _, line := range lines {
		require.Equal(c.t, line, c.Next())
	}
}

// ExpectError requires that the next line is an error about something.
func (c *Client) ExpectError(about string) {
	c.t.Helper()
	line := c.Next()
	require.True(c.t, strings.HasPrefix(line, "error: "), line)
	require.Contains(c.t, line, about)
}

// ExpectSilence requires that nothing comes before the answer to a question.
func (c *Client) ExpectSilence() {
	c.t.Helper()
	c.Say("/who #nobody")
	c.Expect("names: ")
}

// ExpectEnd requires that the connection ends, and not by a reset.
func (c *Client) ExpectEnd() {
	c.t.Helper()
	rest, err := io.ReadAll(c.Lines)
	require.NoError(c.t, err)
	require.Empty(c.t, rest)
}

// Reset breaks the connection.
func (c *Client) Reset() {
	c.SetLinger(0)
	c.Close()
}
