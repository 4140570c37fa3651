package websocket

import (
	"bufio"
	"net"
	"net/http"

	"github.com/sendq-go/sendq"
)

// A hijacker hijacks a connection, and puts a Writer in front of it.
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

// GorillaFrames is like Gorilla, but all messages through b and its Writers are frames.
func GorillaFrames(b *sendq.Broker) http.HandlerFunc {
	return func(rw http.ResponseWriter, r *http.Request) {
		h := &hijacker{ResponseWriter: rw}
		ws, err := gorillaUpgrader.Upgrade(h, r, nil)
		if err != nil {
			return // Upgrade has answered the client
		}
		defer h.conn.w.Close()
		defer close(h.conn.read) // before w.Close, because otherwise Close would wait for an answer in vain

		ws.SetReadLimit(32 << 10)
		if err := b.Register(r.FormValue("name"), h.conn.w); err != nil {
			h.conn.w.Write(Text([]byte(err.Error())))
			return
		}
		for {
			_, p, err := ws.ReadMessage()
			if err != nil || h.conn.w.Err() != nil {
				return
			}
			b.Broadcast(Text(p))
		}
	}
}
