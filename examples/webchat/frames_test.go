package main

import (
	"bytes"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/stretchr/testify/require"
)

// A script is a connection that reads chunks one by one, and keeps all writes.
type script struct {
	net.Conn
	chunks  [][]byte
	written bytes.Buffer
	room    int // bytes before Write fails
}

var errNoRoom = errors.New("no room")

func (s *script) Read(p []byte) (int, error) {
	if len(s.chunks) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.chunks[0])
	if s.chunks[0] = s.chunks[0][n:]; len(s.chunks[0]) == 0 {
		s.chunks = s.chunks[1:]
	}
	return n, nil
}

func (s *script) Write(p []byte) (int, error) {
	n := min(len(p), s.room)
	s.room -= n
	s.written.Write(p[:n])
	if n < len(p) {
		return n, errNoRoom
	}
	return n, nil
}

func (s *script) LocalAddr() net.Addr                { return &net.TCPAddr{} }
func (s *script) Close() error                       { return nil }
func (s *script) SetReadDeadline(time.Time) error    { return nil }
func (s *script) SetWriteDeadline(t time.Time) error { return nil }

// cut divides p into pieces. It takes their sizes from sizes, again and again; 0 is a large size.
func cut(p, sizes []byte) (pieces [][]byte) {
	for i := 0; len(p) > 0; i++ {
		n := 1 << 10
		if len(sizes) > 0 && sizes[i%len(sizes)] > 0 {
			n = int(sizes[i%len(sizes)])
		}
		n = min(n, len(p))
		pieces = append(pieces, p[:n])
		p = p[n:]
	}
	return pieces
}

// FuzzTerminal: frames become the same lines, wherever they are cut. If the connection takes a part, the
// terminal reports that part.
func FuzzTerminal(f *testing.F) {
	f.Add("one\ntwo\n", []byte{1}, 1000)
	f.Add(strings.Repeat("x", 125)+"\n"+strings.Repeat("y", 126)+"\n\n"+strings.Repeat("z", 70_000)+"\n", []byte{0, 3}, 200)
	f.Add("one\ntwo\n", []byte{0}, len("one")) // all of a line but its end
	f.Add("", []byte{}, 0)
	f.Fuzz(func(t *testing.T, text string, sizes []byte, room int) {
		room = max(0, room)
		var stream []byte
		var ends []int // of the frames, in the stream
		lines := strings.SplitAfter(text, "\n")
		for _, line := range lines {
			stream = append(stream, frameOf([]byte(line))...)
			ends = append(ends, len(stream))
		}
		before := bytes.Clone(stream)
		conn := &script{room: room}
		u := &terminal{Conn: conn}
		taken := 0
		for _, piece := range cut(stream, sizes) {
			n, err := u.Write(piece)
			taken += n
			if err != nil {
				require.ErrorIs(t, err, errNoRoom)
				break
			}
			require.Equal(t, len(piece), n)
		}
		require.Equal(t, before, stream, "others have the same bytes")
		require.Equal(t, text[:min(room, len(text))], conn.written.String())
		// A line counts as written if and only if all of it is.
		written := 0
		for i, line := range lines {
			if written += len(line); line != "" {
				require.Equal(t, written <= room, taken >= ends[i], "line %d", i)
			}
		}
	})
}

// browserOf returns a browser that sends chunks, and its connection.
func browserOf(chunks [][]byte) (*browser, *script) {
	conn := &script{chunks: chunks, room: 1 << 30}
	return &browser{framedConn: framedConn{Conn: conn}}, conn
}

// readAll reads as the chat does. A Read may return no bytes.
func readAll(t *testing.T, b *browser, size int) ([]byte, error) {
	var all []byte
	p := make([]byte, size)
	for {
		n, err := b.Read(p)
		require.LessOrEqual(t, n, size)
		all = append(all, p[:n]...)
		if err != nil {
			n, again := b.Read(p)
			require.Zero(t, n)
			require.Equal(t, err, again, "an error stays")
			return all, err
		}
	}
}

func masked(f ws.Frame) []byte { return compile(ws.MaskFrameWith(f, [4]byte{1, 2, 3, 4})) }

