package websocket

import (
	"context"
	"net/http"

	"github.com/coder/websocket"

	"github.com/sendq-go/sendq"
)

// Coder serves WebSockets of github.com/coder/websocket. Each is registered in b, by the name in
// the URL; what it says goes to all.
func Coder(b *sendq.Broker) http.HandlerFunc {
	return func(rw http.ResponseWriter, r *http.Request) {
		ws, err := websocket.Accept(rw, r, nil)
		if err != nil {
			return // the client has been told
		}
		// Not the context of r: what ends it, ends the connection.
		conn := websocket.NetConn(context.Background(), ws, websocket.MessageText)
		ws.SetReadLimit(32 << 10) // NetConn has lifted it
		w := sendq.NewWriter(conn, &sendq.WriterOptions{MessageFramed: true, MaxPending: 4 << 20})
		defer w.Close()

		if err := b.Register(r.FormValue("name"), w); err != nil {
			return
		}
		for {
			// Not conn.Read: Close would break it off, and the connection with it.
			_, p, err := ws.Read(context.Background())
			if err != nil {
				return
			}
			b.Broadcast(p)
		}
	}
}
