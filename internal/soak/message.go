package main

import (
	"encoding/binary"
	"fmt"
)

// A message starts with the length of its body, its sender, its number and a checksum of the three.
// A nonempty body ends with the same checksum.
const (
	header  = 16 // bytes
	senders = 4  // in an episode
)

// appendMessage appends a message with a body of 0 or 8 to 65,535 bytes.
func appendMessage(p []byte, sender int, number uint32, body int) []byte {
	var h [header]byte
	binary.LittleEndian.PutUint16(h[0:], uint16(body))
	binary.LittleEndian.PutUint16(h[2:], uint16(sender))
	binary.LittleEndian.PutUint32(h[4:], number)
	sum := checksum(binary.LittleEndian.Uint64(h[:]))
	binary.LittleEndian.PutUint64(h[8:], sum)
	p = append(p, h[:]...)
	if body > 0 {
		p = append(p, make([]byte, body-8)...)
		p = binary.LittleEndian.AppendUint64(p, sum)
	}
	return p
}

func checksum(h uint64) uint64 {
	h = (h ^ 0x9e3779b97f4a7c15) * 0xbf58476d1ce4e5b9
	return h ^ h>>29
}

// A stream checks consecutive messages: every message is whole, and the messages of each sender
// are in order and without duplicates.
type stream struct {
	messages    int64
	first, last [senders]uint32 // message numbers by sender; 0 if there are none
}

// take checks the whole messages at the front of p and returns the rest.
func (s *stream) take(p []byte) (rest []byte, err error) {
	for len(p) >= header {
		h := binary.LittleEndian.Uint64(p)
		sum := binary.LittleEndian.Uint64(p[8:])
		if sum != checksum(h) {
			return p, fmt.Errorf("torn after message %d", s.messages)
		}
		end := header + int(uint16(h))
		if len(p) < end {
			break
		}
		if end > header && binary.LittleEndian.Uint64(p[end-8:]) != sum {
			return p, fmt.Errorf("torn in message %d", s.messages)
		}
		sender, number := uint16(h>>16), uint32(h>>32)
		if sender >= senders || number <= s.last[sender] {
			return p, fmt.Errorf("message %d of sender %d comes after %d", number, sender, s.last[sender])
		}
		s.last[sender] = number
		if s.first[sender] == 0 {
			s.first[sender] = number
		}
		s.messages++
		p = p[end:]
	}
	return p, nil
}

// precedes reports whether the messages of next may follow those of s.
func (s *stream) precedes(next *stream) bool {
	for i := range senders {
		if next.first[i] > 0 && next.first[i] <= s.last[i] {
			return false
		}
	}
	return true
}

// after returns s with the higher of the last numbers of s and before.
func (s *stream) after(before *stream) *stream {
	all := *s
	if before != nil {
		for i := range senders {
			all.last[i] = max(s.last[i], before.last[i])
		}
	}
	return &all
}
