package websocket

import (
	"context"
	"net/http"

	"github.com/coder/websocket"

	"github.com/sendq-go/sendq"
)

// Coder serves WebSockets of github.com/coder/websocket. It registers each in b, by the name in
// the URL, and sends the messages of each to all.
func Coder(b *sendq.Broker) http.HandlerFunc {
	return func(rw http.ResponseWriter, r *http.Request) {
		ws, err := websocket.Accept(rw, r, nil)
		if err != nil {
			return // Accept has answered the client
		}
		// Not the context of r: its end would end the connection.
		conn := websocket.NetConn(context.Background(), ws, websocket.MessageText)
		ws.SetReadLimit(32 << 10) // NetConn has removed the limit
		w := sendq.NewWriter(conn, &sendq.WriterOptions{MessageFramed: true, MaxPending: 4 << 20})
		defer w.Close()

		if err := b.Register(r.FormValue("name"), w); err != nil {
			w.WriteString(err.Error())
			return
		}
		for {
			// Not conn.Read: Close would interrupt it and break the connection.
			_, p, err := ws.Read(context.Background())
			if err != nil || w.Err() != nil {
				return
			}
			b.Broadcast(p)
		}
	}
}
