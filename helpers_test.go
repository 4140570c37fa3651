package sendq_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"io"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/sendqtest"
)

// TestMain fails the run if goroutines or sockets are left at its end.
func TestMain(m *testing.M) {
	flag.Parse()
	if flag.Lookup("test.fuzz").Value.String() != "" {
		os.Exit(m.Run()) // fuzzing leaves a goroutine for signals
	}
	// Parallel tests spend their time waiting, so they wait together.
	flag.Set("test.parallel", "32")
	goroutines, sockets := runtime.NumGoroutine(), openSockets()
	code := m.Run()
	// Some goroutines and sockets may still be ending.
	for deadline := time.Now().Add(time.Minute); runtime.NumGoroutine() > goroutines || openSockets() > sockets; {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<20)
			fmt.Fprintf(os.Stderr, "left over: %d goroutines and %d sockets; all goroutines:\n%s\n",
				runtime.NumGoroutine()-goroutines, openSockets()-sockets, stacks[:runtime.Stack(stacks, true)])
			code = max(code, 1)
			break
		}
		time.Sleep(time.Millisecond)
	}
	os.Exit(code)
}

// goroutinesLeft counts goroutines. If there are more than expected, it first lets ending ones end,
// and the finalizers of the runtime.
func goroutinesLeft(expected int) (n int) {
	for range 10_000_000 { // some seconds; the clock may be that of a bubble
		if n = runtime.NumGoroutine(); n <= expected {
			break
		}
		runtime.Gosched()
	}
	return n
}

// openSockets counts the sockets of this process, if there is a /proc.
func openSockets() (n int) {
	fds, _ := filepath.Glob("/proc/self/fd/*")
	for _, fd := range fds {
		if target, err := os.Readlink(fd); err == nil && strings.HasPrefix(target, "socket:") {
			n++
		}
	}
	return n
}

var (
	errBroken   = errors.New("broken on purpose")
	errChecksum = errors.New("a wrong checksum")
)

// patient sets a CloseTimeout longer than any test. So if Close returns, it did not wait for the
// timeout.
var patient = &sendq.WriterOptions{CloseTimeout: time.Hour}

// ends are the ways to end a Writer.
var ends = map[string]func(*sendq.Writer) error{
	"Close":    (*sendq.Writer).Close,
	"CloseNow": (*sendq.Writer).CloseNow,
	"Shutdown": func(w *sendq.Writer) error { return w.Shutdown(context.Background()) },
}

// send sends p in one of four ways. It may change p.
func send(w *sendq.Writer, way int, p []byte) error {
	var n int
	var err error
	switch way % 4 {
	case 0:
		n, err = w.Write(p)
		defer clear(p) // it is the caller's again
	case 1:
		n, err = w.WriteString(string(p))
	case 2:
		return w.Send(p)
	case 3:
		n, err = w.WriteParts(p[:len(p)/3], nil, p[len(p)/3:])
		defer clear(p)
	}
	if err == nil && n != len(p) {
		return fmt.Errorf("wrote %d of %d", n, len(p))
	}
	return err
}

// size returns the length of message i: up to 100 KB, mostly short.
func size(i int) int {
	switch i {
	case 0:
		return 0
	case 1:
		return 100_000
	}
	return rand.IntN(100_001) >> rand.IntN(12)
}

// sized returns n, or n/20 under the race detector. It is for tests of large numbers: the detector
// finds nothing more in them, and makes them ten times as slow.
func sized(n int) int {
	if underRace {
		return n / 20
	}
	return n
}

// frame returns a message with its sender, number, length and a checksum.
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

// An arrival holds the numbers of the received frames of each sender, in order.
type arrival struct {
	order map[int][]int
	err   error // nil if all frames were whole, up to EOF
}

// receive reads r to the end, even after an error, so senders do not get stuck.
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

// A content is everything a peer read, and the error after it, nil for EOF.
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

// A messageID identifies a frame.
type messageID struct{ sender, number int }

// idOf returns the ID of a frame, or one that no frame has for an empty message.
func idOf(frame []byte) messageID {
	if len(frame) == 0 {
		return messageID{-1, 0}
	}
	return messageID{int(binary.BigEndian.Uint32(frame)), int(binary.BigEndian.Uint32(frame[4:]))}
}

func idsOf(messages iter.Seq[[]byte]) (ids []messageID) {
	for p := range messages {
		ids = append(ids, idOf(p))
	}
	return ids
}

