package chattest

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/sendq-go/sendq/examples/chat/core"
)

// Protocol tests a server against the protocol. Each test gets its own server from start.
func Protocol(t *testing.T, start func(t *testing.T) (addr string)) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T, addr string)
	}{
		{"direct message", testDirectMessage},
		{"message to all", testMessageToAll},
		{"room", testRoom},
		{"a room hears who goes", testRoomHearsWhoGoes},
		{"quit delivers what is queued", testQuitDeliversWhatIsQueued},
		{"anything else is an error", testAnythingElseIsAnError},
		{"login that is refused", testLoginThatIsRefused},
		{"lines", testLines},
		{"lines that come together", testLinesThatComeTogether},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.run(t, start(t))
		})
	}
}

func testDirectMessage(t *testing.T, addr string) {
	alice, bob, carol := Login(t, addr, "alice"), Login(t, addr, "bob"), Login(t, addr, "carol")

	carol.Say("bob, alice: hi")
	alice.Expect("from carol: hi")
	bob.Expect("from carol: hi")
	carol.ExpectSilence()

	carol.Say("nobody, bob,ghost: are you there?: yes")
	bob.Expect("from carol: are you there?: yes")
	carol.Expect("error: no such user: nobody", "error: no such user: ghost")

	carol.Say("bob, bob, carol: once")
	bob.Expect("from carol: once")
	carol.Expect("from carol: once")
	bob.ExpectSilence()
}

func testMessageToAll(t *testing.T, addr string) {
	alice, bob, carol := Login(t, addr, "alice"), Login(t, addr, "bob"), Login(t, addr, "carol")
	carol.Say("*: hi")
	alice.Expect("from carol: hi")
	bob.Expect("from carol: hi")
	carol.ExpectSilence()
}

func testRoom(t *testing.T, addr string) {
	alice, bob, carol := Login(t, addr, "alice"), Login(t, addr, "bob"), Login(t, addr, "carol")

	alice.Say("/join #go")
	alice.Expect("* alice joined #go")
	bob.Say("/join #go")
	bob.Expect("* bob joined #go")
	alice.Expect("* bob joined #go")

	bob.Say("#go: hi")
	alice.Expect("from bob in #go: hi")
	bob.ExpectSilence()
	carol.Say("#go: let me in")
	carol.Expect("error: not in #go")

	carol.Say("/who #go", "/who")
	carol.Expect("names: alice, bob", "names: alice, bob, carol")

	bob.Say("/leave #go")
	alice.Expect("* bob left #go")
	bob.Say("/leave #go", "#go: still here?")
	bob.Expect("error: not in #go", "error: not in #go")
	carol.Say("/who #go")
	carol.Expect("names: alice")

	alice.Say("/join #go")
	alice.ExpectError("already in #go")
}

// Every end of a session leaves the rooms, as /leave does.
func testRoomHearsWhoGoes(t *testing.T, addr string) {
	alice := Login(t, addr, "alice")
	alice.Say("/join #go")
	alice.Expect("* alice joined #go")
	for way, end := range map[string]func(c *Client){
		"quit":       func(c *Client) { c.Say("/quit") },
		"half-close": func(c *Client) { c.CloseWrite() },
		"close":      func(c *Client) { c.Close() },
		"reset":      func(c *Client) { c.Reset() },
	} {
		bob := Login(t, addr, way)
		bob.Say("/join #go")
		alice.Expect("* " + way + " joined #go")
		bob.Expect("* " + way + " joined #go")
		end(bob)
		alice.Expect("* " + way + " left #go")
		alice.Say("/who", "/who #go")
		alice.Expect("names: alice", "names: alice")
	}
}

func testQuitDeliversWhatIsQueued(t *testing.T, addr string) {
	alice, bob := Login(t, addr, "alice"), Login(t, addr, "bob")
	text := strings.Repeat("x", 60_000)
	const messages = 100 // more than the kernel buffers
	for range messages {
		alice.Say("bob: " + text)
	}
	alice.ExpectSilence() // all are accepted
	bob.Say("/quit", "*: said after /quit, so nobody hears it")
	for range messages {
		bob.Expect("from alice: " + text)
	}
	bob.ExpectEnd()
	alice.ExpectSilence()
}

func testAnythingElseIsAnError(t *testing.T, addr string) {
	alice, bob := Login(t, addr, "alice"), Login(t, addr, "bob")
	for _, test := range []struct{ line, about string }{
		{"", "bob: text"},
		{"hello", "bob: text"},
		{": hello", "bob: text"},
		{",, ,: hello", "bob: text"},
		{"bob:", "bob: text"},
		{"*:  ", "*: text"},
		{"/", "/join #room"},
		{"/dance", "/join #room"},
		{"/join", "/join #room"},
		{"/join go", "'#'"},
		{"/join #", "'#'"},
		{"/join #a #b", "/join #room"},
		{"/join #" + strings.Repeat("x", 33), "'#'"},
		{"/leave #go", "not in #go"},
		{"/who are you", "/who"},
		{"/quit now", "/quit"},
		{"#: hello", "not in #"},
		{"bob, *: hello", "no such user: *"},
	} {
		alice.Say(test.line)
		if strings.HasPrefix(test.line, "bob, ") {
			bob.Expect("from alice: hello")
		}
		alice.ExpectError(test.about)
		alice.ExpectSilence()
	}
	bob.ExpectSilence()
}

