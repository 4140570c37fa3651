package sendq_test

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/sendq-go/sendq"
)

// answering is the sender of the answers of Resume. An answer has no number.
const answering = 1 << 30

// answerFrame is an answer of Resume.
func answerFrame(sendq.Resumed) []byte { return frame(answering, 0, 9) }

var answerSize = len(answerFrame(sendq.Resumed{}))

// A countingPeer counts the whole messages that it receives, on all its connections.
type countingPeer struct {
	received int64
	numbers  map[int][]int // of the messages of each sender, in the order of arrival
	counted  func()        // called after each message, unless it is nil
}

// read reads messages until r ends, or its deadline has passed. If resumed, the first one is the
// answer of Resume, and does not count. A part of a message at the end is forgotten.
func (p *countingPeer) read(r io.Reader, resumed bool) error {
	in := bufio.NewReader(r)
	for first := true; ; first = false {
		id, err := nextFrame(in)
		isAnswer := err == nil && id.sender == answering
		switch {
		case err == io.EOF, err == io.ErrUnexpectedEOF, errors.Is(err, os.ErrDeadlineExceeded):
			return nil
		case err != nil:
			return err
		case isAnswer != (resumed && first):
			return fmt.Errorf("an answer in the wrong place: %v, after %d messages", id, p.received)
		case isAnswer:
			continue
		}
		if p.numbers == nil {
			p.numbers = make(map[int][]int)
		}
		p.numbers[id.sender] = append(p.numbers[id.sender], id.number)
		p.received++
		if p.counted != nil {
			p.counted()
		}
	}
}

// nextFrame returns errChecksum if the frame is torn.
func nextFrame(in io.Reader) (messageID, error) {
	header := make([]byte, frameHeader, 256)
	if _, err := io.ReadFull(in, header); err != nil {
		return messageID{}, err
	}
	length := binary.BigEndian.Uint32(header[8:])
	if length > 1<<20 {
		return messageID{}, errChecksum
	}
	p := append(header, make([]byte, length)...)
	switch _, err := io.ReadFull(in, p[frameHeader:]); {
	case err == io.EOF:
		return messageID{}, io.ErrUnexpectedEOF
	case err != nil:
		return messageID{}, err
	case checksum(p) != binary.BigEndian.Uint32(p[12:]):
		return messageID{}, errChecksum
	}
	return idOf(p), nil
}
