package sendq_test

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
)

// A webSession is a server's WebSocket connection after the handshake. Control frames do not wait
// for data, and the last frame of each side is a close frame.
type webSession struct {
	w    *sendq.Writer
	conn net.Conn
}

const opText, opClose, opPing, opPong = 1, 8, 9, 10

func newWebSession(conn net.Conn, maxMessages int) webSession {
	return webSession{sendq.NewWriter(conn, &sendq.WriterOptions{
		MaxMessages: maxMessages,
		Farewell:    func(error) []byte { return closeFrame(1013, "too slow") },
	}), conn}
}

// Send sends a text message.
func (s webSession) Send(text []byte) error {
	_, err := s.w.WriteParts(frameHeaderOf(opText, len(text)), text)
	return err
}

// Serve reads frames until the connection ends, and answers control frames. It returns the texts.
func (s webSession) Serve() (texts []string, err error) {
	defer s.w.Close() // delivers, even if the peer has half-closed
	for {
		op, payload, err := readFrame(s.conn)
		switch {
		case err != nil:
			return texts, err
		case op == opPing: // the answer to the newest ping is enough if too many wait
			_, _ = s.w.WriteUrgent(append(frameHeaderOf(opPong, len(payload)), payload...))
		case op == opClose: // answer it, unless it is an answer
			_ = s.w.CloseWith(closeFrame(1000, ""))
			return texts, nil
		case op == opText:
			texts = append(texts, string(payload))
		}
	}
}

// Close sends what is queued and a close frame, and ends the connection when the peer has them. If
// the peer's answer comes in time, Serve reads it.
func (s webSession) Close(code uint16, reason string) error {
	return s.w.CloseWith(closeFrame(code, reason))
}

func frameHeaderOf(op byte, length int) []byte {
	if length < 126 {
		return []byte{0x80 | op, byte(length)}
	}
	return binary.BigEndian.AppendUint16([]byte{0x80 | op, 126}, uint16(length))
}

func closeFrame(code uint16, reason string) []byte {
	return append(binary.BigEndian.AppendUint16(frameHeaderOf(opClose, 2+len(reason)), code), reason...)
}

// readFrame reads a frame without a mask.
func readFrame(r io.Reader) (op byte, payload []byte, err error) {
	var head [4]byte
	if _, err = io.ReadFull(r, head[:2]); err != nil {
		return 0, nil, err
	}
	length := int(head[1])
	if length == 126 {
		if _, err = io.ReadFull(r, head[2:]); err != nil {
			return 0, nil, err
		}
		length = int(binary.BigEndian.Uint16(head[2:]))
	}
	payload = make([]byte, length)
	_, err = io.ReadFull(r, payload)
	return head[0] & 15, payload, err
}

func TestProgramWebSocket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		frame := func(r io.Reader) string {
			op, payload, err := readFrame(r)
			require.NoError(t, err)
			return fmt.Sprint(op, " ", string(payload))
		}
		conn, peer := net.Pipe()
		s := newWebSession(conn, 100)
		served := async(func() error { return second(s.Serve()) })
		long := strings.Repeat("a", 50_000)
		require.NoError(t, s.Send([]byte(long)))
		synctest.Wait()
		require.NoError(t, s.Send([]byte("b")))
		peer.Write(append(frameHeaderOf(opPing, 2), "hi"...))
		synctest.Wait()
		require.NoError(t, s.Close(1001, "going away"))
		require.Error(t, s.Send([]byte("late")))
		require.Equal(t, []string{"1 " + long, "10 hi", "1 b", "8 \x03\xe9going away"},
			[]string{frame(peer), frame(peer), frame(peer), frame(peer)})
		<-served
		require.NoError(t, s.w.Err())

		conn, peer = net.Pipe() // the peer closes
		s = newWebSession(conn, 100)
		served = async(func() error { return second(s.Serve()) })
		require.NoError(t, s.Send([]byte("b")))
		peer.Write(closeFrame(1001, ""))
		require.Equal(t, []string{"1 b", "8 \x03\xe8"}, []string{frame(peer), frame(peer)})
		require.NoError(t, <-served)

		conn, peer = net.Pipe() // the peer is too slow
		s = newWebSession(conn, 3)
		begun := time.Now()
		for s.Send([]byte("x")) == nil {
		}
		for got := ""; got != "8 \x03\xf5too slow"; got = frame(peer) {
		}
		<-s.w.Done()
		require.Zero(t, time.Since(begun))
	})
}
