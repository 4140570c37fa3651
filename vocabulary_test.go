package sendq_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
)

// What several tests of Writers need.

var (
	errBroken   = errors.New("broken on purpose")
	errChecksum = errors.New("a wrong checksum")
)

// patient bounds Close by more than a test may take: that Close returns at all shows
// that it did not wait for the bound.
var patient = &sendq.WriterOptions{CloseTimeout: time.Hour}

// ends are the ways to end a Writer.
var ends = map[string]func(*sendq.Writer) error{
	"Close":    (*sendq.Writer).Close,
	"CloseNow": (*sendq.Writer).CloseNow,
	"Shutdown": func(w *sendq.Writer) error { return w.Shutdown(context.Background()) },
}

// send sends p in one of the three ways. It may change p.
func send(w *sendq.Writer, way int, p []byte) error {
	var n int
	var err error
	switch way % 3 {
	case 0:
		n, err = w.Write(p)
		defer clear(p) // it is the caller's again
	case 1:
		n, err = w.WriteString(string(p))
	case 2:
		return w.Send(p)
	}
	if err == nil && n != len(p) {
		return fmt.Errorf("wrote %d of %d", n, len(p))
	}
	return err
}

// size returns the length of message i: 0 to 100 KB, short ones most often.
func size(i int) int {
	switch i {
	case 0:
		return 0
	case 1:
		return 100_000
	}
	return rand.IntN(100_001) >> rand.IntN(12)
}

// sized returns n, or a twentieth of it under the race detector. It is for tests of size alone,
// in which that detector finds nothing more and takes ten times as long.
func sized(n int) int {
	if underRace {
		return n / 20
	}
	return n
}

// A frame is a message that tells who sent it, which one it is, how long, and a
// checksum of all that.
func frame(sender, number, length int) []byte {
	p := make([]byte, frameHeader+length)
	body := p[frameHeader:]
	for i := range min(length, 256) {
		body[i] = byte(sender + number + i)
	}
	for n := 256; n < length; n *= 2 { // the bytes repeat
		copy(body[n:], body[:n])
	}
	binary.BigEndian.PutUint32(p[0:], uint32(sender))
	binary.BigEndian.PutUint32(p[4:], uint32(number))
	binary.BigEndian.PutUint32(p[8:], uint32(length))
	binary.BigEndian.PutUint32(p[12:], checksum(p))
	return p
}

const frameHeader = 16

func checksum(p []byte) uint32 {
	return crc32.Update(crc32.ChecksumIEEE(p[:12]), crc32.IEEETable, p[frameHeader:])
}

// An arrival is what came in frames: the numbers of each sender's, in order.
type arrival struct {
	order map[int][]int
	err   error // nil if all frames were whole, up to EOF
}

// receive reads r to the end, even after an error, so that no sender is stuck.
func receive(r io.Reader) arrival {
	a := arrival{order: make(map[int][]int)}
	in := bufio.NewReader(r)
	p := make([]byte, frameHeader+100_000)
	for {
		_, err := io.ReadFull(in, p[:frameHeader])
		if err == io.EOF {
			return a
		}
		sender, number := int(binary.BigEndian.Uint32(p[0:])), int(binary.BigEndian.Uint32(p[4:]))
		end := min(frameHeader+int(binary.BigEndian.Uint32(p[8:])), len(p))
		if err == nil {
			_, err = io.ReadFull(in, p[frameHeader:end])
		}
		if err == nil && checksum(p[:end]) != binary.BigEndian.Uint32(p[12:]) {
			err = errChecksum
		}
		if err != nil {
			io.Copy(io.Discard, in)
			a.err = err
			return a
		}
		a.order[sender] = append(a.order[sender], number)
	}
}

// A content is what a peer read to the end, and nil for EOF.
type content struct {
	bytes string
	err   error
}

func readAll(r io.Reader) content {
	p, err := io.ReadAll(r)
	return content{string(p), err}
}

// upTo returns 0, 1, ... n-1, or nil if n is 0.
func upTo(n int) (s []int) {
	for i := range n {
		s = append(s, i)
	}
	return s
}

// interestingOffsets returns every offset in messages if they are short, and else those
// about the ends of messages and of large writes. The end itself is not one.
func interestingOffsets(messages [][]byte) (offsets []int) {
	total := len(bytes.Join(messages, nil))
	if total < 1000 {
		return upTo(total)
	}
	end := 0
	ends := []int{32 << 10, 64 << 10, 256 << 10, total}
	for _, p := range messages {
		end += len(p)
		ends = append(ends, end, end+256<<10)
	}
	for _, end := range ends {
		for n := max(end-1, 0); n <= end+1 && n < total; n++ {
			offsets = append(offsets, n)
		}
	}
	slices.Sort(offsets)
	return slices.Compact(offsets)
}

// requireMessages compares messages, an empty one being the same as nil.
func requireMessages(t testing.TB, want [][]byte, got func(func([]byte) bool)) {
	t.Helper()
	var wantStrings, gotStrings []string
	for _, p := range want {
		wantStrings = append(wantStrings, string(p))
	}
	for p := range got {
		gotStrings = append(gotStrings, string(p))
	}
	require.Equal(t, wantStrings, gotStrings)
}

func assertConserved(t testing.TB, s sendq.WriterStats) {
	t.Helper()
	if s.Accepted != s.Written+s.Dropped+s.Undelivered+s.Pending ||
		s.AcceptedBytes != s.WrittenBytes+s.DroppedBytes+s.UndeliveredBytes+s.PendingBytes {
		t.Errorf("not all is accounted for: %+v", s)
	}
}

// requireGone requires an error that tells that the peer has gone.
func requireGone(t testing.TB, err error) {
	t.Helper()
	require.Error(t, err)
	require.True(t, errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE), "%v", err)
}
