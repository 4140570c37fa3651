package server

import (
	"bufio"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq/examples/chat/core"
	"github.com/sendq-go/sendq/examples/chat/internal/chattest"
)

// A counter is a client that counts its lines, as a user who wants to come back has to.
type counter struct {
	*chattest.Client
	name, key string
	lines     int // on this connection
	times     int // how many times it was told that it is back
}

func (p *process) counter(t *testing.T, name string) *counter {
	t.Helper()
	c := &counter{Client: p.connect(t), name: name}
	c.Say(name)
	key, found := strings.CutPrefix(c.next(), "* your key is ")
	require.True(t, found, key)
	require.NotContains(t, key, " ")
	c.key = key
	return c
}

func (c *counter) next() string {
	c.lines++
	return c.Next()
}

func (c *counter) expect(t *testing.T, lines ...string) {
	t.Helper()
	for _, line := range lines {
		require.Equal(t, line, c.next())
	}
}

// comeBack connects again. The number of lines is at the end of format.
func (c *counter) comeBack(t *testing.T, p *process, wantLines int) {
	t.Helper()
	c.Client = p.connect(t)
	c.Say(c.first())
	c.times, c.lines = c.times+1, 0
	c.expect(t, fmt.Sprintf("* back: %d lines", wantLines))
}

// numbered says numbered lines to bob, and returns what bob gets.
func numbered(c *chattest.Client, from, to int) (lines []string) {
	for i := from; i < to; i++ {
		c.Say(fmt.Sprintf("bob: %d", i))
		lines = append(lines, fmt.Sprintf("from alice: %d", i))
	}
	c.ExpectSilence()
	return lines
}

// A user whose connection breaks gets what has not arrived. In the meantime the rooms know.
func TestResume(t *testing.T) {
	t.Parallel()
	server := start(t, "-resume")
	alice, bob := server.login(t, "alice"), server.counter(t, "bob")
	alice.Say("/join #go")
	alice.Expect("* alice joined #go")
	bob.Say("/join #go")
	bob.expect(t, "* bob joined #go")
	alice.Expect("* bob joined #go")
	sent := numbered(alice, 0, 10)
	bob.expect(t, sent[:4]...)
	bob.Reset()
	alice.Expect("* bob is away")
	require.Equal(t, "names: alice, bob", alice.Ask("/who #go"))
	sent = append(sent, numbered(alice, 10, 20)...)
	bob.comeBack(t, server, 16)
	bob.expect(t, sent[4:]...)
	alice.Expect("* bob is back")
	alice.Say("#go: welcome")
	bob.expect(t, "from alice in #go: welcome")
	bob.Say("#go: thank you", "/who")
	alice.Expect("from bob in #go: thank you")
	bob.expect(t, "names: alice, bob")

	// The second time. Nobody has noticed that this connection is broken.
	sent = numbered(alice, 20, 30)
	bob.expect(t, sent[:3]...)
	old := bob.Client
	bob.comeBack(t, server, 7)
	bob.expect(t, sent[3:]...)
	require.Error(t, drain(old))
	alice.ExpectSilence()

	bob.Say("/quit")
	bob.ExpectEnd()
	alice.Expect("* bob left #go")
	again := server.connect(t)
	again.Say(fmt.Sprintf("bob %s %d %d", bob.key, bob.lines, bob.times))
	again.ExpectError("taken")
}

// drain reads until the end of the connection. A connection with unread lines is closed with a reset.
func drain(c *chattest.Client) error {
	for {
		if _, err := c.Lines.ReadString('\n'); err != nil {
			return err
		}
	}
}

// If a connection breaks before the answer arrives, the user says the same as before.
func TestResumeAgain(t *testing.T) {
	t.Parallel()
	server := start(t, "-resume")
	alice, bob := server.login(t, "alice"), server.counter(t, "bob")
	sent := numbered(alice, 0, 10)
	bob.expect(t, sent[:4]...)
	for range 3 {
		lost := server.connect(t)
		lost.Say(fmt.Sprintf("bob %s 5 0", bob.key))
		require.Equal(t, "* back: 6 lines", lost.Next())
		lost.Reset()
	}
	bob.comeBack(t, server, 6)
	bob.expect(t, sent[4:7]...)
	for range 3 {
		lost := server.connect(t)
		lost.Say(fmt.Sprintf("bob %s 4 1", bob.key))
		require.Equal(t, "* back: 3 lines", lost.Next())
	}
	bob.comeBack(t, server, 3)
	bob.expect(t, sent[7:]...)
	bob.comeBack(t, server, 0)
}

// A client that leaves out T means its last connection.
func TestResumeWithoutT(t *testing.T) {
	t.Parallel()
	server := start(t, "-resume")
	alice, bob := server.login(t, "alice"), server.counter(t, "bob")
	sent := numbered(alice, 0, 10)
	for _, test := range []struct{ says, missing int }{{1, 10}, {1, 10}, {2, 9}, {3, 7}, {0, 7}} {
		again := server.connect(t)
		again.Say(fmt.Sprintf("bob %s %d", bob.key, test.says))
		require.Equal(t, fmt.Sprintf("* back: %d lines", test.missing), again.Next())
		require.Equal(t, sent[10-test.missing], again.Next())
	}
}

