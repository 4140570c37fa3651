package server

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq/examples/chat/internal/chattest"
)

func TestPerAddress(t *testing.T) {
	t.Parallel()
	server := start(t, "-per-address", "2")
	alice := server.login(t, "alice")

	// One more may come in, and counts before its login.
	clients := make(map[*chattest.Client]bool)
	refused, heard := make(chan *chattest.Client), make(chan string)
	for range 4 {
		c := server.connect(t)
		clients[c] = true
		go func() {
			line, _ := c.Lines.ReadString('\n')
			if line == "error: your address has more than 2 connections\n" {
				refused <- c
			} else {
				heard <- line
			}
		}()
	}
	for len(clients) > 1 {
		c := <-refused
		c.ExpectEnd()
		delete(clients, c)
	}
	for bob := range clients {
		bob.Say("bob", "/who")
	}
	require.Equal(t, "names: alice, bob\n", <-heard)

	alice.Say("/quit")
	alice.ExpectEnd()
	require.Eventually(t, func() bool { // when the server has noticed
		c := server.connect(t)
		defer c.Close()
		c.Say("carol", "/who")
		return c.Next() == "names: bob, carol"
	}, chattest.Patience, time.Second) // a refused connection counts for up to half a second
}

func TestAddressesThatCount(t *testing.T) {
	t.Parallel()
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
	t.Parallel()
	server := start(t, "-rate", "5")
	alice, bob := server.login(t, "alice"), server.login(t, "bob")
	const lines = 2000
	begin := time.Now()
	for i := range lines {
		alice.Say(fmt.Sprintf("bob: %d", i))
	}
	alice.Say("/quit") // is heard always
	complaints, err := io.ReadAll(alice.Lines)
	require.NoError(t, err)
	seconds := int(time.Since(begin)/time.Second) + 1
	told := strings.Count(string(complaints), "error: slow down: more than 5 lines a second")
	require.Equal(t, told, strings.Count(string(complaints), "\n"), "nothing else is said")
	require.GreaterOrEqual(t, told, 1)
	require.LessOrEqual(t, told, seconds)

	bob.Say("bob: end")
	heard := 0
	for bob.Next() != "from bob: end" {
		heard++
	}
	require.GreaterOrEqual(t, heard, 19, "four seconds' worth at once, one of which was /who")
	require.LessOrEqual(t, heard, 20+5*seconds)
}

func TestPace(t *testing.T) {
	t.Parallel()
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