// outcomesOf returns the whole messages on the wire, and the undelivered ones. The wire may end
// with a part of the first undelivered message, or, if it is lossy, of any message.
func outcomesOf(t testing.TB, wire []byte, messages iter.Seq[[]byte], lossy bool) (arrived, undelivered []messageID) {
	rest := wire
	for len(rest) >= frameHeader {
		end := frameHeader + int(binary.BigEndian.Uint32(rest[8:]))
		if len(rest) < end {
			break
		}
		require.Equal(t, checksum(rest[:end]), binary.BigEndian.Uint32(rest[12:]), "torn")
		arrived = append(arrived, idOf(rest))
		rest = rest[end:]
	}
	if lossy && len(rest) >= frameHeader {
		id := idOf(rest)
		length := int(binary.BigEndian.Uint32(rest[8:]))
		require.Less(t, length, 100_000, "torn")
		require.True(t, bytes.HasPrefix(frame(id.sender, id.number, length), rest), "torn")
	}
	for p := range messages {
		if len(undelivered) == 0 && bytes.HasPrefix(p, rest) {
			rest = nil
		}
		undelivered = append(undelivered, idOf(p))
	}
	require.True(t, lossy || len(rest) == 0, "torn: %d bytes are left", len(rest))
	return arrived, undelivered
}

// requireMessages compares messages. An empty one equals nil.
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

// async calls f in a goroutine and returns a channel for its result.
func async[T any](f func() T) <-chan T {
	result := make(chan T, 1)
	go func() { result <- f() }()
	return result
}

// within receives from c, and fails the test after a minute.
func within[T any](t testing.TB, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(time.Minute):
		require.Fail(t, "it does not come")
	}
	return v
}

func first[A, B any](a A, _ B) A { return a }

func second[A, B any](_ A, b B) B { return b }

// letters returns n bytes of text without repetition nearby.
func letters(n int) []byte {
	var b []byte
	for i := int64(0); len(b) < n; i++ {
		b = append(strconv.AppendInt(b, i, 16), '.')
	}
	return b[:n:n]
}

// all returns the Report of messages without refusals.
func all(accepted int) sendq.Report { return sendq.Report{Accepted: accepted} }

func oneOf[T any](choices ...T) T { return choices[rand.IntN(len(choices))] }

func pick[T any](rng *rand.Rand, choices []T) T { return choices[rng.IntN(len(choices))] }

// stuck returns a Writer whose first message is stuck until conn is released. The message counts
// 100 bytes at MaxPending.
func stuck(t *testing.T, opts *sendq.WriterOptions) (*sendq.Writer, *sendqtest.Conn) {
	conn := sendqtest.NewConn()
	waiting := conn.Stall()
	w := sendq.NewWriter(conn, opts)
	t.Cleanup(func() { w.CloseNow() })
	require.NoError(t, w.Send(make([]byte, 36)))
	<-waiting
	return w, conn
}

// counted returns a message of n bytes at MaxPending.
func counted(n int) []byte { return make([]byte, n-64) }

func hasEnded(w *sendq.Writer) bool {
	select {
	case <-w.Done():
		return true
	default:
		return false
	}
}

func idleWriters(t *testing.T, n int) []*sendq.Writer {
	writers := make([]*sendq.Writer, n)
	for i := range writers {
		writers[i] = sendq.NewWriter(sendqtest.NewConn(), nil)
	}
	t.Cleanup(func() {
		for _, w := range writers {
			w.CloseNow()
		}
	})
	return writers
}

// stalled returns Writers with a backlog of messages of the given size. Their connections take
// nothing until release is called.
func stalled(writers, backlog, size int, send func(w *sendq.Writer, n int)) (all []*sendq.Writer, release func()) {
	conn := &sink{open: make(chan struct{})}
	all = make([]*sendq.Writer, writers)
	for i := range all {
		all[i] = sendq.NewWriter(conn, nil)
		for range max(backlog/size, 1) {
			send(all[i], size)
		}
	}
	return all, func() { close(conn.open) }
}

var zeros [128 << 10]byte

// warmUp starts n goroutines at once, so the memory that the runtime keeps for them is not counted
// as that of Writers.
func warmUp(n int) {
	var wg sync.WaitGroup
	end := make(chan struct{})
	for range n {
		wg.Go(func() { <-end })
	}
	close(end)
	wg.Wait()
}

// heap returns the number of reachable bytes.
func heap() int {
	for range 3 { // a sync.Pool lasts for two
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}
