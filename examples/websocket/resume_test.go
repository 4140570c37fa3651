package websocket_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	coder "github.com/coder/websocket"
	"github.com/gobwas/ws"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/examples/websocket"
)

// upgrades make a WebSocket of a request, as a connection for a Writer.
var upgrades = map[string]struct {
	upgrade func(rw http.ResponseWriter, r *http.Request) (net.Conn, error)
	message func([]byte) []byte
	framed  bool
}{
	"coder": {func(rw http.ResponseWriter, r *http.Request) (net.Conn, error) {
		c, err := coder.Accept(rw, r, nil)
		if err != nil {
			return nil, err
		}
		return coder.NetConn(context.Background(), c, coder.MessageText), nil
	}, unframed, true},
	"gobwas": {func(rw http.ResponseWriter, r *http.Request) (net.Conn, error) {
		conn, _, _, err := ws.UpgradeHTTP(r, rw)
		return conn, err
	}, websocket.Text, false},
}

var errCut = errors.New("cut")

// A cutConn ends for its reader after a number of bytes behind the headers of HTTP.
type cutConn struct {
	net.Conn
	headers []byte
	left    int
}

func (c *cutConn) Read(p []byte) (n int, err error) {
	if !bytes.HasSuffix(c.headers, []byte("\r\n\r\n")) {
		n, err = c.Conn.Read(p[:1])
		c.headers = append(c.headers, p[:n]...)
		return n, err
	}
	if c.left == 0 {
		return 0, errCut // after io.EOF, the client would take the part of a message for a message
	}
	n, err = c.Conn.Read(p[:min(len(p), c.left)])
	c.left -= n
	return n, err
}

// A client that counts text messages gets each once and in order, although its connection is cut at
// each byte.
func TestResume(t *testing.T) {
	var short, long []string
	for i := range 6 {
		short = append(short, fmt.Sprintf("%d %s", i, strings.Repeat("a", i*25)))
		long = append(long, text(0, 10*i))
	}
	for name, l := range upgrades {
		for _, tt := range []struct {
			name     string
			messages []string
			step     int
		}{{"short", short, 1}, {"long", long, 17_321}} {
			for end, cut := range map[string]func(c *net.TCPConn){
				"reset": func(c *net.TCPConn) { _ = c.SetLinger(0); _ = c.Close() },
				"stuck": func(*net.TCPConn) {}, // the old Writer lives
			} {
				t.Run(name+"/"+tt.name+"/"+end, func(t *testing.T) {
					t.Parallel()
					b := sendq.NewBroker(&sendq.BrokerOptions{Linger: time.Hour})
					arrived := make(chan bool, 1)
					s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
						conn, err := l.upgrade(rw, r)
						if !assert.NoError(t, err) {
							return
						}
						w := sendq.NewWriter(conn, &sendq.WriterOptions{Keep: 8 << 20, MessageFramed: l.framed})
						received, _ := strconv.ParseInt(r.FormValue("received"), 10, 64)
						if received < 0 {
							err = b.Register("bob", w)
						} else {
							_, err = b.Resume(context.Background(), "bob", w, received, func(r sendq.Resumed) []byte {
								return l.message(fmt.Appendf(nil, "back, %d missed", r.Missed))
							})
						}
						assert.NoError(t, err)
						arrived <- true
						for _, m := range tt.messages {
							if received < 0 {
								assert.NoError(t, b.Send("bob", l.message([]byte(m))))
							}
						}
						_, err = io.Copy(io.Discard, conn)
						_ = w.Fail(cmp.Or(err, io.EOF))
					}))
					defer s.Close()
					size := 0
					for _, m := range tt.messages {
						size += len(m) + 2
					}
					for n := 0; n <= size; n += tt.step {
						got := readUntilCut(t, s.URL, -1, n, nil, len(tt.messages), cut)
						<-arrived
						for _, more := range []int{n % 30, math.MaxInt} { // within the answer, or not at all
							got = readUntilCut(t, s.URL, len(got), more, got, len(tt.messages), cut)
							<-arrived // otherwise the next connection could arrive before this one
						}
						require.True(t, slices.Equal(tt.messages, got), "cut after %d bytes: %d messages", n, len(got))
						w, ok := b.Lookup("bob")
						require.True(t, ok)
						b.Unregister("bob", w)
						_ = w.CloseNow()
					}
				})
			}
		}
	}
}

// readUntilCut connects, appends messages to got until there are enough or the connection is cut after
// n bytes, and cuts it. The first message after a login is no answer.
func readUntilCut(t *testing.T, url string, received, n int, got []string, enough int, cut func(*net.TCPConn)) []string {
	var c *cutConn
	dialer := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		c = &cutConn{Conn: conn, left: n}
		return c, err
	}}}
	client, _, err := coder.Dial(t.Context(), fmt.Sprintf("%s?received=%d", url, received), &coder.DialOptions{HTTPClient: dialer})
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.CloseNow() })
	client.SetReadLimit(-1)
	answered := received < 0
	for len(got) < enough || !answered {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		_, p, err := client.Read(ctx)
		cancel()
		if err != nil {
			break
		}
		if !answered {
			require.Equal(t, "back, 0 missed", string(p))
			answered = true
			continue
		}
		got = append(got, string(p))
	}
	cut(c.Conn.(*net.TCPConn))
	return got
}
