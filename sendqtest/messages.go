package sendqtest

import (
	"bufio"
	"encoding/binary"
	"fmt"
)

// Messages splits p into messages. For lines, split is bufio.ScanLines; any other function for a
// bufio.Scanner will do. The rest follows the last whole message. It is a part of a message, or
// begins with bytes refused by split.
func Messages(p []byte, split bufio.SplitFunc) (messages []string, rest string) {
	for len(p) > 0 {
		advance, message, err := split(p, false)
		if err != nil || advance <= 0 {
			break
		}
		if message != nil {
			messages = append(messages, string(message))
		}
		p = p[advance:]
	}
	return messages, string(p)
}

// LengthPrefix returns a function that splits messages with their length in front, in big-endian
// order. The length takes size bytes: 1, 2, 4 or 8. It is not part of the message, and does not
// count itself.
func LengthPrefix(size int) bufio.SplitFunc {
	var lengthOf func(p []byte) uint64
	switch size {
	case 1:
		lengthOf = func(p []byte) uint64 { return uint64(p[0]) }
	case 2:
		lengthOf = func(p []byte) uint64 { return uint64(binary.BigEndian.Uint16(p)) }
	case 4:
		lengthOf = func(p []byte) uint64 { return uint64(binary.BigEndian.Uint32(p)) }
	case 8:
		lengthOf = binary.BigEndian.Uint64
	default:
		panic(fmt.Sprintf("sendqtest: LengthPrefix: %d bytes", size))
	}
	return func(p []byte, _ bool) (advance int, message []byte, err error) {
		if len(p) < size {
			return 0, nil, nil
		}
		length := lengthOf(p)
		if length > uint64(len(p)-size) {
			return 0, nil, nil
		}
		end := size + int(length)
		return end, p[size:end], nil
	}
}
