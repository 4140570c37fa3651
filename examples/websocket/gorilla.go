package websocket

import (
	"cmp"
	"net"
	"net/http"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/gorilla/websocket"

	"github.com/sendq-go/sendq"
)

// A gorillaConn is a net.Conn. Each Write sends a text message.
type gorillaConn struct {
	net.Conn  // beneath ws
	ws        *websocket.Conn
	closeCode atomic.Int32  // of the goodbye; 0 means 1000
	read      chan struct{} // closed when reading ws has ended
}

func (c *gorillaConn) Write(p []byte) (int, error) {
	if err := c.ws.WriteMessage(websocket.TextMessage, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// CloseWrite is called after all messages have arrived. It says goodbye, and waits for the answer.
func (c *gorillaConn) CloseWrite() error {
	code := cmp.Or(int(c.closeCode.Load()), websocket.CloseNormalClosure)
	bye := websocket.FormatCloseMessage(code, "")
	err := c.ws.WriteControl(websocket.CloseMessage, bye, time.Time{})
	<-c.read
	return err
}

// NetConn lets sendq see the acknowledgements of the peer.
func (c *gorillaConn) NetConn() net.Conn { return c.Conn }

var gorillaUpgrader websocket.Upgrader

// Gorilla serves WebSockets of github.com/gorilla/websocket. It registers each in b, by the name
// in the URL, and sends the messages of each to all.
func Gorilla(b *sendq.Broker) http.HandlerFunc {
	return func(rw http.ResponseWriter, r *http.Request) {
		ws, err := gorillaUpgrader.Upgrade(rw, r, nil)
		if err != nil {
			return // Upgrade has answered the client
		}
		ws.SetReadLimit(32 << 10)
		ws.SetPingHandler(func(data string) error {
			// With a deadline, a pong could time out, and be left out or break the connection.
			_ = ws.WriteControl(websocket.PongMessage, []byte(data), time.Time{})
			return nil
		})
		conn := &gorillaConn{Conn: ws.NetConn(), ws: ws, read: make(chan struct{})}
		w := sendq.NewWriter(conn, &sendq.WriterOptions{MessageFramed: true, MaxPending: 4 << 20})
		defer w.Close()
		defer close(conn.read) // before w.Close, because otherwise Close would wait for an answer in vain

		if err := b.Register(r.FormValue("name"), w); err != nil {
			w.WriteString(err.Error())
			return
		}
		for {
			kind, p, err := ws.ReadMessage()
			switch {
			case err != nil || w.Err() != nil:
				conn.closeCode.Store(websocket.CloseProtocolError) // unless the library has said goodbye
				return
			case kind != websocket.TextMessage:
				conn.closeCode.Store(websocket.CloseUnsupportedData)
				return
			case !utf8.Valid(p):
				conn.closeCode.Store(websocket.CloseInvalidFramePayloadData)
				return
			}
			b.Broadcast(p)
		}
	}
}
