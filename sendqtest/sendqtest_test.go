package sendqtest_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/sendqtest"
)

var errBroken = errors.New("broken on purpose")

// A result is what a Write returned.
type result struct {
	n   int
	err error
}

// write starts a Write.
func write(c net.Conn, s string) <-chan result {
	done := make(chan result, 1)
	go func() {
		n, err := c.Write([]byte(s))
		done <- result{n, err}
	}()
	return done
}

// A peer takes everything at once, unless it is told otherwise.
func TestTakesAll(t *testing.T) {
	c := sendqtest.NewConn()
	require.Equal(t, result{5, nil}, <-write(c, "hello"))
	require.Equal(t, result{0, nil}, <-write(c, ""))
	require.Equal(t, result{1, nil}, <-write(c, "!"))
	require.Equal(t, "hello!", string(c.Bytes()))
	require.Equal(t, []int{5, 0, 1}, c.Sizes())
	require.Equal(t, "pipe", c.LocalAddr().Network())
	require.Equal(t, c.RemoteAddr(), c.LocalAddr())
	require.Nil(t, c.NetConn())
}

// A stalled peer takes nothing until it is released, or as much as it is told.
func TestStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sendqtest.NewConn()
		waiting := c.Stall()
		synctest.Wait()
		select {
		case <-waiting:
			require.Fail(t, "nothing waits")
		default:
		}
		done := write(c, "message")
		<-waiting
		require.Empty(t, c.Bytes())
		c.Take(3)
		synctest.Wait()
		require.Equal(t, "mes", string(c.Bytes()))
		require.Empty(t, done)
		c.Take(100)
		require.Equal(t, result{7, nil}, <-done)
		require.Equal(t, result{93, nil}, <-write(c, strings.Repeat("x", 93)))
		done = write(c, "more")
		synctest.Wait()
		require.Empty(t, done)
		empty := write(c, "")
		c.Release()
		require.Equal(t, result{4, nil}, <-done)
		require.Equal(t, result{0, nil}, <-empty)
		require.Equal(t, result{1, nil}, <-write(c, "!"))
	})
}

// A slow peer takes some bytes in each interval, also if they come one by one.
func TestSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sendqtest.NewConn()
		c.Slow(3, time.Second)
		began := time.Now()
		require.Equal(t, result{7, nil}, <-write(c, "message"))
		require.Equal(t, 3*time.Second, time.Since(began))
		for range 3 {
			require.Equal(t, result{1, nil}, <-write(c, "x"))
		}
		require.Equal(t, 4*time.Second, time.Since(began))

		done := write(c, "message")
		time.Sleep(1500 * time.Millisecond)
		require.Equal(t, "messagexxxmessa", string(c.Bytes()))
		c.Release()
		<-done
		require.Equal(t, 5500*time.Millisecond, time.Since(began))

		// It does not make up for what it has not taken.
		c.Slow(3, time.Second)
		<-write(c, "x")
		time.Sleep(time.Minute)
		began = time.Now()
		<-write(c, "12345")
		require.Equal(t, time.Second, time.Since(began))
	})
	require.Panics(t, func() { sendqtest.NewConn().Slow(0, 1) })
	require.Panics(t, func() { sendqtest.NewConn().Slow(1, 0) })
}

// A peer fails after some bytes, and from then on. A stalled one stalls first.
func TestFailAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sendqtest.NewConn()
		c.FailAfter(9, errBroken)
		require.Equal(t, result{7, nil}, <-write(c, "message"))
		require.Equal(t, result{2, errBroken}, <-write(c, "message"))
		require.Equal(t, result{0, nil}, <-write(c, ""))
		require.Equal(t, result{0, errBroken}, <-write(c, "message"))
		require.Equal(t, "messageme", string(c.Bytes()))

		c = sendqtest.NewConn()
		c.FailAfter(0, errBroken)
		c.Stall()
		done := write(c, "message")
		synctest.Wait()
		require.Empty(t, done)
		c.Release()
		require.Equal(t, result{0, errBroken}, <-done)
	})
}

