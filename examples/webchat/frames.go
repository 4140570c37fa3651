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

// frames parses a stream of frames in pieces of any size.
type frames struct {
	ws.Header       // of the current frame
	left      int64 // the rest of its payload, in bytes

	head     [ws.MaxHeaderSize]byte // the beginning of the next header
	headSize int
}

// header takes bytes of the next frame's header from p, and reports whether the header is complete.
// The payload of the current frame must have been taken before.
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

// headerSize returns the size of a header with b as its second byte.
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

// payload takes bytes of the frame's payload from p.
func (f *frames) payload(p []byte) (payload, rest []byte) {
	n := min(f.left, int64(len(p)))
	f.left -= n
	return p[:n], p[n:]
}
