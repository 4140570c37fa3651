package websocket_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	coder "github.com/coder/websocket"
	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
	gorilla "github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"
)

// patience bounds every wait. It is never reached unless something is wrong.
const patience = 30 * time.Second

// A client is a WebSocket client of some library. Only one goroutine may read. Other goroutines may
// call ping and send.
type client interface {
	read() (string, error) // returns the next text message; without a call, pongs are not seen
	send(text string) error
	ping() error                            // waits for the pong
	close(code int) (answer int, err error) // says goodbye, and reads until the answer
	drop()                                  // ends the connection without a goodbye
	closeCode(error) int                    // the code of the close frame in an error of read, or 0
}

// dialers connect clients, by library.
var dialers = map[string]func(t testing.TB, url string) client{
	"gorilla": dialGorilla,
	"coder":   dialCoder,
	"gobwas":  dialGobwas,
}

type gorillaClient struct {
	*gorilla.Conn
	pongs chan struct{}
}

func dialGorilla(t testing.TB, url string) client {
	conn, _, err := gorilla.DefaultDialer.DialContext(t.Context(), url, nil)
	require.NoError(t, err)
	pongs := make(chan struct{}, 1)
	conn.SetPongHandler(func(string) error { pongs <- struct{}{}; return nil })
	return gorillaClient{conn, pongs}
}

func (c gorillaClient) read() (string, error) {
	_, p, err := c.ReadMessage()
	return string(p), err
}

func (c gorillaClient) send(text string) error {
	return c.WriteMessage(gorilla.TextMessage, []byte(text))
}

func (c gorillaClient) ping() error {
	if err := c.WriteControl(gorilla.PingMessage, []byte("?"), time.Time{}); err != nil {
		return err
	}
	return wait(c.pongs)
}

func (c gorillaClient) close(code int) (answer int, err error) {
	if err := c.sayGoodbye(code); err != nil {
		return 0, err
	}
	return c.closeCode(readAll(c)), nil
}

func (c gorillaClient) sayGoodbye(code int) error {
	return c.WriteControl(gorilla.CloseMessage, gorilla.FormatCloseMessage(code, ""), time.Time{})
}

func (c gorillaClient) drop() { c.Close() }

func (c gorillaClient) closeCode(err error) int {
	closed, ok := errors.AsType[*gorilla.CloseError](err)
	if !ok {
		return 0
	}
	return closed.Code
}

type coderClient struct{ *coder.Conn }

func dialCoder(t testing.TB, url string) client {
	conn, _, err := coder.Dial(t.Context(), url, nil)
	require.NoError(t, err)
	conn.SetReadLimit(-1)
	return coderClient{conn}
}

func (c coderClient) read() (string, error) {
	_, p, err := c.Read(context.Background())
	return string(p), err
}

func (c coderClient) send(text string) error {
	return c.Write(context.Background(), coder.MessageText, []byte(text))
}

func (c coderClient) ping() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return c.Ping(ctx)
}

// close discards all messages before the answer. Another code is an error.
func (c coderClient) close(code int) (answer int, err error) {
	return code, c.Close(coder.StatusCode(code), "")
}

func (c coderClient) drop() { c.CloseNow() }

func (c coderClient) closeCode(err error) int { return max(0, int(coder.CloseStatus(err))) }

type gobwasClient struct {
	conn  net.Conn
	buf   io.Reader
	pongs chan struct{}
	mu    *sync.Mutex // held to write to conn
}

func dialGobwas(t testing.TB, url string) client {
	conn, buf, _, err := ws.Dial(t.Context(), url)
	require.NoError(t, err)
	if buf == nil {
		buf = bufio.NewReader(conn)
	}
	return gobwasClient{conn, buf, make(chan struct{}, 1), new(sync.Mutex)}
}

func (c gobwasClient) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.conn.Write(p)
}

func (c gobwasClient) read() (string, error) {
	for {
		messages, err := wsutil.ReadServerMessage(c.buf, nil)
		if err != nil {
			return "", err
		}
		for _, m := range messages {
			switch {
			case m.OpCode == ws.OpText:
				return string(m.Payload), nil
			case m.OpCode == ws.OpPong:
				c.pongs <- struct{}{}
			default:
				if err := wsutil.HandleServerControlMessage(c, m); err != nil {
					return "", err
				}
			}
		}
	}
}

func (c gobwasClient) writeFrame(f ws.Frame) error {
	_, err := c.Write(ws.MustCompileFrame(ws.MaskFrame(f)))
	return err
}

func (c gobwasClient) send(text string) error { return c.writeFrame(ws.NewTextFrame([]byte(text))) }

func (c gobwasClient) ping() error {
	if err := c.writeFrame(ws.NewPingFrame([]byte("?"))); err != nil {
		return err
	}
	return wait(c.pongs)
}

func (c gobwasClient) close(code int) (answer int, err error) {
	bye := ws.NewCloseFrameBody(ws.StatusCode(code), "")
	if err := c.writeFrame(ws.NewCloseFrame(bye)); err != nil {
		return 0, err
	}
	return c.closeCode(readAll(c)), nil
}

func (c gobwasClient) drop() { c.conn.Close() }

func (c gobwasClient) closeCode(err error) int {
	closed, _ := errors.AsType[wsutil.ClosedError](err)
	return int(closed.Code)
}

// readAll reads until there is an error, and returns it.
func readAll(c client) error {
	for {
		if _, err := c.read(); err != nil {
			return err
		}
	}
}

// wait waits until c has a value or is closed.
func wait(c <-chan struct{}) error {
	select {
	case <-c:
		return nil
	case <-time.After(patience):
		return errors.New("nothing came")
	}
}