// A Write that waits ends with the connection, with its peer, or at its deadline.
func TestEndsWrite(t *testing.T) {
	for name, tt := range map[string]struct {
		end  func(c *sendqtest.Conn)
		want string
	}{
		"Close":    {func(c *sendqtest.Conn) { c.Close() }, "use of closed network connection"},
		"Hangup":   {func(c *sendqtest.Conn) { c.Hangup() }, "broken pipe"},
		"deadline": {func(c *sendqtest.Conn) { c.SetDeadline(time.Now().Add(time.Minute)) }, "i/o timeout"},
		"past":     {func(c *sendqtest.Conn) { c.SetWriteDeadline(time.Unix(1, 0)) }, "i/o timeout"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := sendqtest.NewConn()
				c.Stall()
				c.Take(2)
				done := write(c, "message")
				synctest.Wait()
				tt.end(c)
				r := <-done
				require.Equal(t, 2, r.n)
				require.EqualError(t, r.err, tt.want)
				c.Release()
				r = <-write(c, "message")
				require.Zero(t, r.n)
				require.EqualError(t, r.err, tt.want)
			})
		})
	}
}

// A deadline can be moved and removed.
func TestDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sendqtest.NewConn()
		c.Stall()
		began := time.Now()
		require.NoError(t, c.SetWriteDeadline(began.Add(time.Second)))
		done := write(c, "message")
		synctest.Wait()
		require.NoError(t, c.SetWriteDeadline(began.Add(time.Minute)))
		require.ErrorIs(t, (<-done).err, os.ErrDeadlineExceeded)
		require.Equal(t, time.Minute, time.Since(began))

		require.NoError(t, c.SetWriteDeadline(time.Time{}))
		done = write(c, "message")
		time.Sleep(time.Hour)
		require.Empty(t, done)
		c.Release()
		require.NoError(t, (<-done).err)
		require.NoError(t, c.SetWriteDeadline(time.Now().Add(time.Minute)))
		require.NoError(t, c.Close()) // and no timer is left
		require.ErrorIs(t, c.Close(), net.ErrClosed)
	})
}

// A peer sends, and goes.
func TestFeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := sendqtest.NewConn()
		c.Feed("hel")
		go func() {
			time.Sleep(time.Second)
			c.Feed("lo")
			time.Sleep(time.Second)
			c.Hangup()
		}()
		require.NoError(t, iotest.TestReader(c, []byte("hello")))
		c.SetReadDeadline(time.Now().Add(-1))
		_, err := c.Read(make([]byte, 1))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)

		c = sendqtest.NewConn()
		c.SetDeadline(time.Now().Add(time.Second))
		_, err = c.Read(make([]byte, 1))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		c.SetReadDeadline(time.Time{})
		go func() {
			time.Sleep(time.Second)
			c.Close()
		}()
		_, err = c.Read(make([]byte, 1))
		require.ErrorIs(t, err, net.ErrClosed)
	})
}

// Wrap is for a peer elsewhere.
func TestWrap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner, peer := net.Pipe()
		c := sendqtest.Wrap(inner)
		require.Equal(t, inner, c.NetConn())
		require.Equal(t, inner.LocalAddr(), c.LocalAddr())
		require.Equal(t, inner.RemoteAddr(), c.RemoteAddr())
		c.Stall()
		c.Take(3)
		done := write(c, "message")
		p := make([]byte, 100)
		n, err := peer.Read(p)
		require.NoError(t, err)
		require.Equal(t, "mes", string(p[:n]))
		c.Release()
		n, err = peer.Read(p)
		require.NoError(t, err)
		require.Equal(t, "sage", string(p[:n]))
		require.Equal(t, result{7, nil}, <-done)
		require.Equal(t, []int{7}, c.Sizes())

		go peer.Write([]byte("hello"))
		n, err = c.Read(p)
		require.NoError(t, err)
		require.Equal(t, "hello", string(p[:n]))
		require.NoError(t, c.SetDeadline(time.Now().Add(time.Second)))
		_, err = c.Read(p)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.ErrorIs(t, (<-write(c, "nobody reads")).err, os.ErrDeadlineExceeded)

		for _, f := range []func(){func() { c.Feed("") }, c.Hangup, func() { c.Bytes() }} {
			require.Panics(t, f)
		}
		c.Stall()
		require.NoError(t, c.SetDeadline(time.Time{}))
		done = write(c, "message")
		synctest.Wait()
		require.NoError(t, c.Close())
		require.ErrorIs(t, (<-done).err, net.ErrClosed)
		_, err = peer.Read(p)
		require.ErrorIs(t, err, io.EOF)
	})
}

