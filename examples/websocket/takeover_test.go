package websocket_test

import (
	"fmt"
	"net"
	"net/http"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
)

// A pipeListener accepts the server's ends of pipes.
type pipeListener chan net.Conn

func (l pipeListener) Accept() (net.Conn, error) {
	conn, ok := <-l
	if !ok {
		return nil, net.ErrClosed
	}
	return conn, nil
}

func (l pipeListener) Addr() net.Addr { return &net.UnixAddr{} }
func (l pipeListener) Close() error   { close(l); return nil }

// dial connects a client that logs in as bob.
func (l pipeListener) dial(t *testing.T) attacker {
	client, server := net.Pipe()
	l <- server
	a, status := shakeHands(t, client, &url.URL{Host: "example.com", RawQuery: "name=bob"}, "", "")
	require.Equal(t, http.StatusSwitchingProtocols, status)
	return a
}

// A takeover does not wait for the old client, whatever that has done before it hangs.
func TestTakeover(t *testing.T) {
	for name, l := range libraries {
		for _, old := range []attack{
			{name: "idle"},
			{name: "with half a frame", send: masked(final|textual, "hello")[:8]},
			{name: "with a ping", send: masked(final|ping, "?")},
			{name: "refused", send: masked(final|textual, "\xff")},
			{name: "refused by the library", send: masked(final|rsv1|textual, "x")},
			{name: "closing", send: closeFrame(1000, "")},
		} {
			for _, backlog := range []int{0, 10} {
				t.Run(fmt.Sprintf("%s/%s/%d queued", name, old.name, backlog), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						broker := sendq.NewBroker(&sendq.BrokerOptions{NamePolicy: sendq.NameTakeover})
						listener := make(pipeListener)
						server := &http.Server{Handler: l.handler(broker)}
						go server.Serve(listener)
						defer server.Close()
						defer broker.CloseNow()

						hanging := listener.dial(t)
						defer hanging.Close()
						synctest.Wait()
						for range backlog {
							require.NoError(t, broker.Send("bob", l.message([]byte("news"))))
						}
						_, err := hanging.Write(old.send)
						require.NoError(t, err)
						synctest.Wait()

						start := time.Now()
						c := listener.dial(t)
						defer c.Close()
						go c.Write(masked(final|textual, "hello"))
						for range backlog {
							require.Equal(t, "news", c.text(t))
						}
						require.Equal(t, "hello", c.text(t))
						require.Zero(t, time.Since(start))
					})
				})
			}
		}
	}
}
