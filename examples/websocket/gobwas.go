package websocket

import (
	"io"
	"net/http"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"

	"github.com/sendq-go/sendq"
)

// Gobwas serves WebSockets of github.com/gobwas/ws. It registers each in b, by the name in the
// URL, and sends the messages of each to all. All messages through b and its Writers are frames.
func Gobwas(b *sendq.Broker) http.HandlerFunc {
	return func(rw http.ResponseWriter, r *http.Request) {
		socket, buf, _, err := ws.UpgradeHTTP(r, rw)
		if err != nil {
			if socket != nil {
				socket.Close() // UpgradeHTTP leaves it to us, although the request was no handshake
			}
			return // UpgradeHTTP has answered the client
		}
		conn := &frameConn{Conn: socket, read: make(chan struct{})}
		w := sendq.NewWriter(conn, &sendq.WriterOptions{MaxPending: 4 << 20})
		defer w.Close()
		defer close(conn.read) // before w.Close, because otherwise Close would wait for an answer in vain

		if err := b.Register(r.FormValue("name"), w); err != nil {
			w.Write(Text([]byte(err.Error())))
			return
		}
		queued := struct {
			io.Reader
			io.Writer
		}{buf, queuedConn{conn, w}}
		for {
			p, err := wsutil.ReadClientText(queued)
			if err != nil || w.Err() != nil {
				return
			}
			b.Broadcast(Text(p))
		}
	}
}