// Whoever has no right to a name does not get it.
func TestResumeRefused(t *testing.T) {
	t.Parallel()
	server := start(t, "-resume")
	alice, bob := server.counter(t, "alice"), server.counter(t, "bob")
	for line, about := range map[string]string{
		"bob":                                      "the login bob is taken",
		"bob wrong 1":                              "the login bob is taken",
		"bob " + alice.key + " 1 0":                "the login bob is taken",
		"bob " + bob.key + "x 1 0":                 "the login bob is taken",
		"bob  1 0":                                 "the login bob is taken",
		"carol " + bob.key + " 1 0":                "the login carol is taken",
		"bob " + bob.key + " 2 0":                  "log in anew",
		"bob " + bob.key + " 2":                    "log in anew",
		"bob " + bob.key + " 4611686018427387903":  "log in anew",
		"bob " + bob.key + " 1 1":                  "log in anew",
		"bob " + bob.key + " -1 0":                 "NAME KEY N",
		"bob " + bob.key + " +1 0":                 "NAME KEY N",
		"bob " + bob.key + " x":                    "NAME KEY N",
		"bob " + bob.key + " 4611686018427387904":  "NAME KEY N",
		"bob " + bob.key + " 1 99999999999":        "NAME KEY N",
		"bob " + bob.key + " 1 -1":                 "NAME KEY N",
		"bob " + bob.key + " 1 ":                   "NAME KEY N",
		"bob " + bob.key:                           "1 to 32",
		"bob " + bob.key + " 1 0 0":                "1 to 32",
		"b*b " + bob.key + " 1 0":                  "1 to 32",
		"bob " + bob.key + "\x00 1 0":              "the login bob is taken",
		"bob " + bob.key + " 1\x1b 0":              "NAME KEY N",
		"bob " + bob.key + " 1 0\xff":              "NAME KEY N",
		"bob " + strings.Repeat("x", core.MaxLine): "longer than",
	} {
		c := server.connect(t)
		c.Say(line, "alice: hi", strings.Repeat("more ", 1000))
		c.ExpectError(about)
		c.ExpectEnd()
	}
	alice.Say("bob: still you?")
	bob.expect(t, "from alice: still you?")
	bob.Reset()
	c := server.connect(t)
	c.Say("bob")
	c.ExpectError("the login bob is taken")
	bob.comeBack(t, server, 0)
}

// A user who does not come back leaves, and the key is worth nothing.
func TestLinger(t *testing.T) {
	t.Parallel()
	server := start(t, "-resume", "-linger", "200ms")
	alice, bob := server.login(t, "alice"), server.counter(t, "bob")
	alice.Say("/join #go")
	alice.Expect("* alice joined #go")
	bob.Say("/join #go")
	bob.expect(t, "* bob joined #go")
	bob.CloseWrite() // not a goodbye
	alice.Expect("* bob joined #go", "* bob is away", "* bob left #go")
	require.Equal(t, "names: alice", alice.Ask("/who #go"))
	again := server.connect(t)
	again.Say(fmt.Sprintf("bob %s %d 0", bob.key, bob.lines))
	again.ExpectError("taken")
	require.NotEqual(t, bob.key, server.counter(t, "bob").key)
	said := server.stop(t)
	require.Regexp(t, `INFO session ended user=bob .*cause="the connection has ended: EOF"`, said)
	require.Regexp(t, `INFO user did not come back user=bob cause="sendq: not back within Linger of 200ms`, said)
}

// More lines than are kept are missing, and the user is told.
func TestResumeMissesLines(t *testing.T) {
	t.Parallel()
	server := start(t, "-resume")
	alice, bob := server.login(t, "alice"), server.counter(t, "bob")
	text := strings.Repeat("x", 60_000)
	const lines = 2 * keptBytes / 60_000
	for i := range lines { // bob reads them, and forgets
		alice.Say(fmt.Sprintf("bob: %d %s", i, text))
		require.Equal(t, fmt.Sprintf("from alice: %d %s", i, text), bob.Next())
	}
	again := server.connect(t)
	again.Say("bob " + bob.key + " 1 0")
	require.Equal(t, "* back: lines are missing", again.Next())
	again.Next()
}

// A server that stops ends all sessions as ever, with all their lines, and those of users who are away.
func TestStopWithResume(t *testing.T) {
	t.Parallel()
	server := start(t, "-resume", "-drain", "200ms")
	alice, bob, carol := server.login(t, "alice"), server.counter(t, "bob"), server.counter(t, "carol")
	alice.Say("/join #go")
	alice.Expect("* alice joined #go")
	carol.Say("/join #go")
	alice.Expect("* carol joined #go")
	carol.Reset()
	alice.Expect("* carol is away")
	sent := numbered(alice, 0, 10)
	alice.Say("carol: hi")
	alice.ExpectSilence()
	said := server.stop(t)
	bob.expect(t, sent...)
	bob.ExpectEnd()
	require.Regexp(t, `WARN user did not come back user=carol cause="sendq: the peer is away.*undelivered=[1-9]`, said)
	require.NotContains(t, said, "back user=bob")
}

// FuzzComeback: whatever the first line is, the server answers it, or takes it for a login.
func FuzzComeback(f *testing.F) {
	for _, seed := range []string{
		"bob KEY 1 0", "bob KEY 1", "bob KEY 2 0", "bob KEY 0 -1", "bob KEY 18446744073709551615", "bob wrong 1", " KEY 1 0", "carol", "bob KEY \x00 0",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, line string) {
		line, _, _ = strings.Cut(line, "\n")
		s := New(Options{Resume: true, Log: slog.New(slog.DiscardHandler)})
		say := func(first string) string {
			conn, peer := net.Pipe()
			go s.Handle(conn)
			go fmt.Fprintln(peer, first)
			answer, err := bufio.NewReader(peer).ReadString('\n')
			require.NoError(t, err)
			return answer
		}
		key := strings.TrimSuffix(strings.TrimPrefix(say("bob"), "* your key is "), "\n")
		require.Regexp(t, `^(error: .*|\* your key is .*|\* back: [01] lines)\n$`, say(strings.ReplaceAll(line, "KEY", key)))
		require.NoError(t, s.Broker().CloseNow())
	})
}
