package websocket

import (
	"io"
	"net/http"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"

	"github.com/sendq-go/sendq"
)

// Gobwas serves WebSockets of github.com/gobwas/ws. Each is registered in b, by the name in the
// URL; what it says goes to all. What is sent through b or its Writers are frames.
func Gobwas(b *sendq.Broker) http.HandlerFunc {
	return func(rw http.ResponseWriter, r *http.Request) {
		socket, buf, _, err := ws.UpgradeHTTP(r, rw)
		if err != nil {
			if socket != nil {
				socket.Close() // which is ours, although the request was no handshake
			}
			return // the client has been told
		}
		conn := &frameConn{Conn: socket, read: make(chan struct{})}
		w := sendq.NewWriter(conn, &sendq.WriterOptions{MaxPending: 4 << 20})
		defer w.Close()
		defer close(conn.read) // before it, or Close would wait for an answer that nobody reads

		if err := b.Register(r.FormValue("name"), w); err != nil {
			return
		}
		queued := struct {
			io.Reader
			io.Writer
		}{buf, queuedConn{conn, w}}
		for {
			p, err := wsutil.ReadClientText(queued)
			if err != nil {
				return
			}
			b.Broadcast(Text(p))
		}
	}
}
