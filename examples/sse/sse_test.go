package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq/internal/missing"
)

// TestMain lets the tests start the program itself: the test binary becomes it when it finds
// this variable.
func TestMain(m *testing.M) {
	if os.Getenv("RUN_SSE") == "" {
		os.Exit(m.Run())
	}
	main()
}

// patience bounds every wait. It is never reached unless something is wrong.
const patience = 30 * time.Second

// versions are those of HTTP.
var versions = []string{"HTTP/1.1", "HTTP/2.0"}

// serve serves a new feed over TLS, with the given version of HTTP, after changes of the server.
func serve(t *testing.T, version string, changes ...func(*http.Server)) (*feed, *httptest.Server) {
	f := newFeed()
	server := httptest.NewUnstartedServer(nil)
	server.Config = f.server()
	server.Config.Protocols.SetHTTP2(version == "HTTP/2.0")
	server.EnableHTTP2 = version == "HTTP/2.0"
	for _, change := range changes {
		change(server.Config)
	}
	server.StartTLS()
	t.Cleanup(func() {
		f.broker.CloseNow()
		server.Close()
	})
	return f, server
}

// A client reads a stream.
type client struct {
	t        *testing.T
	response *http.Response
	lines    *bufio.Scanner
}

// connect returns a client whose last event had the given ID, once it is a member of the room.
func connect(t *testing.T, f *feed, server *httptest.Server, version, lastID string) *client {
	before := f.joined()
	request, err := http.NewRequestWithContext(t.Context(), "GET", server.URL+"/events", nil)
	require.NoError(t, err)
	request.Header.Set("Last-Event-ID", lastID)
	response, err := server.Client().Do(request)
	require.NoError(t, err)
	t.Cleanup(func() { response.Body.Close() })
	require.Equal(t, version, response.Proto)
	require.Equal(t, http.StatusOK, response.StatusCode)
	require.Equal(t, "text/event-stream", response.Header.Get("Content-Type"))
	require.Equal(t, "no", response.Header.Get("X-Accel-Buffering"))
	require.Eventually(t, func() bool { return f.joined() > before }, patience, time.Millisecond)
	return &client{t, response, bufio.NewScanner(response.Body)}
}

// joined returns the number of clients that have joined so far.
func (f *feed) joined() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.clients
}

// next returns the next event: its type, ID and data.
func (c *client) next() (kind, id, data string) {
	guard := time.AfterFunc(patience, func() { c.response.Body.Close() })
	defer guard.Stop()
	var lines []string
	for c.lines.Scan() {
		field, value, _ := strings.Cut(c.lines.Text(), ": ")
		switch field {
		case "event":
			kind = value
		case "id":
			id = value
		case "data":
			lines = append(lines, value)
		case "":
			return kind, id, strings.Join(lines, "\n")
		default:
			require.Fail(c.t, "no field of an event", c.lines.Text())
		}
	}
	require.Fail(c.t, "no event", "%v", c.lines.Err())
	return "", "", ""
}

func (c *client) expect(want string) (id string) {
	c.t.Helper()
	kind, id, data := c.next()
	require.Equal(c.t, want, data)
	require.Empty(c.t, kind)
	return id
}

// All clients see what one posts, at once.
func TestPost(t *testing.T) {
	for _, version := range versions {
		t.Run(version, func(t *testing.T) {
			f, server := serve(t, version)
			alice, bob := connect(t, f, server, version, ""), connect(t, f, server, version, "")
			for _, text := range []string{"hello", "two\r\nlines\nor\rfour", "", "data: no", "ä€😀"} {
				response, err := server.Client().Post(server.URL+"/events", "text/plain", strings.NewReader(text))
				require.NoError(t, err)
				require.NoError(t, response.Body.Close())
				require.Equal(t, http.StatusNoContent, response.StatusCode)
				want := strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(text)
				require.Equal(t, alice.expect(want), bob.expect(want))
			}
			f.broker.Close()
			for _, c := range []*client{alice, bob} {
				require.False(t, c.lines.Scan())
				require.NoError(t, c.lines.Err(), "the response is whole")
			}
		})
	}
}

