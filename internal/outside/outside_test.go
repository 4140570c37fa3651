package outside

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestOutside does what users do.
func TestOutside(t *testing.T) {
	w := newWorld(t)
	t.Run("Get", w.testGet)
	t.Run("Install", w.testInstall)
	t.Run("FirstProgram", w.testFirstProgram)
	t.Run("Documents", w.testDocuments)
}

// testGet gets each package in an empty module, and runs a program that uses it and says hello.
func (w *world) testGet(t *testing.T) {
	for _, pkg := range []string{own, own + "/relay", own + "/natsrelay", own + "/promsendq"} {
		t.Run(path.Base(pkg), func(t *testing.T) {
			dir := w.newModule(t)
			w.run(t, dir, "get", pkg)
			program, err := os.ReadFile(filepath.Join("testdata", "get", path.Base(pkg)+".go"))
			require.NoError(t, err)
			writeFile(t, filepath.Join(dir, "main.go"), string(program))
			require.Equal(t, "hello\n", w.run(t, dir, "run", "."))
			require.NotContains(t, w.run(t, dir, "mod", "graph"), "nats-server")
		})
	}
}

// testInstall installs each command for users, and runs it.
func (w *world) testInstall(t *testing.T) {
	for _, name := range []string{"chat", "webchat", "clusterchat"} {
		t.Run(name, func(t *testing.T) {
			w.install(t, name)
			help, err := exec.Command(filepath.Join(w.bin, name), "-help").CombinedOutput()
			require.NoError(t, err, "%s", help)
			require.Contains(t, string(help), "-addr")
		})
	}
}

func (w *world) install(t *testing.T, name string) {
	w.run(t, t.TempDir(), "install", own+"/examples/"+name+"@latest")
}

// testFirstProgram runs the program of README.md. Somebody in the chat hears its hello.
func (w *world) testFirstProgram(t *testing.T) {
	w.install(t, "chat")
	address := startChat(t, filepath.Join(w.bin, "chat"))
	alice, err := net.Dial("tcp", address)
	require.NoError(t, err)
	defer alice.Close()
	require.NoError(t, alice.SetDeadline(time.Now().Add(time.Minute)))
	fmt.Fprint(alice, "alice\n/who\n")
	require.Equal(t, "names: alice", readLine(t, alice))

	program := w.blocks(t, "README.md")[0].code
	require.Contains(t, program, "127.0.0.1:8080", "README.md: the address of the first program")
	dir := w.newModule(t)
	w.run(t, dir, "get", own)
	writeFile(t, filepath.Join(dir, "main.go"), strings.ReplaceAll(program, "127.0.0.1:8080", address))
	w.run(t, dir, "run", ".")
	require.Equal(t, "from robot: hello", readLine(t, alice))
}

// startChat starts the installed chat server until the end of the test.
func startChat(t *testing.T, command string) (address string) {
	chat := exec.Command(command, "-addr", "127.0.0.1:0")
	output, err := chat.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, chat.Start())
	t.Cleanup(func() {
		_ = chat.Process.Kill()
		_ = chat.Wait()
	})
	_, err = fmt.Fscanf(bufio.NewReader(output), "listening on %s\n", &address)
	require.NoError(t, err)
	return address
}

// readLine reads a line from an unbuffered connection, a byte at a time.
func readLine(t *testing.T, conn net.Conn) string {
	var line []byte
	for b := make([]byte, 1); b[0] != '\n'; line = append(line, b...) {
		_, err := conn.Read(b)
		require.NoError(t, err)
	}
	return strings.TrimSuffix(string(line), "\n")
}

func writeFile(t *testing.T, name, text string) {
	require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o777))
	require.NoError(t, os.WriteFile(name, []byte(text), 0o666))
}
