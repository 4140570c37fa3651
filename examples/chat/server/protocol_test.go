package server

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
)

// Whatever a client sends, its lines are understood or refused, and what others may
// get to see is one line of harmless text.
func FuzzLines(f *testing.F) {
	for _, seed := range []string{
		"bob, alice: hi\n", "*: hi\n", "#room: hi\n", "/join #room\n/leave #room\r\n", "/who\n/who #room\n/quit\n",
		"", "\n", ":\n", ",:,\n", "/\n", "/who  \n", "cut off", "a\xff\x1b[2J\u202e: \x00\r\r\n",
	} {
		f.Add(seed)
	}
	harmless := func(t *testing.T, s string) {
		require.True(t, utf8.ValidString(s))
		require.False(t, strings.ContainsFunc(s, unicode.IsControl), "%q", s)
	}
	f.Fuzz(func(t *testing.T, input string) {
		rest := input
		lines := newLineScanner(strings.NewReader(input))
		next := func() bool {
			for !lines.Scan() {
				if lines.Err() != nil {
					return false
				}
				lines.Wait()
			}
			return true
		}
		for next() {
			raw, after, found := strings.Cut(rest, "\n")
			rest = after
			require.True(t, found, "a line without an end was delivered")
			require.Equal(t, strings.TrimSuffix(raw, "\r"), lines.Text())
			require.LessOrEqual(t, len(lines.Text()), maxLine)

			cmd, err := parse(clean(lines.Text()))
			if err != nil {
				harmless(t, err.Error())
				continue
			}
			harmless(t, cmd.text)
			harmless(t, cmd.room)
			switch cmd.verb {
			case toUsers:
				require.NotEmpty(t, cmd.users)
				require.NotEmpty(t, cmd.text)
				for _, name := range cmd.users {
					harmless(t, name)
					require.NotContains(t, name, ",")
					require.Equal(t, strings.TrimSpace(name), name)
				}
			case toAll, toRoom:
				require.NotEmpty(t, cmd.text)
			case join, leave:
				require.True(t, isName(strings.TrimPrefix(cmd.room, "#")))
			}
		}
		if lines.Err() == io.EOF {
			require.NotContains(t, rest, "\n", "a line was left out")
		}
	})
}

// TestReport: whoever sends is told why somebody did not get it.
func TestReport(t *testing.T) {
	for _, test := range []struct {
		refused sendq.Refusal
		want    string
	}{
		{sendq.Refusal{Name: "bob", Err: sendq.ErrUnknownName}, "error: no such user: bob\n"},
		{sendq.Refusal{Name: "bob", Err: sendq.ErrClosed}, "error: bob has just left\n"},
		{sendq.Refusal{Name: "bob", Err: sendq.ErrUnconfirmed}, "error: the server of bob does not answer: the message may have arrived, or not\n"},
		{sendq.Refusal{Name: "bob", Err: sendq.ErrWouldBlock}, "error: the server of bob is too far behind: the message was not sent\n"},
		{sendq.Refusal{Name: "bob", FanOut: true, Err: sendq.ErrClosed}, ""},
	} {
		conn, peer := net.Pipe()
		c := New(Options{}).newSession(conn, time.Second)
		c.report(sendq.Report{Refused: []sendq.Refusal{test.refused}})
		go c.w.Close()
		got, err := io.ReadAll(peer)
		require.NoError(t, err)
		require.Equal(t, test.want, string(got))
	}
}
