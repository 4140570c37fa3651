package websocket_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/examples/websocket"
)

// A library has connections that a server sends on.
type library struct {
	handler func(*sendq.Broker) http.HandlerFunc
	message func([]byte) []byte // encodes a text for a Writer
}

func unframed(p []byte) []byte { return p }

var libraries = map[string]library{
	"gorilla":        {websocket.Gorilla, unframed},
	"coder":          {websocket.Coder, unframed},
	"gobwas":         {websocket.Gobwas, websocket.Text},
	"gorilla frames": {websocket.GorillaFrames, websocket.Text},
}

// A server is a running server of a library.
type server struct {
	library
	t      testing.TB
	broker *sendq.Broker
	url    string
}

func serve(t testing.TB, l library) *server {
	broker := sendq.NewBroker(nil)
	s := httptest.NewServer(l.handler(broker))
	t.Cleanup(func() { // all clients are gone
		require.NoError(t, broker.CloseNow())
		s.Close()
	})
	return &server{l, t, broker, "ws" + strings.TrimPrefix(s.URL, "http") + "?name="}
}

// dial connects a client, and returns it with its Writer at the server.
func (s *server) dial(dial func(testing.TB, string) client, name string) (client, *sendq.Writer) {
	c := dial(s.t, s.url+name)
	s.t.Cleanup(c.drop)
	return c, s.writer(name)
}

// writer waits for the Writer with the name.
func (s *server) writer(name string) *sendq.Writer {
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	for e := range s.broker.Events(ctx) {
		if e.Kind == sendq.EventJoined && e.Name == name {
			break
		}
	}
	w, ok := s.broker.Lookup(name)
	require.True(s.t, ok)
	return w
}

// forEach runs test with a server of each library and the clients of each other.
func forEach(t *testing.T, test func(t *testing.T, s *server, dial func(testing.TB, string) client)) {
	for served, l := range libraries {
		for dialed, dial := range dialers {
			if !strings.HasPrefix(served, dialed) {
				t.Run(served+" serves "+dialed, func(t *testing.T) { test(t, serve(t, l), dial) })
			}
		}
	}
}

// text returns message number i of a sender. The sizes cover all kinds of frame headers. A message is
// its own checksum.
func text(sender, i int) string {
	size := []int{0, 100, 125, 126, 1000, 5000}[(sender+i)%6]
	if sender == 0 && i%10 == 0 {
		size = 70_000
	}
	return fmt.Sprintf("%d %d %s", sender, i, strings.Repeat(string(rune('a'+(sender+i)%26)), size))
}

// Fifty goroutines send to three clients at once, and the clients ping. Each client gets every message
// whole, and the messages of each sender in order.
func TestManySenders(t *testing.T) {
	const clients, senders, messages = 3, 50, 20
	forEach(t, func(t *testing.T, s *server, dial func(testing.TB, string) client) {
		var conns []client
		for n := range clients {
			c, _ := s.dial(dial, fmt.Sprint(n))
			conns = append(conns, c)
		}

		var readers errgroup.Group
		var ponged sync.WaitGroup // done after a pong for each client
		for _, c := range conns {
			flowing := make(chan struct{}) // closed by the first message
			ponged.Add(1)
			readers.Go(func() error {
				defer ponged.Done()
				if err := wait(flowing); err != nil {
					return err
				}
				return c.ping()
			})
			readers.Go(func() error {
				next := make([]int, senders)
				for n := range senders * messages {
					got, err := c.read()
					if err != nil {
						return err
					}
					if n == 0 {
						close(flowing)
					}
					var sender, i int
					if _, err := fmt.Sscan(got, &sender, &i); err != nil {
						return fmt.Errorf("%w: %.100q", err, got)
					}
					if i != next[sender] || got != text(sender, i) {
						return fmt.Errorf("%.100q of %d bytes instead of %d %d", got, len(got), sender, next[sender])
					}
					next[sender]++
				}
				return nil
			})
		}

		var sending sync.WaitGroup
		for sender := range senders {
			sending.Go(func() {
				for i := range messages {
					if i == messages/2 {
						ponged.Wait()
					}
					s.broker.Broadcast(s.message([]byte(text(sender, i))))
				}
			})
		}
		sending.Wait()
		require.NoError(t, readers.Wait())
	})
}

