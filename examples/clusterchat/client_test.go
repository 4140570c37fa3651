package main

import (
	"bufio"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq/internal/missing"
)

// chatProgram builds examples/chat and returns the path of the program.
var chatProgram = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "clusterchat-test-*")
	if err != nil {
		return "", err
	}
	atExit = append(atExit, func() { _ = os.RemoveAll(dir) })
	build := exec.Command("go", "build", "-o", dir+string(filepath.Separator), ".")
	build.Dir = chatFolder
	build.Stderr = os.Stderr
	return filepath.Join(dir, "chat"), build.Run()
})

const chatFolder = "../chat"

// A chatClient is a running client of examples/chat.
type chatClient struct {
	t     *testing.T
	typed io.Writer
	shown *bufio.Reader
	said  logBuffer // beside the lines of the server
}

// runClient runs the client of examples/chat until the end of the test.
func runClient(t *testing.T, addr, name string) *chatClient {
	if _, err := os.Stat(chatFolder); err != nil {
		missing.Skip(t, "the client of a clone: ", err)
	}
	program, err := chatProgram()
	require.NoError(t, err)
	c := &chatClient{t: t}
	cmd := exec.Command(program, "-connect", addr, "-name", name)
	cmd.Stderr = io.MultiWriter(t.Output(), &c.said)
	c.typed, err = cmd.StdinPipe()
	require.NoError(t, err)
	shown, err := cmd.StdoutPipe()
	require.NoError(t, err)
	c.shown = bufio.NewReader(shown)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return c
}

func (c *chatClient) say(line string) {
	_, err := io.WriteString(c.typed, line+"\n")
	require.NoError(c.t, err)
}

func (c *chatClient) expect(want string) {
	c.t.Helper()
	require.Equal(c.t, want, c.hear())
}

func (c *chatClient) hear() string {
	c.t.Helper()
	line, err := c.shown.ReadString('\n')
	require.NoError(c.t, err)
	return strings.TrimSuffix(line, "\n")
}

// balance forwards connections to the first of the addresses that accepts them, and returns the address
// for clients.
func balance(t *testing.T, addrs []string) (addr string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			outer, err := l.Accept()
			if err != nil {
				return
			}
			go forward(outer, addrs)
		}
	}()
	return l.Addr().String()
}

func forward(outer net.Conn, addrs []string) {
	defer outer.Close()
	for _, addr := range addrs {
		inner, err := net.Dial("tcp", addr)
		if err != nil {
			continue
		}
		defer inner.Close()
		go func() {
			_, _ = io.Copy(inner, outer)
			inner.Close()
		}()
		_, _ = io.Copy(outer, inner)
		return
	}
}
