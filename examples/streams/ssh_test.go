package streams_test

import (
	"bufio"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/examples/streams"
)

// serveSSH returns the address of a server that gives each user a channel.
func serveSSH(t *testing.T, b *sendq.Broker) (addr string) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	signer, err := ssh.NewSignerFromKey(key)
	require.NoError(t, err)
	config := &ssh.ServerConfig{NoClientAuth: true}
	config.AddHostKey(signer)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })

	go func() {
		for {
			socket, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer socket.Close()
				conn, channels, requests, err := ssh.NewServerConn(socket, config)
				if err != nil {
					return
				}
				go ssh.DiscardRequests(requests)
				for channel := range channels {
					channel, requests, err := channel.Accept()
					if err != nil {
						return
					}
					go ssh.DiscardRequests(requests)
					go streams.ServeChannel(b, conn.User(), channel, conn)
				}
			}()
		}
	}()
	return l.Addr().String()
}

// login returns the channel of a user once the broker has the name, and the socket beneath.
func login(t *testing.T, b *sendq.Broker, addr, name string) (ssh.Channel, *stoppableConn) {
	tcp, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	socket := &stoppableConn{Conn: tcp, stopped: make(chan struct{})}
	t.Cleanup(func() { socket.Close() })
	conn, _, _, err := ssh.NewClientConn(socket, addr, &ssh.ClientConfig{User: name, HostKeyCallback: ssh.InsecureIgnoreHostKey()})
	require.NoError(t, err)
	channel, requests, err := conn.OpenChannel("session", nil)
	require.NoError(t, err)
	go ssh.DiscardRequests(requests)
	require.Eventually(t, func() bool {
		_, ok := b.Lookup(name)
		return ok
	}, patience, time.Millisecond)
	return channel, socket
}

// A stoppableConn reads nothing more when it is stopped.
type stoppableConn struct {
	net.Conn
	stopped chan struct{}
}

func (c *stoppableConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	select {
	case <-c.stopped:
		select {} // until the test ends
	default:
		return n, err
	}
}

// Many goroutines send on one channel, and it ends whole.
func TestServeChannel(t *testing.T) {
	const senders, messages = 20, 100
	b := sendq.NewBroker(nil)
	addr := serveSSH(t, b)
	alice, _ := login(t, b, addr, "alice")
	_, err := alice.Write([]byte("hello\n"))
	require.NoError(t, err)
	lines := bufio.NewScanner(alice)
	require.True(t, lines.Scan())
	require.Equal(t, "hello", lines.Text())

	var sending sync.WaitGroup
	for sender := range senders {
		sending.Go(func() {
			for i := range messages {
				b.Broadcast(fmt.Appendln(nil, sender, i))
			}
		})
	}
	sending.Wait()
	closed := make(chan error)
	go func() { closed <- b.Close() }()
	next := make([]int, senders)
	for range senders * messages {
		require.True(t, lines.Scan())
		var sender, i int
		_, err := fmt.Sscan(lines.Text(), &sender, &i)
		require.NoError(t, err)
		require.Equal(t, next[sender], i)
		next[sender]++
	}
	require.False(t, lines.Scan())
	require.NoError(t, lines.Err())
	require.NoError(t, <-closed)
	alice.Close()
}

// A client whose machine stalls is disconnected, although its Write is stuck.
func TestServeChannelStalled(t *testing.T) {
	b := sendq.NewBroker(nil)
	addr := serveSSH(t, b)
	_, socket := login(t, b, addr, "alice")
	w, _ := b.Lookup("alice")
	close(socket.stopped)
	message := []byte(strings.Repeat("x", 100_000))
	for b.Send("alice", message) == nil {
		time.Sleep(time.Millisecond) // so that the Write is stuck long before the end
	}
	select {
	case <-w.Done():
	case <-time.After(patience):
		require.Fail(t, "the Write is stuck")
	}
	require.ErrorIs(t, w.Err(), sendq.ErrSlowConsumer)
}