// A client that comes back gets what it has missed, in order and once, or is told how much is lost.
func TestResume(t *testing.T) {
	f, server := serve(t, "HTTP/2.0")
	connectAt := func(t *testing.T, id string) *client { return connect(t, f, server, "HTTP/2.0", id) }
	publish := func(from, to int) {
		for i := from; i <= to; i++ {
			f.publish(fmt.Sprint(i))
		}
	}
	first := connectAt(t, "")
	publish(1, 3)
	ids := []string{""}
	for i := 1; i <= 3; i++ {
		ids = append(ids, first.expect(fmt.Sprint(i)))
	}
	for _, tt := range []struct {
		name, id string
		from     int
	}{
		{"missed two", ids[1], 2},
		{"missed nothing", ids[3], 4},
		{"new", "", 1},
		{"of an earlier run", "17.2", 1},
		{"of the future", f.run + ".99", 1},
		{"garbage", "%d -?", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := connectAt(t, tt.id)
			f.publish(tt.name)
			for i := tt.from; i <= 3; i++ {
				c.expect(fmt.Sprint(i))
			}
			for { // the names of tests before this one
				if _, _, data := c.next(); data == tt.name {
					return
				}
			}
		})
	}

	last := connectAt(t, "").response.Body // nobody reads this one
	defer last.Close()
	before := f.last
	publish(1, kept+5)
	c := connectAt(t, fmt.Sprintf("%s.%d", f.run, before))
	kind, _, data := c.next()
	require.Equal(t, "lost", kind)
	require.Equal(t, "5", data)
	for i := 6; i <= kept+5; i++ {
		c.expect(fmt.Sprint(i))
	}
}

// A client that goes, or does not read, is forgotten. Others get everything.
func TestGone(t *testing.T) {
	for _, version := range versions {
		t.Run(version, func(t *testing.T) {
			f, server := serve(t, version)
			alice, bob := connect(t, f, server, version, ""), connect(t, f, server, version, "")
			require.NoError(t, bob.response.Body.Close())
			require.Eventually(t, func() bool { return f.broker.Len() == 2 }, patience, time.Millisecond)

			connect(t, f, server, version, "") // and does not read
			event := strings.Repeat("x", maxEvent)
			for f.broker.Len() > 2 {
				f.publish(event)
				alice.expect(event)
			}
		})
	}
}

// Pages of other sites cannot post, and nobody can post much.
func TestPostRefused(t *testing.T) {
	f, server := serve(t, "HTTP/1.1")
	for name, tt := range map[string]struct {
		site, text string
		want       int
	}{
		"other site": {"cross-site", "hello", http.StatusForbidden},
		"too long":   {"same-origin", strings.Repeat("x", maxEvent+1), http.StatusBadRequest},
	} {
		request, err := http.NewRequest("POST", server.URL+"/events", strings.NewReader(tt.text))
		require.NoError(t, err)
		request.Header.Set("Sec-Fetch-Site", tt.site)
		response, err := server.Client().Do(request)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		require.Equal(t, tt.want, response.StatusCode, name)
	}
	require.Zero(t, f.last)
}

// A stream outlives the timeouts of the server, which are for short responses.
func TestLongStream(t *testing.T) {
	for _, version := range versions {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			f, server := serve(t, version, func(s *http.Server) {
				s.ReadTimeout, s.WriteTimeout = time.Second, time.Second
			})
			c := connect(t, f, server, version, "")
			time.Sleep(2 * time.Second)
			f.publish("hello")
			c.expect("hello")
		})
	}
}

// A wrapper of the response that hides Flush is refused, unless it has Unwrap.
func TestMiddleware(t *testing.T) {
	for _, tt := range []struct {
		wrap func(http.ResponseWriter) http.ResponseWriter
		want int
	}{
		{func(rw http.ResponseWriter) http.ResponseWriter { return struct{ http.ResponseWriter }{rw} }, http.StatusInternalServerError},
		{func(rw http.ResponseWriter) http.ResponseWriter { return unwrapper{rw} }, http.StatusOK},
	} {
		_, server := serve(t, "HTTP/1.1", func(s *http.Server) {
			inner := s.Handler
			s.Handler = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { inner.ServeHTTP(tt.wrap(rw), r) })
		})
		response, err := server.Client().Get(server.URL + "/events")
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		require.Equal(t, tt.want, response.StatusCode)
	}
}

