package server

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Users who come back, or come late.

func TestReplay(t *testing.T) {
	server := start(t, "-replay", "2")
	alice, bob := server.login(t, "alice"), server.login(t, "bob")
	alice.say("/join #go")
	alice.expect("* alice joined #go")
	alice.say("#go: one", "#go: two", "#go: three")
	alice.expectSilence()
	bob.say("/join #go")
	bob.expect("from alice in #go: two", "from alice in #go: three", "* bob joined #go")
	alice.expect("* bob joined #go")
	alice.say("#go: four")
	bob.expect("from alice in #go: four")
}

func TestTakeover(t *testing.T) {
	server := start(t, "-takeover")
	alice, bob := server.login(t, "alice"), server.login(t, "bob")
	bob.say("/join #go")
	bob.expect("* bob joined #go")
	alice.say("/join #go")
	alice.expect("* alice joined #go")
	bob.expect("* alice joined #go")

	text := strings.Repeat("x", 60_000)
	const lines = 200
	for i := range lines {
		alice.say(fmt.Sprintf("bob: %d %s", i, text))
	}
	alice.expectSilence() // bob reads nothing
	again := server.connect(t)
	again.say("bob")

	// What the first connection has taken is there still, the last line in part.
	var got []string
	for {
		line, err := bob.lines.ReadString('\n')
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
		again.expect(fmt.Sprintf("from alice: %d %s", len(got)+i, text))
	}

	// They are in their rooms as before, and nobody was told of anything.
	require.Equal(t, "names: alice, bob", alice.ask("/who #go"))
	alice.say("#go: welcome back")
	again.expect("from alice in #go: welcome back")
	again.say("/leave #go")
	alice.expect("* bob left #go")
	alice.say("bob: still there?")
	again.expect("from alice: still there?")
}

// Whose connection broke gets after the next login what it did not take.
func TestTakeoverOfWhatABrokenConnectionMissed(t *testing.T) {
	server := start(t, "-takeover")
	alice, bob := server.login(t, "alice"), server.login(t, "bob")
	text := strings.Repeat("x", 60_000)
	const lines = 200
	for i := range lines {
		alice.say(fmt.Sprintf("bob: %d %s", i, text))
	}
	alice.expectSilence()
	bob.reset()
	require.Eventually(t, func() bool { return alice.ask("/who") == "names: alice" }, patience, time.Millisecond)

	again := server.connect(t)
	again.say("bob")
	var first int
	_, err := fmt.Sscanf(again.next(), "from alice: %d ", &first)
	require.NoError(t, err)
	for i := first + 1; i < lines; i++ {
		again.expect(fmt.Sprintf("from alice: %d %s", i, text))
	}
	again.say("/who")
	again.expect("names: alice, bob")
}
