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

// testFirstProgram runs the program of README.md, a chat server, and chats.
func (w *world) testFirstProgram(t *testing.T) {
	address := unusedAddress(t)
	program := w.blocks(t, "README.md")[0].code
	require.Contains(t, program, "127.0.0.1:8080", "README.md: the address of the first program")
	dir := w.newModule(t)
	w.run(t, dir, "get", own)
	writeFile(t, filepath.Join(dir, "main.go"), strings.ReplaceAll(program, "127.0.0.1:8080", address))
	server := filepath.Join(dir, "server.exe")
	w.run(t, dir, "build", "-o", server)
	running := exec.Command(server)
	require.NoError(t, running.Start())
	t.Cleanup(func() {
		_ = running.Process.Kill()
		_ = running.Wait()
	})

	alice, bob := login(t, address, "alice"), login(t, address, "bob")
	go func() { // until alice has her name
		for {
			if _, err := fmt.Fprintln(bob, "hi"); err != nil {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	heard, err := bufio.NewReader(alice).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "Your name? bob: hi\n", heard)
}

func unusedAddress(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}

// login logs in to a server that may not listen yet.
func login(t *testing.T, address, name string) net.Conn {
	var conn net.Conn
	require.Eventually(t, func() (ok bool) {
		var err error
		conn, err = net.Dial("tcp", address)
		return err == nil
	}, time.Minute, 10*time.Millisecond)
	t.Cleanup(func() { conn.Close() })
	require.NoError(t, conn.SetDeadline(time.Now().Add(time.Minute)))
	fmt.Fprintln(conn, name)
	return conn
}

func writeFile(t *testing.T, name, text string) {
	require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o777))
	require.NoError(t, os.WriteFile(name, []byte(text), 0o666))
}
