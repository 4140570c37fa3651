package main

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	devtools "github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
)

// A stream is a conversation in the lobby: dave says numbers, from 1 on, and carol reads them on the
// page, through a network.
type stream struct {
	*network
	process *process
	carol   *tab
	dave    *tcpUser
	said    int
}

// stream starts a stream. The times are for the link of the page.
func (c *chromium) stream(t *testing.T, times string) *stream {
	p := start(t, "-resume", "-rate", "0")
	s := &stream{network: newNetwork(t, p), process: p, dave: p.dial()}
	s.carol = c.openWith(t, s.page, desk, "window.linkTimes = "+times)
	s.carol.mayLose = true
	s.carol.login("carol")
	s.dave.say("dave", "/join #lobby")
	s.hear("* dave joined #lobby")
	s.carol.until(`text("#log").includes("dave joined")`)
	return s
}

// say says the next n numbers.
func (s *stream) say(n int) {
	for range n {
		s.said++
		s.dave.say(fmt.Sprint("#lobby: ", s.said))
		time.Sleep(time.Duration(rand.IntN(2)) * time.Millisecond)
	}
}

// hear waits until dave has heard a line, and returns all lines until then.
func (s *stream) hear(line string) (heard string) {
	s.t.Helper()
	for !strings.HasSuffix(heard, line) {
		heard += "\n" + s.dave.hear()
	}
	return heard
}

// untilComplete waits until the page shows all numbers, each once and in order.
func (s *stream) untilComplete() {
	s.t.Helper()
	s.carol.until(`numbers().length >= %d && !text("#link").includes("lost")`, s.said)
	s.carol.until(`isComplete(%d)`, s.said)
}

// testKills: the connection is cut in the middle of the stream, at any byte. After each cut the page
// shows every line once. What the user types arrives at most once, or the page says that it may not.
func (c *chromium) testKills(t *testing.T) {
	s := c.stream(t, "{firstPause: 20, longestPause: 100}")
	for i := range 20 {
		s.cutAfter(rand.IntN(1000))
		s.say(20)
		s.carol.say(fmt.Sprintf("typed %d.", i))
		s.say(20)
		s.carol.until(`links > %d`, i+1)
		s.untilComplete()
	}
	s.carol.until(`!text("#log").includes("missing")`)
	s.carol.say("still here")
	heard := s.hear("from carol in #lobby: still here")
	for i := range 20 {
		typed := fmt.Sprintf("typed %d.", i)
		switch n := strings.Count(heard, typed); n {
		case 0:
			s.carol.until(`text("#log").includes("perhaps not delivered: %s")`, typed)
		default:
			require.Equal(t, 1, n, typed)
		}
		s.carol.until(`messages().split("carol: %s").length == 2`, typed)
	}
}

// testOffline: the network goes in the middle of the stream, and comes back. The page notices both,
// shows every line once, and sends what the user has typed between.
func (c *chromium) testOffline(t *testing.T) {
	s := c.stream(t, "{answer: 5000, firstPause: 3600_000, longestPause: 3600_000}")
	s.say(20)
	s.die(true)
	s.carol.offline(true)
	s.say(20)
	s.carol.until(`text("#link").includes("Connection lost")`)
	s.carol.say("typed offline")
	s.carol.until(`waiting() == "typed offline"`)
	s.say(20)

	s.heal()
	s.carol.offline(false)
	s.carol.until(`/^Back, [0-9]+ messages caught up$/.test(text("#link")) && waiting() == ""`)
	s.untilComplete()
	s.hear("from carol in #lobby: typed offline")
	s.carol.until(`messages().endsWith(", carol: typed offline")`)

	// The user looks at the page again.
	s.cut()
	s.carol.until(`text("#link").includes("Connection lost")`)
	s.carol.eval(`document.dispatchEvent(new Event("visibilitychange"))`)
	s.carol.until(`text("#link").startsWith("Back, ")`)
}

// testHalfOpen: the connection dies, and nobody closes it. The page notices, and shows every line once.
// It says which message may be lost.
func (c *chromium) testHalfOpen(t *testing.T) {
	s := c.stream(t, "{quiet: 1000, answer: 3000, firstPause: 1000}")
	s.say(20)
	s.untilComplete()
	s.die(false)
	s.say(20)
	s.carol.say("typed too early")
	s.carol.until(`text("#link").includes("Connection lost, trying again… (the server does not answer)")`)
	s.carol.until(`text("#link").startsWith("Back, ")`)
	s.untilComplete()
	s.carol.until(`text("#log").includes("perhaps not delivered: typed too early")`)
	s.carol.until(`!text("#link")`)
	s.carol.say("on time")
	s.hear("from carol in #lobby: on time")
	s.carol.until(`!text("#log").includes("delivered: on time")`)
}

