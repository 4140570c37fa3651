package outside

import (
	"bufio"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

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
