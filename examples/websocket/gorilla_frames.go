package websocket

import (
	"bufio"
	"net"
	"net/http"

	"github.com/sendq-go/sendq"
)

// A hijacker has the connection that it gives away write through a Writer.
type hijacker struct {
	http.ResponseWriter
	conn queuedConn
}

func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	socket, buf, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	conn := &frameConn{Conn: socket, read: make(chan struct{})}
	h.conn = queuedConn{conn, sendq.NewWriter(conn, &sendq.WriterOptions{MaxPending: 4 << 20})}
	return h.conn, buf, nil
}

// GorillaFrames is like Gorilla, but what is sent through b or its Writers are frames.
func GorillaFrames(b *sendq.Broker) http.HandlerFunc {
	return func(rw http.ResponseWriter, r *http.Request) {
		h := &hijacker{ResponseWriter: rw}
		ws, err := gorillaUpgrader.Upgrade(h, r, nil)
		if err != nil {
			return // the client has been told
		}
		defer h.conn.w.Close()
		defer close(h.conn.read) // before it, or Close would wait for an answer that nobody reads

		ws.SetReadLimit(32 << 10)
		if err := b.Register(r.FormValue("name"), h.conn.w); err != nil {
			return
		}
		for {
			_, p, err := ws.ReadMessage()
			if err != nil {
				return
			}
			b.Broadcast(Text(p))
		}
	}
}
