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

// The senders of the answers of Resume and of farewells. These have no numbers.
const answering, parting = 1 << 30, 1<<30 + 1

// answerFrame is an answer of Resume.
func answerFrame(sendq.Resumed) []byte { return frame(answering, 0, 9) }

var answerSize = len(answerFrame(sendq.Resumed{}))

// A countingPeer counts the whole messages that it receives, on all its connections. It takes a
// farewell for a message.
type countingPeer struct {
	received int64
	numbers  map[int][]int // of the messages of each sender, in the order of arrival
	counted  func()        // called after each message, unless it is nil
	goodbyes int           // farewells
}

func newCountingPeer() countingPeer { return countingPeer{numbers: make(map[int][]int)} }

// read reads messages until r ends, or its deadline has passed. If resumed, the first one is the
// answer of Resume, and does not count. A part of a message at the end is forgotten.
func (p *countingPeer) read(r io.Reader, resumed bool) error {
	in := bufio.NewReader(r)
	for first := true; ; first = false {
		id, err := nextFrame(in)
		isAnswer := resumed && first // or a farewell instead
		switch {
		case err == io.EOF, err == io.ErrUnexpectedEOF, errors.Is(err, os.ErrDeadlineExceeded):
			return nil
		case err != nil:
			return err
		case isAnswer && id.sender < answering, !isAnswer && id.sender == answering:
			return fmt.Errorf("an answer is missing or in the wrong place: %v, after %d messages", id, p.received)
		case isAnswer:
			continue
		}
		p.received++
		if id.sender == parting {
			p.goodbyes++
		} else {
			p.numbers[id.sender] = append(p.numbers[id.sender], id.number)
		}
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
