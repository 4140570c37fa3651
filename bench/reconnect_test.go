//go:build linux

package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// linesOf returns an answer and messages to room 3.
func linesOf(answer string, numbers ...int) string {
	var lines strings.Builder
	fmt.Fprintln(&lines, answer)
	for _, n := range numbers {
		fmt.Fprintf(&lines, "room3 %d %s\n", n, payload)
	}
	return lines.String()
}

// A user has received 4 messages and is back on a new connection.
func TestUsersDetectWrongMessages(t *testing.T) {
	for name, c := range map[string]struct {
		resumes          bool
		received         string
		want             string // in the error
		missed, repeated int
	}{
		"resumed":                  {true, linesOf("0", 5, 6, 7), "", 0, 0},
		"resumed, nothing new":     {true, linesOf("0"), "", 0, 0},
		"resumed, one is lost":     {true, linesOf("0", 6), "message 6; expected 5", 0, 0},
		"resumed, one comes twice": {true, linesOf("0", 4, 5), "message 4; expected 5", 0, 0},
		"resumed, out of order":    {true, linesOf("0", 5, 7, 6), "message 7; expected 6", 0, 0},
		"resumed, missed":          {true, linesOf("2"), `got "2"`, 0, 0},
		"resumed, unknown":         {true, linesOf("-1"), `got "-1"`, 0, 0},
		"replayed":                 {false, linesOf("-1", 5, 6, 7), "", 0, 0},
		"replayed too little":      {false, linesOf("-1", 7, 8), "", 2, 0},
		"replayed too much":        {false, linesOf("-1", 2, 3, 4, 5), "", 0, 3},
		"replayed, one is lost":    {false, linesOf("-1", 2, 4), "message 4; expected 3", 0, 0},
		"refused":                  {false, linesOf("error: no"), "error: no", 0, 0},
		"another room":             {false, linesOf("-1") + "room4 5 " + payload + "\n", "room4", 0, 0},
		"another text":             {false, linesOf("-1") + "room3 5 x\n", "room3 5 x", 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			for step := range len(c.received) {
				u := &roomUser{peer: new(peer), room: "room3", resumes: c.resumes, have: 4}
				u.begin()
				var err error
				for rest := c.received; rest != "" && err == nil; { // in pieces
					n := min(step+1, len(rest))
					err = u.receive([]byte(rest[:n]))
					rest = rest[n:]
				}
				if c.want != "" {
					require.ErrorContains(t, err, c.want)
					continue
				}
				require.NoError(t, err)
				require.Equal(t, []int{c.missed, c.repeated}, []int{u.missed, u.repeated})
				require.Empty(t, u.unread)
			}
		})
	}
}