type unwrapper struct{ http.ResponseWriter }

func (u unwrapper) Unwrap() http.ResponseWriter { return u.ResponseWriter }

// start runs the program, and returns its address and a function that ends it.
func start(t *testing.T) (addr string, stop func() error) {
	if runtime.GOOS == "windows" {
		t.Skip("needs a signal that ends a program, and Windows has none")
	}
	cmd := command("-addr", "127.0.0.1:0")
	stderr, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	line, err := bufio.NewReader(stderr).ReadString('\n')
	require.NoError(t, err)
	addr, found := strings.CutPrefix(strings.TrimSpace(line), "listening on ")
	require.True(t, found, line)
	return addr, func() error {
		require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
		return cmd.Wait()
	}
}

func command(args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...)
	// The race detector would have it sleep for a second before it exits.
	cmd.Env = append(os.Environ(), "RUN_SSE=1", "GORACE=atexit_sleep_ms=0")
	return cmd
}

// The commands in the documentation work, and a stream ends whole when the program stops.
func TestCurl(t *testing.T) {
	version, err := exec.Command("curl", "--version").Output()
	if err != nil || !strings.Contains(string(version), "HTTP2") {
		missing.Skip(t, "curl with HTTP/2, from the package of that name")
	}
	for _, flag := range []string{"--http1.1", "--http2-prior-knowledge"} {
		t.Run(flag, func(t *testing.T) {
			addr, stop := start(t)
			stream := exec.Command("curl", flag, "-sSN", "http://"+addr+"/events")
			stdout, err := stream.StdoutPipe()
			require.NoError(t, err)
			stream.Stderr = os.Stderr
			require.NoError(t, stream.Start())
			guard := time.AfterFunc(patience, func() { _ = stream.Process.Kill() })
			defer guard.Stop()
			post := func(text string) {
				output, err := exec.Command("curl", flag, "-sS", "-d", text, "http://"+addr+"/events").CombinedOutput()
				require.NoError(t, err)
				require.Empty(t, output)
			}
			post("hello")
			lines := bufio.NewScanner(stdout)
			next := func() string {
				require.True(t, lines.Scan())
				return lines.Text()
			}
			id := strings.TrimPrefix(next(), "id: ")
			require.Equal(t, []string{"data: hello", ""}, []string{next(), next()})
			post("again")
			require.Equal(t, []string{strings.TrimSuffix("id: "+id, "1") + "2", "data: again", ""}, []string{next(), next(), next()})

			back := exec.Command("curl", flag, "-sSN", "-H", "Last-Event-ID: "+id, "http://"+addr+"/events")
			missed, err := back.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, back.Start())
			first := make([]byte, len("id: "+id+"\ndata: again\n\n"))
			_, err = io.ReadFull(missed, first)
			require.NoError(t, err)
			require.Equal(t, "id: "+id[:len(id)-1]+"2\ndata: again\n\n", string(first))

			require.NoError(t, stop())
			require.False(t, lines.Scan())
			require.NoError(t, stream.Wait(), "the response is whole")
			_, _ = io.Copy(io.Discard, missed)
			require.NoError(t, back.Wait())
		})
	}
}

// The program stops although clients stay, and refuses arguments that it does not know.
func TestProgram(t *testing.T) {
	addr, stop := start(t)
	conn, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	defer conn.Close()
	fmt.Fprintf(conn, "GET /events HTTP/1.1\r\nHost: %s\r\n\r\n", addr)
	in := bufio.NewReader(conn)
	line, err := in.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "HTTP/1.1 200 OK\r\n", line)
	require.NoError(t, stop())

	for _, tt := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"-h"}, 0, "-addr address"},
		{[]string{"-nosuch"}, 2, "flag provided but not defined: -nosuch"},
		{[]string{"nosuch"}, 1, `sse: unexpected argument "nosuch"; -help lists the flags`},
		{[]string{"-addr", "nosuch"}, 1, "sse: listen tcp: address nosuch: missing port in address"},
	} {
		cmd := command(tt.args...)
		output, _ := cmd.CombinedOutput()
		require.Equal(t, tt.code, cmd.ProcessState.ExitCode(), "%s", output)
		require.Contains(t, string(output), tt.want)
	}
}
