//go:build linux

package main

import (
	"bufio"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// fakeHub serves hubProtocol. The second client gets the result of spoil for the i-th line.
func fakeHub(t *testing.T, spoil func(i int, line string) string) netip.AddrPort {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var mu sync.Mutex
	var conns []net.Conn
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		defer mu.Unlock()
		for _, c := range conns {
			c.Close()
		}
	})
	lines := 0
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, conn)
			mu.Unlock()
			conn.Write([]byte(hubWelcome))
			go func() {
				for in := bufio.NewScanner(conn); in.Scan(); {
					mu.Lock()
					output := spoil(lines, in.Text()+"\n")
					lines++
					for i, c := range conns {
						if i == 1 {
							c.Write([]byte(output))
						} else {
							c.Write([]byte(in.Text() + "\n"))
						}
					}
					mu.Unlock()
				}
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func onlyWindows(n int) func(int, time.Duration) bool {
	return func(windows int, _ time.Duration) bool { return windows >= n }
}

// One member gets too much or too little.
func TestClientsDetectWrongData(t *testing.T) {
	const bad = 20
	for name, spoil := range map[string]func(line string) string{
		"nothing": func(line string) string { return line },
		"twice":   func(line string) string { return line + line },
		"longer":  func(line string) string { return "x" + line },
		"lost":    func(string) string { return "" },
		"shorter": func(line string) string { return line[1:] },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			addr := fakeHub(t, func(i int, line string) string {
				if i == bad {
					return spoil(line)
				}
				return line
			})
			c, err := newClients(addr, hubProtocol(), payload, 3, 0)
			require.NoError(t, err)
			defer c.close()
			c.timeout = 100 * time.Millisecond
			r, err := c.run(4, 2, onlyWindows(5)) // up to the bad message, or the one after it
			if err == nil {
				err = c.requireSilence()
			}
			if name == "nothing" {
				require.NoError(t, err)
				require.Equal(t, 20, r.messages)
				require.Equal(t, 20.0*(3+2), r.deliveries, "publishers receive their own messages too")
				require.Positive(t, r.p50)
				require.LessOrEqual(t, r.p50, r.p99)
				require.LessOrEqual(t, r.p99, float64(r.elapsed))
				return
			}
			require.Error(t, err)
			_, err = c.run(1, 1, onlyWindows(1))
			require.ErrorIs(t, err, errClientsFailed)
		})
	}
}

// The first message is compared, not only counted.
func TestClientsVerifyFirstMessage(t *testing.T) {
	addr := fakeHub(t, func(_ int, line string) string { return "y" + line[1:] })
	_, err := newClients(addr, hubProtocol(), payload, 3, 0)
	require.ErrorIs(t, err, errUnexpected)
}

func TestClientsDetectEndOfServer(t *testing.T) {
	hub, err := startChild(self("hub"))
	require.NoError(t, err)
	c, err := newClients(hub.addr, hubProtocol(), payload, 3, 0)
	require.NoError(t, err)
	defer c.close()
	hub.stop()
	_, err = c.run(1, 1, onlyWindows(1))
	require.Error(t, err)
}
