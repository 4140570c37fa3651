package main

import (
	"bytes"

	"github.com/gobwas/ws"
)

// frameOf returns a line as the frame of a text message.
func frameOf(line []byte) []byte { return compile(ws.NewTextFrame(line)) }

func compile(f ws.Frame) []byte {
	frame := bytes.NewBuffer(make([]byte, 0, ws.MaxHeaderSize+len(f.Payload)))
	_ = ws.WriteFrame(frame, f) // a Buffer takes everything
	return frame.Bytes()
}

// frames goes through a stream of frames that may be cut anywhere.
type frames struct {
	ws.Header       // of the last frame that has begun
	left      int64 // how much of its payload is still to come

	head     [ws.MaxHeaderSize]byte // what there is of the next header
	headSize int
}

// header takes from p what belongs to the header of the next frame, and tells whether that is
// complete now. The payload of the last frame must have been taken.
func (f *frames) header(p []byte) (rest []byte, complete bool, err error) {
	for f.headSize < 2 || f.headSize < headerSize(f.head[1]) {
		if len(p) == 0 {
			return p, false, nil
		}
		f.head[f.headSize] = p[0]
		f.headSize++
		p = p[1:]
	}
	f.Header, err = ws.ReadHeader(bytes.NewReader(f.head[:f.headSize]))
	f.left, f.headSize = f.Length, 0
	return p, true, err
}

// headerSize returns how long a header is whose second byte is b.
func headerSize(b byte) int {
	h := ws.Header{Length: int64(b & 0x7f), Masked: b&0x80 != 0}
	switch h.Length {
	case 126: // the length is in the next two bytes
		h.Length = 1<<16 - 1
	case 127: // in the next eight
		h.Length = 1 << 16
	}
	return ws.HeaderSize(h)
}

// payload takes from p what belongs to the payload of the frame.
func (f *frames) payload(p []byte) (payload, rest []byte) {
	n := min(f.left, int64(len(p)))
	f.left -= n
	return p[:n], p[n:]
}