// FuzzBrowser: messages become the same lines, wherever they are cut, in fragments with control frames
// between them. Pings are answered.
func FuzzBrowser(f *testing.F) {
	f.Add("bob\nhi\n", []byte{1}, []byte{1, 0})
	f.Add(strings.Repeat("x", 1000)+"\n\ny", []byte{0, 3, 200}, []byte{200, 7})
	f.Add("", []byte{}, []byte{})
	f.Fuzz(func(t *testing.T, text string, sizes, fragments []byte) {
		if len(text) > maxMessage {
			return
		}
		var stream []byte
		pings := 0
		for line := range strings.SplitSeq(text, "\n") {
			pieces := cut([]byte(line), fragments)
			if len(pieces) == 0 {
				pieces = [][]byte{nil}
			}
			for i, piece := range pieces {
				op := ws.OpContinuation
				if i == 0 {
					op = ws.OpText
				}
				stream = append(stream, masked(ws.NewFrame(op, i == len(pieces)-1, piece))...)
				stream = append(stream, masked(ws.NewPingFrame([]byte("ping")))...)
				pings++
			}
		}
		b, conn := browserOf(cut(stream, sizes))
		got, err := readAll(t, b, 64<<10)
		require.Equal(t, io.EOF, err)
		require.Equal(t, text+"\n", string(got))
		require.Equal(t, bytes.Repeat(compile(ws.NewPongFrame([]byte("ping"))), pings), conn.written.Bytes())
	})
}

// FuzzControl: control frames come between the frames of a Writer, wherever those are cut.
func FuzzControl(f *testing.F) {
	f.Add("one\n\ntwo", []byte{1})
	f.Add(strings.Repeat("x", 125)+"\n"+strings.Repeat("y", 126)+"\n"+strings.Repeat("z", 70_000), []byte{0, 3})
	f.Fuzz(func(t *testing.T, text string, sizes []byte) {
		var stream, got []byte
		for line := range strings.Lines(text) {
			stream = append(stream, frameOf([]byte(line))...)
		}
		conn := &script{room: 1 << 30}
		c := &framedConn{Conn: conn}
		pings := 0
		for _, piece := range cut(stream, sizes) {
			_, err := c.Write(piece)
			require.NoError(t, err)
			if len(c.waiting) < maxControl {
				c.sendControl(compile(ws.NewPingFrame(nil)))
				pings++
			}
		}
		for conn.written.Len() > 0 {
			h, err := ws.ReadHeader(&conn.written)
			require.NoError(t, err)
			require.LessOrEqual(t, h.Length, int64(conn.written.Len()))
			got = append(got, conn.written.Next(int(h.Length))...)
			if h.OpCode == ws.OpPing {
				pings--
			}
		}
		require.Equal(t, text, string(got))
		require.Zero(t, pings)
	})
}

