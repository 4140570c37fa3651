package server

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestReplay(t *testing.T) {
	t.Parallel()
	server := start(t, "-replay", "2")
	alice, bob := server.login(t, "alice"), server.login(t, "bob")
	alice.Say("/join #go")
	alice.Expect("* alice joined #go")
	alice.Say("#go: one", "#go: two", "#go: three")
	alice.ExpectSilence()
	bob.Say("/join #go")
	bob.Expect("from alice in #go: two", "from alice in #go: three", "* bob joined #go")
	alice.Expect("* bob joined #go")
	alice.Say("#go: four")
	bob.Expect("from alice in #go: four")
}

func TestTakeover(t *testing.T) {
	t.Parallel()
	server := start(t, "-takeover")
	alice, bob := server.login(t, "alice"), server.login(t, "bob")
	bob.Say("/join #go")
	bob.Expect("* bob joined #go")
	alice.Say("/join #go")
	alice.Expect("* alice joined #go")
	bob.Expect("* alice joined #go")

	text := strings.Repeat("x", 60_000)
	const lines = 200
	for i := range lines {
		alice.Say(fmt.Sprintf("bob: %d %s", i, text))
	}
	alice.ExpectSilence() // bob reads nothing
	again := server.connect(t)
	again.Say("bob")

	// The first connection still has its lines, the last one in part.
	var got []string
	for {
		line, err := bob.Lines.ReadString('\n')
		if err != nil {
			break
		}
		got = append(got, strings.TrimSuffix(line, "\n"))
	}
	require.Less(t, len(got), lines)
	for i, line := range got {
		require.Equal(t, fmt.Sprintf("from alice: %d %s", i, text), line)
	}
	for i := range lines - len(got) {
		again.Expect(fmt.Sprintf("from alice: %d %s", len(got)+i, text))
	}

	// They are in their rooms as before, and nobody was told of anything.
	require.Equal(t, "names: alice, bob", alice.Ask("/who #go"))
	alice.Say("#go: welcome back")
	again.Expect("from alice in #go: welcome back")
	again.Say("/leave #go")
	alice.Expect("* bob left #go")
	alice.Say("bob: still there?")
	again.Expect("from alice: still there?")
}
