package sendq_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
)

// overHTTP runs test with a server of each version of HTTP.
func overHTTP(t *testing.T, test func(t *testing.T, serve func(http.HandlerFunc) *http.Response)) {
	for _, version := range []string{"HTTP/1.1", "HTTP/2.0"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			test(t, func(handler http.HandlerFunc) *http.Response {
				server := httptest.NewUnstartedServer(handler)
				server.EnableHTTP2 = version == "HTTP/2.0"
				server.StartTLS()
				t.Cleanup(server.Close)
				response, err := server.Client().Get(server.URL)
				require.NoError(t, err)
				t.Cleanup(func() { response.Body.Close() })
				require.Equal(t, version, response.Proto)
				return response
			})
		})
	}
}

// responseConn returns the net.Conn of a response, and sends its header.
func responseConn(rw http.ResponseWriter) net.Conn {
	controller := http.NewResponseController(rw)
	controller.Flush()
	return sendq.StreamConn(struct {
		io.Writer
		*http.ResponseController
	}{rw, controller})
}

// Many goroutines send, and the client gets each message at once, whole and in order.
func TestStreamConnHTTP(t *testing.T) {
	overHTTP(t, func(t *testing.T, serve func(http.HandlerFunc) *http.Response) {
		const senders, messages = 8, 50
		seen := make(chan struct{})
		response := serve(func(rw http.ResponseWriter, r *http.Request) {
			w := sendq.NewWriter(responseConn(rw), patient)
			w.WriteString("first\n")
			<-seen
			var all sync.WaitGroup
			for sender := range senders {
				all.Go(func() {
					for number := range messages {
						w.Write(frame(sender, number, size(number)))
					}
				})
			}
			all.Wait()
			if err := w.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		})
		in := bufio.NewReader(response.Body)
		line, err := in.ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, "first\n", line)
		close(seen)
		received := receive(in)
		require.NoError(t, received.err)
		require.Len(t, received.order, senders)
		for _, numbers := range received.order {
			require.Equal(t, upTo(messages), numbers)
		}
	})
}

// A client that does not read keeps no handler. The Writer's write is stuck when it ends.
func TestStreamConnHTTPStalled(t *testing.T) {
	for name, tt := range map[string]struct {
		opts sendq.WriterOptions
		end  func(w *sendq.Writer)
		want error
	}{
		"WriteTimeout": {sendq.WriterOptions{WriteTimeout: 200 * time.Millisecond}, func(*sendq.Writer) {}, sendq.ErrSlowConsumer},
		"MaxPending":   {sendq.WriterOptions{MaxPending: 32 << 20}, func(w *sendq.Writer) { w.Send(make([]byte, 16<<20)) }, sendq.ErrSlowConsumer},
		"CloseTimeout": {sendq.WriterOptions{CloseTimeout: 200 * time.Millisecond}, func(w *sendq.Writer) { w.Close() }, context.DeadlineExceeded},
		"CloseNow":     {sendq.WriterOptions{}, func(w *sendq.Writer) { w.CloseNow() }, sendq.ErrClosed},
	} {
		t.Run(name, func(t *testing.T) {
			overHTTP(t, func(t *testing.T, serve func(http.HandlerFunc) *http.Response) {
				ended := make(chan error, 1)
				serve(func(rw http.ResponseWriter, r *http.Request) {
					w := sendq.NewWriter(responseConn(rw), &tt.opts)
					w.Send(make([]byte, 31<<20)) // more than the kernels of both ends hold
					time.Sleep(100 * time.Millisecond)
					tt.end(w)
					<-w.Done()
					ended <- w.Err()
				})
				require.ErrorIs(t, within(t, ended), tt.want)
			})
		})
	}
}

// A client goes. The context of its request ends, and so does a write.
func TestStreamConnHTTPGone(t *testing.T) {
	overHTTP(t, func(t *testing.T, serve func(http.HandlerFunc) *http.Response) {
		ended := make(chan error, 1)
		response := serve(func(rw http.ResponseWriter, r *http.Request) {
			w := sendq.NewWriter(responseConn(rw), nil)
			defer w.CloseNow()
			<-r.Context().Done()
			for w.Err() == nil {
				w.WriteString("anybody there?\n")
				time.Sleep(time.Millisecond)
			}
			ended <- w.Err()
		})
		require.NoError(t, response.Body.Close())
		require.Error(t, within(t, ended))
	})
}

