package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/gobwas/ws"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/examples/chat/server"
)

const (
	// maxMessage bounds a message of a browser, in bytes and with all its fragments. It is the
	// bound of a line too.
	maxMessage = 64 << 10

	// A browser gets a ping every 25 seconds, and answers it. It is gone after 60 seconds of
	// silence.
	silence   = 60 * time.Second
	pingEvery = 25 * time.Second

	// farewellTimeout bounds the write of the close frame.
	farewellTimeout = 5 * time.Second
)

// A browser is the WebSocket of a user. Each of its messages is a line. Writes take frames, and reads
// return lines.
type browser struct {
	framedConn
	refused error // the reason, if the address has too many connections

	// The state of reading.
	frames   frames
	inside   bool   // a message continues in the next frame
	message  int64  // bytes of the message so far
	unmasked int    // bytes of the frame's payload so far
	control  []byte // the payload of a control frame so far
	err      error  // the cause of the end of reading
	patient  bool   // each read moves the deadline

	farewell
	stall
}

var _ server.Conn = (*browser)(nil)

// NetConn lets sendq see the socket.
func (b *browser) NetConn() net.Conn { return b.Conn }

// SyscallConn lets the chat wait for input without a buffer: Read keeps no input.
func (b *browser) SyscallConn() (syscall.RawConn, error) { return socketOf(b.Conn) }

// Begin is called before the first Read.
func (b *browser) Begin(*sendq.Writer) error { return b.refused }

// SetReadDeadline sets the deadline to t. If t is zero, each input moves the deadline by silence.
func (b *browser) SetReadDeadline(t time.Time) error {
	if b.patient = t.IsZero(); b.patient {
		t = time.Now().Add(silence)
	}
	return b.Conn.SetReadDeadline(t)
}

// Read reads frames and leaves their text in p, with an end of line after each message. It may return
// 0, nil if the frames have no text.
func (b *browser) Read(p []byte) (int, error) {
	if b.err != nil || len(p) < 2 {
		return 0, b.err
	}
	n, err := b.Conn.Read(p[1:]) // so that there is room for the end of a line
	if n > 0 && b.patient {
		_ = b.SetReadDeadline(time.Time{})
	}
	text, broken := b.decode(p[:0], p[1:1+n])
	if b.err = broken; broken == nil {
		b.err = err
	}
	return len(text), b.err // both, because the peer may send nothing more to wake a reader
}

// decode appends the text of frames to text. The frames continue with p. Text may share the array of p
// if it begins a byte before p, because a frame is longer than its text with an end of line.
func (b *browser) decode(text, p []byte) ([]byte, error) {
	for len(p) > 0 {
		if b.frames.left == 0 {
			rest, complete, err := b.frames.header(p)
			if !complete {
				return text, nil
			}
			if err == nil {
				err = b.begin()
			}
			if err != nil {
				return text, b.refuse(err)
			}
			p = rest
		}
		payload, rest := b.frames.payload(p)
		ws.Cipher(payload, b.frames.Mask, b.unmasked)
		b.unmasked += len(payload)
		p = rest
		control, complete := b.frames.OpCode.IsControl(), b.frames.left == 0
		if control {
			b.control = append(b.control, payload...)
		} else {
			text = append(text, payload...)
		}
		switch {
		case complete && control:
			if err := b.obey(); err != nil {
				return text, b.refuse(err)
			}
		case complete && b.frames.Fin:
			text = append(text, '\n')
		}
	}
	return text, nil
}

// begin checks the header of a frame before its payload is read.
func (b *browser) begin() error {
	h := b.frames.Header
	state := ws.StateServerSide
	if b.inside {
		state |= ws.StateFragmented
	}
	if err := ws.CheckHeader(h, state); err != nil {
		return err
	}
	b.unmasked = 0
	switch h.OpCode {
	case ws.OpBinary:
		return errBinary
	case ws.OpText:
		b.message = 0
	case ws.OpContinuation:
	default:
		b.control = b.control[:0]
		return nil
	}
	if h.Length > maxMessage-b.message {
		return errTooLarge
	}
	b.message += h.Length
	b.inside = !h.Fin
	return nil
}

// obey obeys a control frame.
func (b *browser) obey() error {
	switch b.frames.OpCode {
	case ws.OpPing:
		b.sendControl(compile(ws.NewPongFrame(b.control)))
	case ws.OpClose:
		code, reason := ws.ParseCloseFrameData(b.control)
		switch {
		case len(b.control) == 0:
			code = ws.StatusNormalClosure
		case len(b.control) == 1:
			return ws.ErrProtocolStatusCodeNotInUse
		default:
			if err := ws.CheckCloseFrameData(code, reason); err != nil {
				return err
			}
		}
		b.sayInTheEnd(code, "")
		return io.EOF
	}
	return nil
}

var (
	errTooLarge = fmt.Errorf("the message is longer than %d bytes", maxMessage)
	errBinary   = errors.New("messages must be text")
)

// refuse sets the close frame for a browser that broke a rule, and returns err.
func (b *browser) refuse(err error) error {
	switch _, violation := err.(ws.ProtocolError); {
	case err == errTooLarge:
		b.sayInTheEnd(ws.StatusMessageTooBig, err.Error())
	case err == errBinary:
		b.sayInTheEnd(ws.StatusUnsupportedData, err.Error())
	case violation || err == ws.ErrHeaderLengthMSB:
		b.sayInTheEnd(ws.StatusProtocolError, err.Error())
	}
	return err
}

// End is called when the session ends. If the browser has broken a rule or sent a close frame, the
// answer to that stands.
func (b *browser) End(cause error) {
	switch {
	case cause == nil:
		b.sayInTheEnd(ws.StatusNormalClosure, "")
	case errors.Is(cause, server.ErrStopped):
		b.sayInTheEnd(ws.StatusGoingAway, cause.Error())
	default:
		b.sayInTheEnd(ws.StatusPolicyViolation, cause.Error())
	}
}

// CloseWrite sends the close frame. The Writer calls it when everything else has been written.
func (b *browser) CloseWrite() error { return b.sendLast(b.farewell.frame()) }

// Write writes frames.
func (b *browser) Write(p []byte) (int, error) {
	b.wait()
	return b.framedConn.Write(p)
}

// Close also ends a stall.
func (b *browser) Close() error {
	b.stall.end()
	return b.Conn.Close()
}

// A farewell is the close frame. The first cause decides what it says.
type farewell struct {
	mu    sync.Mutex
	close []byte
}

func (f *farewell) sayInTheEnd(code ws.StatusCode, reason string) {
	const longest = ws.MaxControlFramePayloadSize - 2
	reason = strings.ToValidUTF8(reason[:min(len(reason), longest)], "")
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.close == nil {
		f.close = compile(ws.NewCloseFrame(ws.NewCloseFrameBody(code, reason)))
	}
}

// frame returns the close frame. Without a cause, the server is shutting down.
func (f *farewell) frame() []byte {
	f.sayInTheEnd(ws.StatusGoingAway, server.ErrStopped.Error())
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.close
}