// FuzzBrowserBytes: any input becomes lines or an error, and is not kept.
func FuzzBrowserBytes(f *testing.F) {
	f.Add(masked(ws.NewTextFrame([]byte("hi"))), []byte{1})
	f.Add(masked(ws.NewCloseFrame(ws.NewCloseFrameBody(1000, ""))), []byte{1})
	f.Add([]byte{0x81, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, []byte{})
	f.Fuzz(func(t *testing.T, stream, sizes []byte) {
		b, conn := browserOf(cut(stream, sizes))
		got, _ := readAll(t, b, 4<<10)
		require.LessOrEqual(t, len(got), len(stream)+1)
		require.LessOrEqual(t, cap(b.control), 2*ws.MaxControlFramePayloadSize)
		b.End(nil)
		require.NoError(t, b.CloseWrite())
		b.sendControl(compile(ws.NewPingFrame(nil)))     // too late
		for out := conn.written.Bytes(); len(out) > 0; { // frames; the last one is the close frame
			r := bytes.NewReader(out)
			h, err := ws.ReadHeader(r)
			require.NoError(t, err)
			require.NoError(t, ws.CheckHeader(h, ws.StateClientSide))
			out = out[len(out)-r.Len()+int(h.Length):]
			require.Equal(t, len(out) == 0, h.OpCode == ws.OpClose)
		}
	})
}

// TestLastMessageAndClose: a last message and a close frame in one read are answered, though the browser
// sends nothing more.
func TestLastMessageAndClose(t *testing.T) {
	t.Parallel()
	p := start(t)
	for name, test := range map[string]struct {
		last []byte
		code ws.StatusCode
	}{
		"close":     {masked(ws.NewCloseFrame(ws.NewCloseFrameBody(1001, ""))), 1001},
		"violation": {frameOf([]byte("without a mask")), 1002},
	} {
		t.Run(name, func(t *testing.T) {
			conn, r, _, err := ws.Dial(t.Context(), strings.Replace(p.page, "http", "ws", 1)+"/ws")
			require.NoError(t, err)
			require.Nil(t, r)
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(patience))
			_, err = conn.Write(slices.Concat(masked(ws.NewTextFrame([]byte("bob"))), masked(ws.NewTextFrame([]byte("/who"))), test.last))
			require.NoError(t, err)
			_, payload := readFrame(t, conn)
			require.Equal(t, "names: bob\n", string(payload))
			kind, payload := readFrame(t, conn)
			require.Equal(t, ws.OpClose, kind)
			code, _ := ws.ParseCloseFrameData(payload)
			require.Equal(t, test.code, code)
		})
	}
}

func readFrame(t *testing.T, r io.Reader) (ws.OpCode, []byte) {
	h, err := ws.ReadHeader(r)
	require.NoError(t, err)
	payload := make([]byte, h.Length)
	_, err = io.ReadFull(r, payload)
	require.NoError(t, err)
	return h.OpCode, payload
}

// TestRefusals: violations of the protocol, and the close frame for each.
func TestRefusals(t *testing.T) {
	t.Parallel()
	long := bytes.Repeat([]byte("x"), maxMessage)
	header := func(length int64) []byte { // of a frame without its payload
		var b bytes.Buffer
		_ = ws.WriteHeader(&b, ws.Header{Fin: true, OpCode: ws.OpText, Masked: true, Length: length})
		return b.Bytes()
	}
	for name, test := range map[string]struct {
		stream []byte
		code   ws.StatusCode
		reason string
	}{
		"too large":               {header(maxMessage + 1), 1009, "longer than 65536"},
		"much too large":          {header(1<<63 - 1), 1009, "longer than 65536"},
		"too large in fragments":  {append(masked(ws.NewFrame(ws.OpText, false, long)), masked(ws.NewFrame(ws.OpContinuation, true, []byte("x")))[:6]...), 1009, "longer than 65536"},
		"length with a sign":      {[]byte{0x81, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 1002, "most significant bit"},
		"binary":                  {masked(ws.NewBinaryFrame(nil)), 1003, "text"},
		"without a mask":          {frameOf([]byte("hi")), 1002, "masked"},
		"continuation of nothing": {masked(ws.NewFrame(ws.OpContinuation, true, nil)), 1002, "continuation"},
		"close with half a code":  {masked(ws.NewCloseFrame([]byte{3})), 1002, "status code"},
		"close with no code":      {masked(ws.NewCloseFrame(nil)), 1000, ""},
		"close":                   {masked(ws.NewCloseFrame(ws.NewCloseFrameBody(1001, "bye"))), 1001, ""},
		"close for no reason":     {masked(ws.NewCloseFrame(ws.NewCloseFrameBody(1005, ""))), 1002, "status code"},
	} {
		t.Run(name, func(t *testing.T) {
			b, conn := browserOf([][]byte{test.stream})
			_, err := readAll(t, b, 64<<10)
			require.Error(t, err)
			b.End(errors.New("a later cause"))
			require.NoError(t, b.CloseWrite())
			var f frames
			payload, _, err := f.header(conn.written.Bytes())
			require.NoError(t, err)
			require.Equal(t, ws.OpClose, f.OpCode)
			code, reason := ws.ParseCloseFrameData(payload)
			require.Equal(t, test.code, code)
			require.Contains(t, reason, test.reason)
		})
	}
}
