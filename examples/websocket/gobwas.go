package websocket

import (
	"bufio"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"

	"github.com/sendq-go/sendq"
)

// sameOrigin reports whether a request is not from a page of another host.
func sameOrigin(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	u, err := url.Parse(origin)
	return origin == "" || err == nil && strings.EqualFold(u.Host, r.Host)
}

var errNoText = errors.New("message is not text")

// readText returns the next text message.
func readText(rd *wsutil.Reader) ([]byte, error) {
	for {
		h, err := rd.NextFrame()
		switch {
		case err != nil:
			return nil, err
		case h.OpCode == ws.OpText:
			return io.ReadAll(rd)
		case h.OpCode == ws.OpBinary:
			return nil, errNoText
		}
		if err := rd.OnIntermediate(h, rd); err != nil {
			return nil, err
		}
	}
}

// goodbyeTo returns the last frame for a client after an error of readText.
func goodbyeTo(err error) []byte {
	switch {
	case errors.Is(err, errNoText):
		return ws.CompiledCloseUnsupportedData
	case errors.Is(err, wsutil.ErrInvalidUTF8):
		return ws.CompiledCloseInvalidFramePayloadData
	case errors.Is(err, wsutil.ErrMessageTooLarge):
		return ws.CompiledCloseMessageTooBig
	}
	return ws.CompiledCloseProtocolError
}

// Gobwas serves WebSockets of github.com/gobwas/ws. It registers each in b, by the name in the
// URL, and sends the messages of each to all. All messages through b and its Writers are frames.
func Gobwas(b *sendq.Broker) http.HandlerFunc {
	return func(rw http.ResponseWriter, r *http.Request) {
		if !sameOrigin(r) {
			http.Error(rw, "the page is of another host", http.StatusForbidden)
			return
		}
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
		// The library may write a frame in two parts.
		answers := bufio.NewWriterSize(&queuedConn{conn, w}, 256)
		answer := wsutil.ControlFrameHandler(answers, ws.StateServerSide)
		rd := &wsutil.Reader{
			Source:         buf,
			State:          ws.StateServerSide,
			CheckUTF8:      true,
			MaxMessageSize: 32 << 10,
			OnIntermediate: func(h ws.Header, r io.Reader) error {
				defer answers.Flush()
				return answer(h, r)
			},
		}
		for {
			p, err := readText(rd)
			if err != nil || w.Err() != nil {
				conn.sayGoodbye(goodbyeTo(err))
				return
			}
			b.Broadcast(Text(p))
		}
	}
}