// Writers end, by a write that fails, by Close and by CloseNow from elsewhere, all at once. When one
// has ended, its response is no longer in use, so the handler may return. The race detector sees a
// use after that.
func TestStreamConnLetsGo(t *testing.T) {
	t.Parallel()
	for _, isHTTP2 := range []bool{false, true} {
		writers := make(chan *sendq.Writer)
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			w := sendq.NewWriter(responseConn(rw), nil)
			writers <- w
			<-w.Done()
		}))
		server.EnableHTTP2 = isHTTP2
		server.StartTLS()
		for i := range sized(1000) {
			ctx, cancel := context.WithCancel(t.Context())
			request, err := http.NewRequestWithContext(ctx, "GET", server.URL, nil)
			require.NoError(t, err)
			response := async(func() *http.Response {
				response, _ := server.Client().Do(request)
				return response
			})
			w := within(t, writers)
			got := within(t, response)
			var all sync.WaitGroup
			all.Go(func() { w.Send(make([]byte, 1<<20)) })
			all.Go(func() { w.CloseNow() })
			if i%2 == 0 {
				all.Go(cancel)
			} else {
				all.Go(func() { io.Copy(io.Discard, got.Body) })
			}
			if i%3 == 0 {
				all.Go(func() { w.Close() })
			}
			all.Wait()
			cancel()
			got.Body.Close()
		}
		server.Close()
	}
}

// A stream records what is called.
type stream struct {
	bytes.Buffer
	calls    []string
	flushErr error
	stuck    chan struct{} // Write and Close wait until it is closed, if it is not nil
	unstick  sync.Once
}

func (s *stream) Write(p []byte) (int, error) {
	s.calls = append(s.calls, "Write")
	if s.stuck != nil {
		<-s.stuck
		return 0, os.ErrDeadlineExceeded
	}
	return s.Buffer.Write(p)
}

func (s *stream) Flush() error {
	s.calls = append(s.calls, "Flush")
	return s.flushErr
}

func (s *stream) SetWriteDeadline(at time.Time) error {
	if at.Before(time.Now()) && s.stuck != nil {
		s.unstick.Do(func() { close(s.stuck) })
	}
	return nil
}

func (s *stream) CloseWrite() error {
	s.calls = append(s.calls, "CloseWrite")
	return nil
}

func (s *stream) Close() error {
	s.calls = append(s.calls, "Close")
	return nil
}

// A Writer flushes each write, and closes the stream gently and at once.
func TestStreamConnClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := new(stream)
		w := sendq.NewWriter(sendq.StreamConn(s), patient)
		w.WriteString("message")
		began := time.Now()
		require.NoError(t, w.Close())
		require.Zero(t, time.Since(began))
		require.Equal(t, []string{"Write", "Flush", "CloseWrite", "Close"}, s.calls)
		require.Equal(t, "message", s.String())
	})
}

// A message that cannot be flushed is not written.
func TestStreamConnFlushFails(t *testing.T) {
	s := &stream{flushErr: errBroken}
	w := sendq.NewWriter(sendq.StreamConn(s), nil)
	w.WriteString("message")
	require.ErrorIs(t, w.Close(), errBroken)
	requireMessages(t, [][]byte{[]byte("message")}, w.Undelivered())
	require.Equal(t, []string{"Write", "Flush", "Close"}, s.calls)
}

// Every form of Flush counts, and a stream may have none.
func TestStreamConnFlushes(t *testing.T) {
	var out bytes.Buffer
	for name, w := range map[string]io.Writer{
		"Flush() error":      bufio.NewWriter(&out),
		"Flush()":            struct{ flusher }{flusher{bufio.NewWriter(&out)}},
		"FlushError() error": flushErrorer{flusher{bufio.NewWriter(&out)}},
		"none":               struct{ io.Writer }{&out},
	} {
		conn := sendq.StreamConn(w)
		n, err := conn.Write([]byte(name))
		require.NoError(t, err, name)
		require.Equal(t, len(name), n)
		require.Equal(t, name, out.String())
		out.Reset()
		require.NoError(t, conn.Close())
	}
}

