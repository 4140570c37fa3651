package server

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq/examples/chat/internal/chattest"
)

// 16 users come and go, half of them with a reset, while others write to them.
func TestComingAndGoingLeavesNoGhost(t *testing.T) {
	t.Parallel()
	server := start(t)
	watcher := server.login(t, "watcher")
	stop := make(chan struct{})
	var writers, users sync.WaitGroup

	names := make([]string, 16)
	for i := range names {
		names[i] = fmt.Sprintf("user%d", i)
	}
	for i := range 2 {
		c := server.login(t, fmt.Sprintf("writer%d", i))
		writers.Go(func() {
			go io.Copy(io.Discard, c.Lines)
			for {
				select {
				case <-stop:
					c.Close()
					return
				case <-time.After(time.Millisecond): // or the server would be busy for long after stop
					fmt.Fprintf(c, "%s: hello\n*: all\n#go: room\n/join #go\n", strings.Join(names, ","))
				}
			}
		})
	}
	for i, name := range names {
		users.Go(func() {
			for visit := range 60 {
				conn, err := net.Dial("tcp", server.addr)
				if !assert.NoError(t, err) {
					return
				}
				conn.SetDeadline(time.Now().Add(chattest.Patience))
				fmt.Fprintf(conn, "%s\n/join #go\n#go: hi\n", name)
				// The name may not be free yet, which is an error line and EOF.
				bufio.NewReader(conn).ReadString('\n')
				if (visit+i)%2 == 0 {
					conn.(*net.TCPConn).SetLinger(0)
				}
				conn.Close()
			}
		})
	}
	go io.Copy(io.Discard, watcher.Lines)
	users.Wait()
	close(stop)
	writers.Wait()
	watcher.Close()

	observer := server.login(t, "observer")
	require.Eventually(t, func() bool {
		return observer.Ask("/who") == "names: observer" && observer.Ask("/who #go") == "names: "
	}, chattest.Patience, 10*time.Millisecond)
}

// Short visits, thousands of them, leave neither a descriptor nor a name behind.
func TestShortVisitsLeaveNothing(t *testing.T) {
	t.Parallel()
	server := start(t)
	descriptors := func() int {
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", server.cmd.Process.Pid))
		if err != nil {
			t.Skip("the system does not list the descriptors of a process")
		}
		return len(entries)
	}
	server.login(t, "alice").Close()
	before := descriptors()

	var visitors sync.WaitGroup
	for v := range 8 {
		visitors.Go(func() {
			for i := range 250 {
				conn, err := net.Dial("tcp", server.addr)
				if !assert.NoError(t, err) {
					return
				}
				switch i % 4 {
				case 0: // says nothing
				case 1:
					fmt.Fprintf(conn, "v%d\n", v)
				case 2:
					fmt.Fprintf(conn, "v%d\n/who\n*: hi\n", v)
				case 3:
					conn.(*net.TCPConn).SetLinger(0)
					fmt.Fprintf(conn, "v%d\n/who\n", v)
				}
				conn.Close()
			}
		})
	}
	visitors.Wait()
	require.Eventually(t, func() bool { return descriptors() <= before }, chattest.Patience, 10*time.Millisecond)
	bob := server.login(t, "bob")
	// A last visitor may have waited to be accepted.
	require.Eventually(t, func() bool { return bob.Ask("/who") == "names: bob" }, chattest.Patience, 10*time.Millisecond)
}

// With no descriptor left the server waits until one is free.
func TestTooManyOpenFiles(t *testing.T) {
	t.Parallel()
	server := startBy(t, []string{"sh", "-c", `ulimit -n 20 && exec "$0" "$@"`})
	var crowd []net.Conn
	for range 40 { // the kernel completes these connections, accepted or not
		conn, err := net.Dial("tcp", server.addr)
		require.NoError(t, err)
		crowd = append(crowd, conn)
	}
	for _, conn := range crowd {
		conn.Close()
	}
	server.login(t, "alice")
	require.Contains(t, server.stop(t), "too many open files")
}