// A Writer ends as its documentation says, whatever the peer does.
func TestWriter(t *testing.T) {
	for name, tt := range map[string]struct {
		peer func(c *sendqtest.Conn)
		opts sendq.WriterOptions
		want error
	}{
		"takes all": {func(*sendqtest.Conn) {}, sendq.WriterOptions{}, nil},
		"stalls":    {func(c *sendqtest.Conn) { c.Stall() }, sendq.WriterOptions{WriteTimeout: time.Minute}, sendq.ErrSlowConsumer},
		"is slow":   {func(c *sendqtest.Conn) { c.Slow(1, time.Second) }, sendq.WriterOptions{WriteTimeout: time.Minute}, nil},
		"fails":     {func(c *sendqtest.Conn) { c.FailAfter(1, errBroken) }, sendq.WriterOptions{}, errBroken},
		"is closed": {func(c *sendqtest.Conn) { c.Close() }, sendq.WriterOptions{}, net.ErrClosed},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := sendqtest.NewConn()
				tt.peer(c)
				w := sendq.NewWriter(c, &tt.opts)
				w.WriteString("message")
				require.ErrorIs(t, w.Flush(t.Context()), tt.want)
				w.Close()
				require.ErrorIs(t, w.Err(), tt.want)
			})
		})
	}
}

// The example is a test that passes.
func TestServe(t *testing.T) { testServe(t) }

func TestMessages(t *testing.T) {
	prefixed := func(size int, message string) string {
		var p []byte
		switch size {
		case 1:
			p = []byte{byte(len(message))}
		case 2:
			p = binary.BigEndian.AppendUint16(p, uint16(len(message)))
		case 4:
			p = binary.BigEndian.AppendUint32(p, uint32(len(message)))
		case 8:
			p = binary.BigEndian.AppendUint64(p, uint64(len(message)))
		}
		return string(p) + message
	}
	refused := func([]byte, bool) (int, []byte, error) { return 0, nil, errBroken }
	type test struct {
		name, p  string
		split    bufio.SplitFunc
		messages []string
		rest     string
	}
	tests := []test{
		{"nothing", "", bufio.ScanLines, nil, ""},
		{"lines", "one\n\r\ntwo\r\n", bufio.ScanLines, []string{"one", "", "two"}, ""},
		{"part of a line", "one\ntw", bufio.ScanLines, []string{"one"}, "tw"},
		{"words", " one two ", bufio.ScanWords, []string{"one", "two"}, ""},
		{"refused", "one", refused, nil, "one"},
		{"a length too large", "\xff\xff\xff\xff\xff\xff\xff\xffone", sendqtest.LengthPrefix(8), nil, "\xff\xff\xff\xff\xff\xff\xff\xffone"},
	}
	for _, size := range []int{1, 2, 4, 8} {
		whole := prefixed(size, "one") + prefixed(size, "") + prefixed(size, strings.Repeat("x", 255))
		part := prefixed(size, "part")[:size+3]
		tests = append(tests, test{"prefix", whole + part, sendqtest.LengthPrefix(size), []string{"one", "", strings.Repeat("x", 255)}, part},
			test{"part of a prefix", whole + part[:size-1], sendqtest.LengthPrefix(size), []string{"one", "", strings.Repeat("x", 255)}, part[:size-1]})
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			messages, rest := sendqtest.Messages([]byte(tt.p), tt.split)
			require.Equal(t, tt.messages, messages)
			require.Equal(t, tt.rest, rest)
		})
	}
	require.Panics(t, func() { sendqtest.LengthPrefix(3) })
	require.True(t, bytes.Equal(nil, sendqtest.NewConn().Bytes()))
}