func testLoginThatIsRefused(t *testing.T, addr string) {
	Login(t, addr, "alice")
	for login, about := range map[string]string{
		"":                                  "1 to 32",
		" alice":                            "1 to 32",
		"al ice":                            "1 to 32",
		"*":                                 "1 to 32",
		"#go":                               "1 to 32",
		"a:b":                               "1 to 32",
		"a\x00":                             "1 to 32",
		"\x1b[2Jeve":                        "1 to 32",
		"\xff\xfe":                          "1 to 32",
		strings.Repeat("x", 33):             "1 to 32",
		strings.Repeat("x", core.MaxLine+1): "longer than",
		"alice":                             "taken",
	} {
		c := Dial(t, addr)
		// Lines that the server has not read must not cost the client its answer.
		c.Say(login, "alice: hi", strings.Repeat("more ", 1000))
		c.ExpectError(about)
		c.ExpectEnd()
	}
	for _, login := range []string{"x", "A-1_b.C", strings.Repeat("x", 32)} {
		Login(t, addr, login)
	}
}

func testLines(t *testing.T, addr string) {
	bob := Login(t, addr, "bob")

	t.Run("byte by byte", func(t *testing.T) {
		c := Dial(t, addr)
		c.SetNoDelay(true)
		for _, b := range []byte("slow\r\nbob: h\u00e9llo\r\n/who\n") {
			c.Write([]byte{b})
		}
		bob.Expect("from slow: h\u00e9llo")
		c.Expect("names: bob, slow")
		c.Say("/quit")
		c.ExpectEnd()
	})
	t.Run("many in one write", func(t *testing.T) {
		const n = 5000
		c := Dial(t, addr)
		var all strings.Builder
		all.WriteString("fast\n")
		for i := range n {
			fmt.Fprintf(&all, "bob: %d\n", i)
		}
		all.WriteString("/quit\n")
		c.Write([]byte(all.String()))
		for i := range n {
			bob.Expect(fmt.Sprintf("from fast: %d", i))
		}
		c.ExpectEnd()
	})
	t.Run("of the longest length", func(t *testing.T) {
		c := Login(t, addr, "long")
		for _, end := range []string{"\n", "\r\n"} {
			text := strings.Repeat("x", core.MaxLine-len("bob: "))
			c.Write([]byte("bob: " + text + end))
			bob.Expect("from long: " + text)
		}
		c.Say("/quit")
		c.ExpectEnd()
	})
	t.Run("longer", func(t *testing.T) {
		c := Login(t, addr, "longer")
		c.Write([]byte("bob: " + strings.Repeat("x", core.MaxLine-len("bob: ")+1) + "\nbob: after it\n"))
		c.ExpectError("longer than 65536 bytes")
		c.ExpectEnd()
		bob.ExpectSilence()
	})
	t.Run("longer and without an end", func(t *testing.T) {
		c := Login(t, addr, "endless")
		go c.Write(bytes.Repeat([]byte("x"), 10*core.MaxLine))
		c.ExpectError("longer than 65536 bytes")
		c.ExpectEnd()
		bob.ExpectSilence()
	})
	t.Run("cut off", func(t *testing.T) {
		c := Login(t, addr, "cut")
		c.Write([]byte("bob: transfer 100"))
		c.CloseWrite()
		c.ExpectEnd()
		bob.ExpectSilence()
	})
	t.Run("not UTF-8, control characters", func(t *testing.T) {
		c := Login(t, addr, "eve")
		c.Say("bob: a\xffb", "bob: \x1b[2J\x07\x00\u009b31mred", "bob: left\u202eright", "bob: tab\there", "bob: a\rb",
			"\x1b[2J: hi")
		bob.Expect("from eve: a\ufffdb", "from eve: \ufffd[2J\ufffd\ufffd\ufffd31mred", "from eve: left\ufffdright",
			"from eve: tab here", "from eve: a\ufffdb")
		c.Expect("error: no such user: \ufffd[2J")
		c.Say("/quit")
		c.ExpectEnd()
	})
}

// Lines in one read have the same effect as lines in several reads.
func testLinesThatComeTogether(t *testing.T, addr string) {
	alice, bob := Login(t, addr, "alice"), Login(t, addr, "bob")
	bob.Say("/join #go")
	bob.Expect("* bob joined #go")
	alice.Say("bob: 1", "*: 2", "nobody: 3", "alice: 4", "/who", "bob: 5", "/join #go", "#go: 6", "*: 7", "nobody, bob: 8",
		"alice: 9", "#no: 9", "bob", "/leave #go", "bob: 10", "/quit", "bob: 11")
	bob.Expect("from alice: 1", "from alice: 2", "from alice: 5", "* alice joined #go", "from alice in #go: 6",
		"from alice: 7", "from alice: 8", "* alice left #go", "from alice: 10")
	alice.Expect("from alice: 4", "error: no such user: nobody", "names: alice, bob", "* alice joined #go",
		"error: no such user: nobody", "from alice: 9", "error: not in #no")
	alice.ExpectError("type a message")
	alice.ExpectEnd()
	bob.ExpectSilence()
}
