// Package docs tests the commands of the documents, and the code of recipes.
package docs

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// patience bounds every wait. It is never reached unless something is wrong.
const patience = time.Minute

// A trial tries a command.
type trial func(t *testing.T, command string)

var outside = elsewhere("internal/outside")

// trials has the commands of all documents, except scripts.
var trials = map[string]trial{
	"go mod init example.com/hub":                outside,
	"go mod tidy":                                elsewhere("README of promsendq only says what it adds to go.sum"),
	"go get github.com/sendq-go/sendq":           outside,
	"go get github.com/sendq-go/sendq/natsrelay": outside,
	"go get github.com/sendq-go/sendq/promsendq": outside,

	"go run .":               testedBy("internal/outside/first_test.go", "(w *world) testFirstProgram"),
	"nc 127.0.0.1 8080":      testedBy("examples/chat/server/readme_test.go", "TestReadmeTranscript"),
	"nc 127.0.0.1 8081":      testedBy("examples/chat/server/readme_test.go", "TestReadmeTranscript"),
	"go run ./examples/chat": tryChat,
	"go run ./examples/chat -connect 127.0.0.1:8080 -name carol": tryClient,
	"go run ./examples/webchat -demo":                            tryWebchat,
	"go run ./examples/webchat/internal/record":                  elsewhere("it takes Chromium, and half a minute"),
	"go run ./examples/clusterchat -embed":                       tryCluster,
	"go run ./examples/clusterchat -addr 127.0.0.1:8081":         elsewhere("it is the second node beside -embed"),

	"go run ./examples/sse":                        testedBy("examples/sse/sse_test.go", "TestCurl"),
	"curl -N http://127.0.0.1:8080/events":         testedBy("examples/sse/sse_test.go", "TestCurl"),
	"curl -d 'hello' http://127.0.0.1:8080/events": testedBy("examples/sse/sse_test.go", "TestCurl"),

	"go run ./bench":                 testedBy("bench/sections_test.go", "TestFanoutSection"),
	"go run ./bench -quick":          testedBy("bench/sections_test.go", "TestFanoutSection"),
	"go run ./bench -only reconnect": testedBy("bench/sections_test.go", "TestReconnectSection"),
	"go run ./bench -write":          testedBy("bench/report_test.go", "TestResultsAreWritten"),
	"go run ./internal/soak":         testedBy("internal/soak/soak_test.go", "TestSoak"),

	"go test work":              endsCI,
	"go test -race -run NAME .": hasKnownFlags,
	"go test -v -run 'TestSimulation$' ./natsrelay -simseed N -simtrace": testedBy("natsrelay/simulation_test.go", "TestSimulation"),

	"go test -bench .": testedBy("examples/websocket/bench_test.go", "Benchmark"),

	"panic: concurrent write to websocket connection": elsewhere("gorilla/websocket says so"),
}

// Somebody has tried each command that a document names.
func TestDocsCommands(t *testing.T) {
	t.Chdir("..")
	commands := make(map[string][]string) // to the documents
	for _, pattern := range []string{"*.md", "docs/*.md", "examples/README.md", "*/*/README.md", "*/README.md"} {
		documents, err := filepath.Glob(pattern)
		require.NoError(t, err)
		for _, document := range documents {
			for _, command := range commandsOf(t, document) {
				commands[command] = append(commands[command], document)
			}
		}
	}
	require.Greater(t, len(commands), 15)
	for command := range trials {
		require.NotEmpty(t, commands[command], "no document names %s", command)
	}
	buildPrograms(t, slices.Collect(maps.Keys(commands)))
	for command, documents := range commands {
		t.Run(command, func(t *testing.T) {
			try := trials[command]
			if isScript.MatchString(command) {
				try = tryScript
			}
			require.NotNil(t, try, "named in %v: who has tried it?", documents)
			if isProgram(command) {
				tryHelp(t, command)
			}
			try(t, command)
		})
	}
}

var (
	fence      = regexp.MustCompile("(?ms)^```(\\w*)\n(.*?)^```$")
	transcript = regexp.MustCompile(`(?m)^    \$ .*\n(    .*\n)*`)
	line       = regexp.MustCompile(`(?m)^    (\S.*)$`)
	span       = regexp.MustCompile("`([^`]+)`")
	comment    = regexp.MustCompile(`\s+# .*`)
	isCommand  = regexp.MustCompile(`^(go|nc|git|curl|docker|\.?ci/\w+) `)
	isScript   = regexp.MustCompile(`^\.?ci/\w+`)
)