// A flusher has the methods of an http.Flusher.
type flusher struct{ w *bufio.Writer }

func (f flusher) Write(p []byte) (int, error) { return f.w.Write(p) }
func (f flusher) Flush()                      { f.w.Flush() }

// A flushErrorer has a Flush that must not be used.
type flushErrorer struct{ flusher }

func (flushErrorer) Flush()              {}
func (f flushErrorer) FlushError() error { return f.w.Flush() }

// A stuck Write or Close of a stream is interrupted by a deadline, and a later Write fails.
func TestStreamConnInterrupts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stream{stuck: make(chan struct{})}
		conn := sendq.StreamConn(s)
		failed := async(func() error { return second(conn.Write([]byte("message"))) })
		synctest.Wait()
		require.NoError(t, conn.Close())
		require.ErrorIs(t, <-failed, os.ErrDeadlineExceeded)
		require.ErrorIs(t, conn.Close(), net.ErrClosed)
		require.ErrorIs(t, second(conn.Write([]byte("late"))), net.ErrClosed)
		require.Equal(t, []string{"Write", "Close"}, s.calls)

		s = &stream{stuck: make(chan struct{})}
		w := sendq.NewWriter(sendq.StreamConn(stuckClose{s}), &sendq.WriterOptions{CloseTimeout: time.Second})
		require.ErrorIs(t, w.Close(), os.ErrDeadlineExceeded)
	})
}

// A stuckClose has a Close that waits for the deadline.
type stuckClose struct{ *stream }

func (s stuckClose) Close() error { <-s.stuck; return os.ErrDeadlineExceeded }

// The owner of a stream may destroy it when Write or Close has returned. So both wait for calls of
// others that are under way.
func TestStreamConnWaits(t *testing.T) {
	s := &slowDeadline{stuck: make(chan struct{})}
	conn := sendq.StreamConn(s)
	inUse := async(func() bool {
		conn.Write([]byte("message"))
		return s.inUse.Load()
	})
	for !s.inUse.Load() { // until Write has begun, Close has nothing to interrupt
		runtime.Gosched()
	}
	require.NoError(t, conn.Close())
	require.False(t, within(t, inUse))

	synctest.Test(t, func(t *testing.T) {
		s := &stream{stuck: make(chan struct{})}
		conn := sendq.StreamConn(struct{ io.WriteCloser }{stuckClose{s}})
		go conn.Close()
		synctest.Wait()
		closed := async(conn.Close)
		synctest.Wait()
		require.Empty(t, closed)
		close(s.stuck)
		require.ErrorIs(t, <-closed, net.ErrClosed)
	})
}

// A slowDeadline takes its time to return from SetWriteDeadline after Write has returned.
type slowDeadline struct {
	stuck chan struct{}
	inUse atomic.Bool
}

func (s *slowDeadline) Write([]byte) (int, error) {
	s.inUse.Store(true)
	<-s.stuck
	return 0, os.ErrDeadlineExceeded
}

func (s *slowDeadline) SetWriteDeadline(time.Time) error {
	close(s.stuck)
	time.Sleep(50 * time.Millisecond)
	s.inUse.Store(false)
	return nil
}

// A deadline is not set if nothing is to be interrupted: what the owner of the stream writes later,
// such as the end of a response, must not fail.
func TestStreamConnKeepsDeadline(t *testing.T) {
	s := &stream{stuck: make(chan struct{})}
	require.NoError(t, sendq.StreamConn(s).Close())
	select {
	case <-s.stuck:
		require.Fail(t, "the deadline is set")
	default:
	}
}

// What a stream can do, its net.Conn can do.
func TestStreamConnMethods(t *testing.T) {
	conn, peer := tcpPair(t)
	s := sendq.StreamConn(conn)
	require.Equal(t, "sendq-stream", s.LocalAddr().Network())
	require.Equal(t, "sendq-stream", s.RemoteAddr().String())
	require.NoError(t, second(peer.Write([]byte("hello"))))
	requireTake(t, s, "hello")
	require.NoError(t, s.SetDeadline(time.Unix(1, 0)))
	require.ErrorIs(t, second(s.Read(make([]byte, 1))), os.ErrDeadlineExceeded)
	require.ErrorIs(t, second(s.Write([]byte("late"))), os.ErrDeadlineExceeded)

	s = sendq.StreamConn(struct{ io.Writer }{io.Discard})
	require.ErrorIs(t, second(s.Read(nil)), errors.ErrUnsupported)
	require.ErrorIs(t, s.SetReadDeadline(time.Time{}), errors.ErrUnsupported)
	require.ErrorIs(t, s.SetWriteDeadline(time.Time{}), errors.ErrUnsupported)
	require.ErrorIs(t, s.SetDeadline(time.Time{}), errors.ErrUnsupported)
	require.NoError(t, s.Close())
	require.PanicsWithValue(t, "sendq: StreamConn: w is nil", func() { sendq.StreamConn(nil) })
}

