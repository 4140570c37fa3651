package websocket_test

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/gobwas/ws"
	gorilla "github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"
)

// The first byte of a frame, by RFC 6455, section 5.2.
const (
	final = 0x80
	rsv1  = 0x40
	rsv2  = 0x20
	rsv3  = 0x10

	continuation = 0x0
	textual      = 0x1
	binaryData   = 0x2
	closing      = 0x8
	ping         = 0x9
	pong         = 0xA
)

// masked returns the frame of a client, with the shortest length.
func masked(first byte, payload string) []byte {
	n := len(payload)
	switch {
	case n < 126:
		return maskedAs(first, payload, byte(n))
	case n <= 0xFFFF:
		return maskedAs(first, payload, binary.BigEndian.AppendUint16([]byte{126}, uint16(n))...)
	}
	return maskedAs(first, payload, binary.BigEndian.AppendUint64([]byte{127}, uint64(n))...)
}

// maskedAs returns the frame of a client, with length as the field for the length of the payload.
func maskedAs(first byte, payload string, length ...byte) []byte {
	mask := []byte{1, 2, 3, 0x84}
	frame := append([]byte{first}, length...)
	frame[1] |= 0x80
	frame = append(frame, mask...)
	for i := range len(payload) {
		frame = append(frame, payload[i]^mask[i%4])
	}
	return frame
}

// closeFrame returns the frame that closes with a code.
func closeFrame(code int, reason string) []byte {
	return masked(final|closing, string(binary.BigEndian.AppendUint16(nil, uint16(code)))+reason)
}

// An attacker is a client that sends whatever bytes it likes after its handshake.
type attacker struct {
	net.Conn
	buf *bufio.Reader
}

func dialAttacker(t testing.TB, server string) attacker {
	url, err := url.Parse(server)
	require.NoError(t, err)
	conn, err := net.Dial("tcp", url.Host)
	require.NoError(t, err)
	a, status := shakeHands(t, conn, url, "", "")
	require.Equal(t, http.StatusSwitchingProtocols, status)
	return a
}

// shakeHands sends a handshake, with one more header, and early in one piece with it. It returns the status
// of the answer, or 0 if there is none.
func shakeHands(t testing.TB, conn net.Conn, url *url.URL, header, early string) (a attacker, status int) {
	_ = conn.SetDeadline(time.Now().Add(patience))
	_, err := fmt.Fprintf(conn, "GET /?%s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n%s\r\n%s", url.RawQuery, url.Host, header, early)
	require.NoError(t, err)
	a = attacker{conn, bufio.NewReader(conn)}
	answer, err := http.ReadResponse(a.buf, nil)
	if err != nil {
		return a, 0
	}
	return a, answer.StatusCode
}

func (a attacker) closeWrite() { _ = a.Conn.(*net.TCPConn).CloseWrite() }

// closeCode reads until the server closes, and returns the code of its close frame. It is 1005 if the
// frame has no code, and 1006 if there is no frame.
func (a attacker) closeCode() int {
	for {
		h, err := ws.ReadHeader(a.buf)
		if err != nil {
			return 1006
		}
		payload := make([]byte, h.Length)
		if _, err := io.ReadFull(a.buf, payload); err != nil {
			return 1006
		}
		switch {
		case h.OpCode == ws.OpClose && len(payload) == 0:
			return 1005
		case h.OpCode == ws.OpClose:
			return int(binary.BigEndian.Uint16(payload))
		}
	}
}

// A witness is a client beside an attacker. It behaves well.
type witness struct {
	*gorilla.Conn
	probes int
}

func (s *server) witness() *witness {
	c, _ := s.dial(dialGorilla, "witness")
	s.t.Cleanup(func() { // the Writers of attackers end first
		require.Eventually(s.t, func() bool { return s.broker.Len() == 1 }, patience, time.Millisecond)
	})
	return &witness{Conn: c.(gorillaClient).Conn}
}

// heard returns the messages that all have got since the last call. All are text.
func (w *witness) heard(t testing.TB) (texts []string) {
	w.probes++
	probe := fmt.Sprint("probe ", w.probes)
	require.NoError(t, w.WriteMessage(gorilla.TextMessage, []byte(probe)))
	for {
		_ = w.SetReadDeadline(time.Now().Add(patience))
		kind, p, err := w.ReadMessage()
		require.NoError(t, err)
		require.Equal(t, gorilla.TextMessage, kind, "%q", p)
		require.True(t, utf8.Valid(p), "%q", p)
		if string(p) == probe {
			return texts
		}
		texts = append(texts, string(p))
	}
}

// text reads the next text message, a short one.
func (a attacker) text(t *testing.T) string {
	for {
		h, err := ws.ReadHeader(a.buf)
		require.NoError(t, err)
		payload := make([]byte, h.Length)
		_, err = io.ReadFull(a.buf, payload)
		require.NoError(t, err)
		if h.OpCode != ws.OpPong {
			require.Equal(t, ws.OpText, h.OpCode)
			return string(payload)
		}
	}
}