// commandsOf returns the commands of a document: the lines of its indented or fenced blocks, and
// commands in running text.
func commandsOf(t *testing.T, document string) (commands []string) {
	p, err := os.ReadFile(document)
	require.NoError(t, err)
	text := fence.ReplaceAllStringFunc(string(p), func(block string) string {
		switch m := fence.FindStringSubmatch(block); m[1] {
		case "", "sh", "bash", "shell", "console":
			return regexp.MustCompile(`(?m)^`).ReplaceAllString(m[2], "    ")
		}
		return ""
	})
	if document != "DESIGN.md" && document != filepath.Join("docs", "cluster.md") { // which have pictures
		for _, m := range line.FindAllStringSubmatch(transcript.ReplaceAllString(text, ""), -1) {
			commands = append(commands, comment.ReplaceAllString(m[1], ""))
		}
	}
	for _, m := range span.FindAllStringSubmatch(line.ReplaceAllString(text, ""), -1) {
		if command := strings.Join(strings.Fields(m[1]), " "); isCommand.MatchString(command+" ") && command != "nc" {
			commands = append(commands, command)
		}
	}
	return commands
}

// elsewhere is for commands that are not tried here.
func elsewhere(reason string) trial { return func(t *testing.T, _ string) { t.Log(reason) } }

// testedBy is for commands whose work a test of another package does.
func testedBy(file, test string) trial {
	return func(t *testing.T, _ string) {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		require.Contains(t, string(text), "\nfunc "+test)
	}
}

// endsCI is for the command that .ci/run ends with, where it has the race detector.
func endsCI(t *testing.T, command string) {
	text, err := os.ReadFile(".ci/run")
	require.NoError(t, err)
	require.True(t, strings.HasSuffix(string(text), "\nstep "+strings.Replace(command, "go test", "go test -race", 1)+"\n"))
}

// hasKnownFlags is for commands with flags of go test, and with other arguments than one would give.
func hasKnownFlags(t *testing.T, command string) {
	for _, flag := range regexp.MustCompile(` (-\w+)`).FindAllStringSubmatch(command, -1) {
		require.True(t, regexp.MustCompile(`\n\t`+flag[1]+`\s`).MatchString(testFlags()), flag[1])
	}
}

var testFlags = sync.OnceValue(func() string {
	build, _ := exec.Command("go", "help", "build").Output()
	test, _ := exec.Command("go", "help", "testflag").Output()
	return string(build) + string(test)
})

// tryScript is for scripts. CI runs them, but maybe with other arguments.
func tryScript(t *testing.T, command string) {
	for command := range strings.SplitSeq(command, " && ") {
		script, args, _ := strings.Cut(command, " ")
		text, err := os.ReadFile(script)
		require.NoError(t, err)
		switch {
		case script == "ci/test":
			hasKnownFlags(t, command)
		case script == "ci/release":
			testedBy("internal/outside/release_test.go", "TestRelease")(t, command)
		case args != "":
			accepted := regexp.MustCompile(`(?m)^accept '(.*)' "\$@"$`).FindSubmatch(text)
			require.NotNil(t, accepted, script)
			require.Regexp(t, fmt.Sprintf("^(%s)$", accepted[1]), strings.ReplaceAll(args, "'", ""))
		}
	}
}

// isProgram reports whether the command runs a program of this repository.
func isProgram(command string) bool { return strings.HasPrefix(command, "go run ./") }

// tryHelp lets a program read the flags of the command, and end.
func tryHelp(t *testing.T, command string) {
	if strings.HasPrefix(command, "go run ./bench") && runtime.GOOS != "linux" {
		t.Skip("needs Linux")
	}
	program, flags := programOf(command)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	help, err := exec.CommandContext(ctx, program, append(flags, "-help")...).CombinedOutput()
	require.NoError(t, err, "%s", help)
}

func tryChat(t *testing.T, command string) {
	server := start(t, command, "-addr", "127.0.0.1:0")
	addr := server.after("listening on ")
	talk(t, addr, addr)
}