// Each message is one call, also an empty one, also if the conn is wrapped, and calls do not
// overlap.
func TestMessageConn(t *testing.T) {
	for _, isWrapped := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			const senders, messages = 8, 100
			var calls, together atomic.Int32
			var got []string
			conn := sendq.MessageConn(func(p []byte) error {
				if together.Add(1) > 1 {
					t.Error("two calls at once")
				}
				defer together.Add(-1)
				got = append(got, string(p))
				return nil
			}, func() error {
				calls.Add(1)
				return nil
			})
			if isWrapped {
				conn = struct{ net.Conn }{conn}
			}
			w := sendq.NewWriter(conn, patient)
			var all sync.WaitGroup
			for sender := range senders {
				all.Go(func() {
					for i := range messages {
						w.WriteString(fmt.Sprint(sender, i))
					}
				})
			}
			all.Wait()
			w.WriteString("")
			began := time.Now()
			require.NoError(t, w.Close())
			require.Zero(t, time.Since(began))
			require.Len(t, got, senders*messages+1)
			require.Empty(t, got[senders*messages])
			for sender := range senders {
				prefix := fmt.Sprint(sender, " ")
				own := slices.DeleteFunc(slices.Clone(got), func(m string) bool { return !strings.HasPrefix(m, prefix) })
				require.Len(t, own, messages)
				require.Equal(t, fmt.Sprint(sender, messages-1), own[messages-1])
			}
			require.NoError(t, w.CloseNow())
			require.EqualValues(t, 1, calls.Load())
		})
	}
}

// The function close makes a stuck call return, and no call begins after it.
func TestMessageConnStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		closed := make(chan struct{})
		conn := sendq.MessageConn(func(p []byte) error {
			select {
			case <-closed:
				t.Error("a call after close")
			default:
			}
			<-closed
			return errBroken
		}, func() error {
			close(closed)
			return nil
		})
		w := sendq.NewWriter(conn, &sendq.WriterOptions{MaxPending: 1000})
		w.WriteString("one")
		synctest.Wait()
		w.WriteString("two")
		require.ErrorIs(t, w.Send(make([]byte, 900)), sendq.ErrSlowConsumer)
		<-w.Done()
		requireMessages(t, [][]byte{[]byte("one"), []byte("two")}, w.Undelivered())
		require.ErrorIs(t, second(conn.Write([]byte("late"))), net.ErrClosed)
	})
}

// An error or a panic of a function is that of the Writer.
func TestMessageConnFails(t *testing.T) {
	fine := func() error { return nil }
	for name, tt := range map[string]struct {
		write func([]byte) error
		close func() error
		want  error
	}{
		"write":          {func([]byte) error { return errBroken }, fine, errBroken},
		"write panics":   {func([]byte) error { panic(errBroken) }, fine, errBroken},
		"close":          {func([]byte) error { return nil }, func() error { return errBroken }, errBroken},
		"close panics":   {func([]byte) error { return nil }, func() error { panic(errBroken) }, errBroken},
		"nothing, so it": {func([]byte) error { return nil }, fine, nil},
	} {
		t.Run(name, func(t *testing.T) {
			w := sendq.NewWriter(sendq.MessageConn(tt.write, tt.close), patient)
			w.WriteString("message")
			require.ErrorIs(t, w.Close(), tt.want)
			require.ErrorIs(t, w.Err(), tt.want)
		})
	}
	require.Panics(t, func() { sendq.MessageConn(nil, fine) })
	require.Panics(t, func() { sendq.MessageConn(func([]byte) error { return nil }, nil) })
}
