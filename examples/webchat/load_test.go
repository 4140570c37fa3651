package main

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestLoad: 20 browsers talk at once, in fragments and with pings between. A browser and a TCP user get
// every line, and the lines of each sender in order. The browsers use another library than the server.
func TestLoad(t *testing.T) {
	t.Parallel()
	p := start(t, "-rate", "0")
	const senders, lines = 20, 100
	web, tcp := login(p.open(), "web"), login(p.dial(), "tcp")
	for _, u := range []user{web, tcp} {
		u.say("/join #load")
		require.Equal(t, "* web joined #load", u.hear())
	}
	require.Equal(t, "* tcp joined #load", tcp.hear())

	var all sync.WaitGroup
	for s := range senders {
		u := p.open()
		all.Go(func() {
			u.say(fmt.Sprintf("s%d", s), "/join #load")
			pinged := make(chan error, 1)
			go func() { // discards the lines for the sender
				for {
					if _, _, err := u.Read(t.Context()); err != nil {
						return
					}
				}
			}()
			for i := range lines {
				w, err := u.Writer(t.Context(), websocket.MessageText)
				if !assert.NoError(t, err) {
					return
				}
				fmt.Fprint(w, "#lo")
				if i%10 == 0 {
					go func() { pinged <- u.Ping(t.Context()) }()
				}
				fmt.Fprintf(w, "ad: %d %s", i, strings.Repeat("x", i*10))
				assert.NoError(t, w.Close())
				if i%10 == 0 {
					assert.NoError(t, <-pinged)
				}
			}
		})
	}
	for _, u := range []user{web, tcp} {
		all.Go(func() {
			next := make(map[string]int)
			for heard := 0; heard < senders*lines; {
				line := u.hear()
				if strings.HasPrefix(line, "* ") {
					continue
				}
				var i int
				var x string
				from, text, _ := strings.Cut(line, " in #load: ")
				_, _ = fmt.Sscanf(text, "%d %s", &i, &x)
				if !assert.Equal(t, next[from], i, line) || !assert.Len(t, x, i*10) {
					return
				}
				next[from]++
				heard++
			}
		})
	}
	all.Wait()
}

// fill queues many lines for a user who does not read, and returns their number.
func fill(p *process, name string) (lines int, text string) {
	talker := login(p.dial(), "talker-of-"+name)
	text = strings.Repeat("x", 60_000)
	for lines = range 120 { // 7 MB, more than the kernel buffers
		talker.say(name + ": " + text)
	}
	talker.say("/who #nobody")
	require.Equal(p.t, "names: ", talker.hear())
	return lines + 1, text
}

// TestQuitDeliversBeforeTheCloseFrame: the queue comes first, whoever ends the session.
func TestQuitDeliversBeforeTheCloseFrame(t *testing.T) {
	t.Parallel()
	p := start(t, "-rate", "0")
	bob := login(p.open(), "bob")
	lines, text := fill(p, "bob")
	bob.say("/quit")
	for range lines {
		require.Equal(t, "from talker-of-bob: "+text, bob.hear())
	}
	_, _, err := bob.Read(t.Context())
	require.Equal(t, websocket.StatusNormalClosure, websocket.CloseStatus(err), err)
}

// TestStop: users of both kinds get their queue, and then a goodbye.
func TestStop(t *testing.T) {
	t.Parallel()
	p := start(t, "-rate", "0")
	bob, carol := login(p.open(), "bob"), login(p.dial(), "carol")
	p.open() // a user without a login holds nothing up
	idle := login(p.open(), "idle")
	lines, text := fill(p, "bob")
	fill(p, "carol")
	stopped := make(chan string)
	go func() { stopped <- p.stop() }()
	for range lines {
		require.Equal(t, "from talker-of-bob: "+text, bob.hear())
		require.Equal(t, "from talker-of-carol: "+text, carol.hear())
	}
	for _, u := range []*webUser{bob, idle} {
		_, _, err := u.Read(t.Context())
		require.Equal(t, websocket.StatusGoingAway, websocket.CloseStatus(err), err)
	}
	rest, err := io.ReadAll(carol.r)
	require.NoError(t, err)
	require.Empty(t, rest)
	require.NotContains(t, <-stopped, "lost")
}