// A request without a handshake is answered, and its connection is closed.
func TestNoWebSocket(t *testing.T) {
	for name, l := range libraries {
		t.Run(name, func(t *testing.T) {
			s := serve(t, l)
			url, err := url.Parse(s.url)
			require.NoError(t, err)
			conn, err := net.Dial("tcp", url.Host)
			require.NoError(t, err)
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(patience))
			_, err = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
			require.NoError(t, err)
			answer, err := io.ReadAll(conn)
			require.NoError(t, err)
			require.Contains(t, string(answer), "HTTP/1.1 4")
		})
	}
}

// The messages of a client reach all.
func TestClientsSpeak(t *testing.T) {
	forEach(t, func(t *testing.T, s *server, dial func(testing.TB, string) client) {
		a, _ := s.dial(dial, "a")
		b, _ := s.dial(dial, "b")
		require.NoError(t, a.send("hello"))
		for _, c := range []client{a, b} {
			got, err := c.read()
			require.NoError(t, err)
			require.Equal(t, "hello", got)
		}
	})
}

// The server's goodbye comes after all queued messages, although nobody reads what the client has
// sent. Shutdown returns when the client has answered.
func TestServerCloses(t *testing.T) {
	const messages = 200
	forEach(t, func(t *testing.T, s *server, dial func(testing.TB, string) client) {
		c, w := s.dial(dial, "c")
		long := strings.Repeat("x", 16<<10)
		for range messages {
			require.NoError(t, s.broker.Send("c", s.message([]byte(long))))
		}
		require.NoError(t, c.send("unheard"))
		closed := make(chan error, 1)
		go func() { closed <- s.broker.Shutdown(context.Background()) }()
		got := 0
		for {
			text, err := c.read()
			if err != nil {
				require.Equal(t, 1000, c.closeCode(err), "%v", err)
				break
			}
			if text != "unheard" { // as it may be if it was heard before Shutdown
				require.Equal(t, long, text)
				got++
			}
		}
		require.Equal(t, messages, got)
		c.drop()
		require.NoError(t, <-closed)
		require.NoError(t, w.Err())
	})
}

// A limit or a takeover ends the Writer as CloseNow does. Without a goodbye, a page sees code 1006.
func TestCutOff(t *testing.T) {
	forEach(t, func(t *testing.T, s *server, dial func(testing.TB, string) client) {
		c, w := s.dial(dial, "alice")
		go w.CloseNow()
		require.Contains(t, []int{0, 1006}, c.closeCode(readAll(c)))
	})
}

// A client that closes is answered with its own code, and its name is free.
func TestClientCloses(t *testing.T) {
	forEach(t, func(t *testing.T, s *server, dial func(testing.TB, string) client) {
		c, w := s.dial(dial, "c")
		answer, err := c.close(1001)
		require.NoError(t, err)
		require.Equal(t, 1001, answer)
		require.NoError(t, wait(w.Done()))
		require.NoError(t, w.Err())
		require.Zero(t, s.broker.Len())
	})
}

// A client that does not read is cut off, and the other gets everything.
func TestSlowClient(t *testing.T) {
	forEach(t, func(t *testing.T, s *server, dial func(testing.TB, string) client) {
		_, slow := s.dial(dial, "slow")
		c, w := s.dial(dial, "c")
		read := make(chan int)
		go func() {
			n := 0
			for ; ; n++ {
				if _, err := c.read(); err != nil {
					break
				}
			}
			read <- n
		}()
		message := s.message([]byte(strings.Repeat("x", 1<<20)))
		sent := 0
		for slow.Err() == nil {
			s.broker.Broadcast(message)
			sent++
			require.NoError(t, w.Flush(t.Context()))
		}
		require.ErrorIs(t, slow.Err(), sendq.ErrSlowConsumer)
		require.NoError(t, wait(slow.Done()))
		require.NoError(t, w.Close())
		require.Equal(t, sent, <-read)
	})
}

// Frames that are queued come before the answer to a client that closes.
func TestFramesComeBeforeAnswer(t *testing.T) {
	for _, served := range []string{"gobwas", "gorilla frames"} {
		t.Run(served, func(t *testing.T) {
			s := serve(t, libraries[served])
			c, w := s.dial(dialGorilla, "c")
			sent := 0
			for ; w.Stats().PendingBytes < 1<<20; sent++ { // when the kernel is full
				require.NoError(t, s.broker.Send("c", s.message(make([]byte, 64<<10))))
			}
			require.NoError(t, c.(gorillaClient).sayGoodbye(1001))
			got := 0
			for ; ; got++ {
				if _, err := c.read(); err != nil {
					require.Equal(t, 1001, c.closeCode(err), "%v", err)
					break
				}
			}
			require.Equal(t, sent, got)
			require.NoError(t, wait(w.Done()))
			require.NoError(t, w.Err())
		})
	}
}
