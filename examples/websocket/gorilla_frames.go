package websocket

import (
	"bufio"
	"net"
	"net/http"
	"unicode/utf8"

	"github.com/gobwas/ws"
	"github.com/gorilla/websocket"

	"github.com/sendq-go/sendq"
)

// A hijacker hijacks a connection, and queues what the library writes after the handshake.
type hijacker struct {
	http.ResponseWriter
	conn *queuedConn
}

func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	socket, buf, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	h.conn = &queuedConn{frameConn: &frameConn{Conn: socket, read: make(chan struct{})}}
	return h.conn, buf, nil
}

// GorillaFrames is like Gorilla, but all messages through b and its Writers are frames.
func GorillaFrames(b *sendq.Broker) http.HandlerFunc {
	return func(rw http.ResponseWriter, r *http.Request) {
		h := &hijacker{ResponseWriter: rw}
		conn, err := gorillaUpgrader.Upgrade(h, r, nil)
		if err != nil {
			return // Upgrade has answered the client
		}
		w := sendq.NewWriter(h.conn.frameConn, &sendq.WriterOptions{MaxPending: 4 << 20})
		h.conn.w = w
		defer w.Close()
		defer close(h.conn.read) // before w.Close, because otherwise Close would wait for an answer in vain

		conn.SetReadLimit(32 << 10)
		if err := b.Register(r.FormValue("name"), w); err != nil {
			w.Write(Text([]byte(err.Error())))
			return
		}
		for {
			kind, p, err := conn.ReadMessage()
			switch {
			case err != nil || w.Err() != nil:
				h.conn.sayGoodbye(ws.CompiledCloseProtocolError)
				return
			case kind != websocket.TextMessage:
				h.conn.sayGoodbye(ws.CompiledCloseUnsupportedData)
				return
			case !utf8.Valid(p):
				h.conn.sayGoodbye(ws.CompiledCloseInvalidFramePayloadData)
				return
			}
			b.Broadcast(Text(p))
		}
	}
}