// testDeaf: a line that was on its way is no answer to the question whether the server is there.
func (c *chromium) testDeaf(t *testing.T) {
	s := c.stream(t, "{quiet: 3600_000, answer: 5000}")
	s.deafen()
	s.carol.eval(`window.dispatchEvent(new Event("offline"))`)
	s.say(20)
	s.carol.until(`links == 2`)
	s.untilComplete()
}

// testQuiet: the page asks a quiet server whether it is there. Its answer keeps the connection, and the
// page does not show it.
func (c *chromium) testQuiet(t *testing.T) {
	s := c.stream(t, "{quiet: 50, answer: 20_000}")
	s.carol.until(`sent.filter((line) => line.startsWith("/who #-")).length > 3 && links == 1`)
	s.carol.until(`!text("#log").includes("names") && !text("#link") && !text("#problem")`)
}

// testMissing: the connection loses more than the server keeps. The page says so, and goes on.
func (c *chromium) testMissing(t *testing.T) {
	s := c.stream(t, "{firstPause: 20}")
	s.say(20)
	s.untilComplete()
	s.die(false)
	for range 100 {
		s.dave.say("#lobby: " + strings.Repeat("x", 60_000))
	}
	s.dave.say("/who #nobody")
	s.hear("names: ") // the server has read all that
	s.cutDead()
	s.carol.until(`text("#log").includes("messages may be missing here")`)
	s.dave.say("#lobby: the last")
	s.carol.until(`numbers().at(-1) == "the last" && numbers().length > 21 && numbers().length < 121`)
	s.carol.until(`isComplete(20, numbers().slice(0, 20)) && text("#log").split("you joined #lobby").length == 2`)
	s.carol.say("still here")
	s.hear("from carol in #lobby: still here")
}

// testReload: the log of the page outlives a reload, and nothing is missing or there twice.
func (c *chromium) testReload(t *testing.T) {
	s := c.stream(t, "{}")
	s.say(20)
	s.carol.until(`numbers().length > 0`)
	s.carol.insert("a draft")
	s.carol.do(chromedp.Reload())
	s.say(20)
	s.untilComplete()
	s.carol.until(`document.querySelector("#text").value == "a draft" && text("#log").split("you joined #lobby").length == 2`)
	s.carol.until(`list("#names") == "carol, you, dave" && !sessionStorage.length`)
}

// testForgotten: a server that does not know the key gives a new one, and the page says that messages
// may be missing.
func (c *chromium) testForgotten(t *testing.T) {
	s := c.stream(t, "{}")
	s.say(20)
	s.untilComplete()
	s.process.stop()
	s.carol.until(`text("#link").includes("Connection lost")`)
	s.carol.say("typed offline")
	s.process = start(t, "-resume", "-http", s.to)
	s.carol.until(`!text("#link") && text("#log").includes("messages may be missing here")`)
	s.carol.until(`messages().endsWith("carol: typed offline")`)

	// The new key is good.
	s.dave = s.process.dial()
	s.dave.say("dave", "/join #lobby")
	s.carol.until(`text("#log").split("dave joined").length == 3`)
	s.cut()
	s.say(20)
	s.carol.until(`text("#link").startsWith("Back, ")`)
	s.untilComplete()
}

// offline pulls the network from the page, or gives it back.
func (b *tab) offline(yes bool) {
	b.t.Helper()
	_, err := chromedp.Call(b.ctx, devtools.EmulateNetworkConditionsByRule, devtools.EmulateNetworkConditionsByRuleParams{
		MatchedNetworkConditions: []*devtools.Conditions{{Offline: yes, DownloadThroughput: -1, UploadThroughput: -1}},
	})
	require.NoError(b.t, err)
	_, err = chromedp.Call(b.ctx, devtools.OverrideNetworkState, devtools.OverrideNetworkStateParams{Offline: yes, DownloadThroughput: -1, UploadThroughput: -1})
	require.NoError(b.t, err)
}