func tryClient(t *testing.T, command string) {
	server := start(t, "go run ./examples/chat", "-addr", "127.0.0.1:0")
	addr := server.after("listening on ")
	client := start(t, strings.Replace(command, "127.0.0.1:8080", addr, 1))
	alice := dialUntil(t, addr)
	fmt.Fprintln(alice, "alice")
	lines := bufio.NewScanner(alice)
	until(t, alice, lines, "/who", "names: alice, carol")
	fmt.Fprintln(client.stdin, "alice: hi")
	require.True(t, lines.Scan())
	require.Equal(t, "from carol: hi", lines.Text())
}

func tryWebchat(t *testing.T, command string) {
	server := start(t, command, "-addr", "127.0.0.1:0", "-http", "127.0.0.1:0")
	addr, page := server.after("listening on "), server.after("page at ")
	talk(t, addr, addr)
	answer, err := http.Get(page + "status")
	require.NoError(t, err)
	defer answer.Body.Close()
	require.Equal(t, http.StatusOK, answer.StatusCode)
}

// tryCluster runs a node with the command, and a second one.
func tryCluster(t *testing.T, command string) {
	nats := "nats://" + freeAddr(t)
	first := start(t, command, "-addr", "127.0.0.1:0", "-nats", nats).after("listening on ")
	second := start(t, "go run ./examples/clusterchat -addr 127.0.0.1:8081", "-addr", "127.0.0.1:0", "-nats", nats).after("listening on ")
	talk(t, first, second)
}

// programs is the directory of the programs.
var programs string

// buildPrograms builds the programs of the commands.
func buildPrograms(t *testing.T, commands []string) {
	programs = t.TempDir()
	build := []string{"build", "-o", programs + string(filepath.Separator)}
	for _, command := range commands {
		if isProgram(command) {
			build = append(build, strings.Fields(command)[2])
		}
	}
	out, err := exec.Command("go", build...).CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// programOf returns the path and flags of the program that go run PACKAGE FLAG... runs.
func programOf(command string) (program string, flags []string) {
	words := strings.Fields(command)
	return filepath.Join(programs, filepath.Base(words[2])), words[3:]
}

// A running program.
type running struct {
	t     *testing.T
	stdin io.Writer
	lines *bufio.Scanner // of both outputs
}

// start starts the program of a command, with more flags, and ends it with the test.
func start(t *testing.T, command string, more ...string) running {
	program, flags := programOf(command)
	cmd := exec.Command(program, append(flags, more...)...)
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	output, w := io.Pipe()
	cmd.Stdout, cmd.Stderr = w, w
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		output.Close()
		cmd.Process.Kill()
		cmd.Wait()
	})
	return running{t, stdin, bufio.NewScanner(output)}
}

// after returns the rest of the next line with a prefix.
func (r running) after(prefix string) string {
	for r.lines.Scan() {
		if rest, found := strings.CutPrefix(r.lines.Text(), prefix); found {
			return rest
		}
	}
	r.t.Fatalf("the program did not say %q", prefix)
	return ""
}

// talk lets alice and bob talk on two servers of a chat, or on one.
func talk(t *testing.T, first, second string) {
	alice, bob := dialUntil(t, first), dialUntil(t, second)
	fmt.Fprintln(alice, "alice")
	fmt.Fprintln(bob, "bob")
	lines := bufio.NewScanner(alice)
	until(t, alice, lines, "/who", "alice, bob")
	fmt.Fprintln(bob, "alice: hi")
	require.True(t, lines.Scan())
	require.Equal(t, "from bob: hi", lines.Text())
}

// until asks until the answer ends as wanted.
func until(t *testing.T, conn net.Conn, lines *bufio.Scanner, question, answer string) {
	for !strings.Contains(lines.Text(), answer) {
		time.Sleep(10 * time.Millisecond)
		fmt.Fprintln(conn, question)
		require.True(t, lines.Scan())
	}
}

// freeAddr returns an address that nobody uses.
func freeAddr(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}

// dialUntil dials a server that may not listen yet.
func dialUntil(t *testing.T, addr string) net.Conn {
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			t.Cleanup(func() { conn.Close() })
			require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
			return conn
		}
		require.True(t, time.Now().Before(end), err)
	}
}
