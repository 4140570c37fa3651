package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestResume: users of both kinds come back, and get what they have not heard. Pings and pongs do not
// count as lines.
func TestResume(t *testing.T) {
	t.Parallel()
	p := start(t, "-resume", "-linger", "5m", "-rate", "0")
	bob := p.dial()
	bob.say("bob")
	bob.hear() // the key
	for name, test := range map[string]struct {
		connect func() user
		cut     func(user)
	}{
		"web": {func() user { return p.open() }, func(u user) { u.(*webUser).CloseNow() }},
		"tcp": {func() user { return p.dial() }, func(u user) { u.(*tcpUser).Close() }},
	} {
		u := test.connect()
		u.say(name)
		key, found := strings.CutPrefix(u.hear(), "* your key is ")
		require.True(t, found)
		heard, said := 1, 0
		for times := range 5 {
			if web, ok := u.(*webUser); ok {
				heard += web.ping()
			}
			for range 100 {
				said++
				bob.say(fmt.Sprint(name, ": ", said))
			}
			bob.say("/who #nobody")
			require.Equal(t, "names: ", bob.hear()) // the server has read all that
			for i := range 50 {
				require.Equal(t, fmt.Sprint("from bob: ", said-99+i), u.hear())
				heard++
			}
			test.cut(u)
			u = test.connect()
			u.say(fmt.Sprint(name, " ", key, " ", heard, " ", times))
			require.Equal(t, "* back: 50 lines", u.hear())
			for i := range 50 {
				require.Equal(t, fmt.Sprint("from bob: ", said-49+i), u.hear())
			}
			heard = 51
		}
	}
}

// ping sends a ping, and asks for lines until the pong is there. It returns how many have come.
func (u *webUser) ping() (heard int) {
	pinged := make(chan error, 1)
	go func() { pinged <- u.Ping(u.t.Context()) }()
	for {
		select {
		case err := <-pinged:
			require.NoError(u.t, err)
			return heard
		default:
			u.say("/who #nobody")
			require.Equal(u.t, "names: ", u.hear())
			heard++
		}
	}
}
