package lines

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
)

// A log is a Handler that notes its calls.
type log struct {
	lines   []string
	flushed int // how many of them were flushed
	cause   error
	failAt  string // the line at which Do fails
}

func (l *log) Begin() error { return nil }

func (l *log) Do(line string) error {
	if l.failAt != "" && line == l.failAt {
		return errFailed
	}
	l.lines = append(l.lines, line)
	return nil
}

func (l *log) Flush()          { l.flushed = len(l.lines) }
func (l *log) End(cause error) { l.cause = cause }

var errFailed = errors.New("failed")

func TestServe(t *testing.T) {
	broken := errors.New("broken")
	for _, test := range []struct {
		input io.Reader
		lines []string
		cause error
		text  string
	}{
		{strings.NewReader("a\nb\r\n\nc"), []string{"a", "b", ""}, io.EOF, "the connection has ended: EOF"},
		{iotest.OneByteReader(strings.NewReader("one\r\ntwo\n")), []string{"one", "two"}, io.EOF, "the connection has ended: EOF"},
		{iotest.DataErrReader(strings.NewReader("last\n")), []string{"last"}, io.EOF, "the connection has ended: EOF"},
		{io.MultiReader(strings.NewReader("a\n"), iotest.ErrReader(broken)), []string{"a"}, broken, "the connection has ended: broken"},
		{strings.NewReader("12345678\r\n123456789\nafter\n"), []string{"12345678"}, nil, "the line is longer than 8 bytes"},
		{iotest.OneByteReader(strings.NewReader("123456789")), nil, nil, "the line is longer than 8 bytes"},
		{strings.NewReader("a\tb\x1b\x00\xff\u202e\u009b\u2028\r\r\n"), nil, nil, "the line is longer than 8 bytes"},
		{strings.NewReader("\t\x1b\x00\xff\r\r\n"), []string{" \ufffd\ufffd\ufffd\ufffd"}, io.EOF, "the connection has ended: EOF"},
		{strings.NewReader("\u202e\u2028\n\u009b\u00e9\n"), []string{"\ufffd\ufffd", "\ufffd\u00e9"}, io.EOF, "the connection has ended: EOF"},
		{strings.NewReader("a\nfail\nb\n"), []string{"a"}, errFailed, "failed"},
	} {
		l := log{failAt: "fail"}
		Serve(test.input, 8, &l)
		require.Equal(t, test.lines, l.lines)
		require.EqualError(t, l.cause, test.text)
		if test.cause != nil {
			require.ErrorIs(t, l.cause, test.cause)
		}
		require.Equal(t, len(l.lines), l.flushed)
		require.Equal(t, test.cause == io.EOF || test.cause == broken, errors.Is(l.cause, ErrEnd))
	}
}

// FuzzLines: each line is delivered once, in order, and nothing is left out except a last line without an
// end.
func FuzzLines(f *testing.F) {
	for _, seed := range []string{"", "\n", "a\nb\r\n", "\r\r\n", "cut off", "a\xff\x1b[2J\u202e\n"} {
		f.Add(seed, 3)
	}
	f.Fuzz(func(t *testing.T, input string, size int) {
		const maxLine = 1 << 10
		var l log
		Serve(&pieces{input, max(size, 1+len(input)/100)}, maxLine, &l)
		var want []string
		for line := range strings.Lines(input) {
			text, complete := strings.CutSuffix(line, "\n")
			text = strings.TrimSuffix(text, "\r")
			if !complete || len(text) > maxLine {
				break
			}
			want = append(want, clean(text))
		}
		require.Equal(t, want, l.lines)
	})
}

// pieces reads a string in pieces of size bytes.
type pieces struct {
	rest string
	size int
}

func (p *pieces) Read(b []byte) (int, error) {
	if p.rest == "" {
		return 0, io.EOF
	}
	n := copy(b, p.rest[:min(len(p.rest), p.size)])
	p.rest = p.rest[n:]
	return n, nil
}
