package websocket

import (
	"bufio"
	"cmp"
	"context"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/coder/websocket"

	"github.com/sendq-go/sendq"
)

// A coderConn is a net.Conn. Each Write sends a text message.
type coderConn struct {
	net.Conn  // beneath ws
	ws        *websocket.Conn
	closeCode atomic.Int32 // of the goodbye; 0 means 1000
}

func (c *coderConn) Write(p []byte) (int, error) {
	// If a context ends, the library closes the connection.
	if err := c.ws.Write(context.Background(), websocket.MessageText, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// CloseWrite is called after all messages have arrived. It says goodbye, and waits for the answer.
func (c *coderConn) CloseWrite() error {
	code := websocket.StatusCode(c.closeCode.Load())
	return c.ws.Close(cmp.Or(code, websocket.StatusNormalClosure), "")
}

// NetConn lets sendq see the acknowledgements of the peer.
func (c *coderConn) NetConn() net.Conn { return c.Conn }

// A coderHijacker keeps the socket that the library hijacks.
type coderHijacker struct {
	http.ResponseWriter
	socket net.Conn
}

func (h *coderHijacker) Hijack() (_ net.Conn, buf *bufio.ReadWriter, err error) {
	h.socket, buf, err = http.NewResponseController(h.ResponseWriter).Hijack()
	return coderSocket{h.socket}, buf, err
}

// A coderSocket is the socket for the library.
type coderSocket struct{ net.Conn }

// Read never returns io.EOF, because the library would take the fragments before it for a message.
func (s coderSocket) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// Close ends the reads and writes of the library. The Writer closes the socket.
func (s coderSocket) Close() error { return s.SetDeadline(time.Unix(1, 0)) }

// Coder serves WebSockets of github.com/coder/websocket. It registers each in b, by the name in
// the URL, and sends the messages of each to all.
func Coder(b *sendq.Broker) http.HandlerFunc {
	return func(rw http.ResponseWriter, r *http.Request) {
		h := &coderHijacker{ResponseWriter: rw}
		ws, err := websocket.Accept(h, r, nil)
		if err != nil {
			return // Accept has answered the client
		}
		ws.SetReadLimit(32 << 10)
		conn := &coderConn{Conn: h.socket, ws: ws}
		w := sendq.NewWriter(conn, &sendq.WriterOptions{MessageFramed: true, MaxPending: 4 << 20})
		defer w.Close()

		if err := b.Register(r.FormValue("name"), w); err != nil {
			w.WriteString(err.Error())
			return
		}
		for {
			kind, p, err := ws.Read(context.Background())
			switch {
			case err != nil || w.Err() != nil:
				conn.closeCode.Store(int32(websocket.StatusProtocolError)) // unless the library has said goodbye
				return
			case kind != websocket.MessageText:
				conn.closeCode.Store(int32(websocket.StatusUnsupportedData))
				return
			case !utf8.Valid(p):
				conn.closeCode.Store(int32(websocket.StatusInvalidFramePayloadData))
				return
			}
			b.Broadcast(p)
		}
	}
}
