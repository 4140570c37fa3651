package server

import (
	"bufio"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq/internal/missing"
)

// examples/README.md shows what two users of nc type and see, in two columns. It is what they
// would see.
func TestReadmeTranscript(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("nc"); err != nil {
		missing.Skip(t, "nc, from the package netcat-openbsd")
	}
	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	const begin = "    $ nc 127.0.0.1 8080"
	_, transcript, found := strings.Cut(string(readme), begin)
	require.True(t, found)
	first, transcript, _ := strings.Cut(transcript, "\n")
	transcript, _, _ = strings.Cut(transcript, "\n\n")
	column := len(begin) + strings.Index(first, "$")

	server := start(t)
	host, port, _ := strings.Cut(server.addr, ":")
	var users [2]struct {
		typed interface{ Write([]byte) (int, error) }
		shown *bufio.Reader
	}
	for i := range users {
		nc := exec.Command("nc", host, port)
		users[i].typed, err = nc.StdinPipe()
		require.NoError(t, err)
		shown, err := nc.StdoutPipe()
		require.NoError(t, err)
		users[i].shown = bufio.NewReader(shown)
		require.NoError(t, nc.Start())
		t.Cleanup(func() { nc.Process.Kill(); nc.Wait() })
	}

	observer := server.login(t, "observer")
	loggedIn, rows := 0, 0
	for row := range strings.SplitSeq(transcript, "\n") {
		rows++
		cells := [2]string{row, ""}
		if len(row) > column {
			cells = [2]string{row[:column], row[column:]}
		}
		for i, cell := range cells {
			if line, typed := strings.CutPrefix(strings.TrimSpace(cell), "> "); typed {
				users[i].typed.Write([]byte(line + "\n"))
				if !strings.ContainsAny(line, ":/") { // a login, which has no answer
					loggedIn++
					for strings.Count(observer.Ask("/who"), ",") < loggedIn {
					}
				}
			}
		}
		for i, cell := range cells {
			if want := strings.TrimSpace(cell); want != "" && !strings.HasPrefix(want, "> ") {
				got, err := users[i].shown.ReadString('\n')
				require.NoError(t, err)
				got = strings.Replace(got, ", observer", "", 1)
				require.Equal(t, want+"\n", got)
			}
		}
	}
	require.Equal(t, 2, loggedIn)
	require.Greater(t, rows, 10)
}
