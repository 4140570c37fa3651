package main

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"
)

// get asks for a path of the site, and returns the answer with its body read.
func (p *process) get(client *http.Client, path string, header http.Header) (*http.Response, string) {
	r, err := http.NewRequestWithContext(p.t.Context(), http.MethodGet, p.page+path, nil)
	require.NoError(p.t, err)
	r.Header = header
	answer, err := client.Do(r)
	require.NoError(p.t, err)
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	require.NoError(p.t, err)
	return answer, string(body)
}

func (p *process) dialOrigin(origin string) (*http.Response, error) {
	conn, answer, err := websocket.Dial(p.t.Context(), p.page+"/ws", &websocket.DialOptions{HTTPHeader: http.Header{"Origin": {origin}}})
	if err == nil {
		p.t.Cleanup(func() { conn.CloseNow() })
	}
	return answer, err
}

func TestOrigins(t *testing.T) {
	t.Parallel()
	p := start(t, "-origin", "https://friend.example")
	for _, origin := range []string{p.page, "https://friend.example"} {
		_, err := p.dialOrigin(origin)
		require.NoError(t, err, origin)
	}
	for _, origin := range []string{"https://foe.example", "null", "http://friend.example", p.page + "0", "::"} {
		answer, err := p.dialOrigin(origin)
		require.Error(t, err, origin)
		require.Equal(t, http.StatusForbidden, answer.StatusCode)
		body, err := io.ReadAll(answer.Body)
		require.NoError(t, err)
		require.Contains(t, string(body), "this origin may not use the chat: "+origin)
	}
}

func TestPlainHTTP(t *testing.T) {
	t.Parallel()
	p := start(t)
	for path, kind := range map[string]string{"/": "text/html", "/status": "text/html", "/style.css": "text/css", "/main.js": "text/javascript"} {
		answer, _ := p.get(http.DefaultClient, path, nil)
		require.Equal(t, http.StatusOK, answer.StatusCode, path)
		require.Contains(t, answer.Header.Get("Content-Type"), kind)
		require.Contains(t, answer.Header.Get("Content-Security-Policy"), "default-src 'self'")
	}
	conn, err := net.Dial("tcp", strings.TrimPrefix(p.page, "http://"))
	require.NoError(t, err)
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	_, err = io.WriteString(conn, "GET /ws HTTP/1.1\r\nHost: x\r\n\r\n")
	require.NoError(t, err)
	answers := bufio.NewReader(conn)
	answer, err := http.ReadResponse(answers, nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusBadRequest, answer.StatusCode, "it is no WebSocket")
	_, err = io.Copy(io.Discard, answer.Body)
	require.NoError(t, err)
	_, err = io.WriteString(conn, "HEAD /status/events HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	require.NoError(t, err)
	answer, err = http.ReadResponse(answers, &http.Request{Method: http.MethodHead})
	require.NoError(t, err, "the connection has stayed")
	require.Equal(t, http.StatusOK, answer.StatusCode)
	_, err = io.ReadAll(answers)
	require.NoError(t, err, "it ends")
	answer, _ = p.get(http.DefaultClient, "/", http.Header{"X-Long": {strings.Repeat("x", 20<<10)}})
	require.Equal(t, http.StatusRequestHeaderFieldsTooLarge, answer.StatusCode)
}

func TestPerAddress(t *testing.T) {
	t.Parallel()
	p := start(t, "-per-address", "2")
	alice := login(p.open(), "alice")
	login(p.dial(), "bob") // counts as well
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answer, body := p.get(client, "/", nil)
	require.Equal(t, http.StatusServiceUnavailable, answer.StatusCode)
	require.Contains(t, body, "more than 2 connections")

	for path, code := range map[string]int{"/": http.StatusServiceUnavailable, "/ws": http.StatusMethodNotAllowed} {
		answer, err := http.Post(p.page+path, "", nil)
		require.NoError(t, err)
		answer.Body.Close()
		require.Equal(t, code, answer.StatusCode)
		require.True(t, answer.Close, "the connection does not stay")
	}

	refused := p.open()
	require.Equal(t, "error: your address has more than 2 connections", refused.hear())
	_, _, err := refused.Read(t.Context())
	require.Equal(t, websocket.StatusPolicyViolation, websocket.CloseStatus(err), err)

	require.NoError(t, alice.Close(websocket.StatusNormalClosure, ""))
	require.Eventually(t, func() bool { // the server has noticed
		answer, _ := p.get(client, "/", nil)
		return answer.StatusCode == http.StatusOK
	}, patience, time.Millisecond)
}

func TestRate(t *testing.T) {
	t.Parallel()
	p := start(t) // with the default
	bob := login(p.open(), "bob")
	for range 100 {
		bob.say("/who #nobody")
	}
	for bob.hear() != "error: slow down: more than 10 lines a second are not heard" {
	}
}

// TestMessageTooLong: the header tells, or the fragments. A message of the longest length is fine.
func TestMessageTooLong(t *testing.T) {
	t.Parallel()
	p := start(t)
	bob := login(p.open(), "bob")
	text := strings.Repeat("x", maxMessage-len("bob: "))
	bob.say("bob: " + text)
	require.Equal(t, "from bob: "+text, bob.hear())
	w, err := bob.Writer(t.Context(), websocket.MessageText)
	require.NoError(t, err)
	for range 2 {
		_, _ = io.WriteString(w, text) // may fail, because the header of a frame is refused
	}
	_, _, err = bob.Read(t.Context())
	require.Equal(t, websocket.StatusMessageTooBig, websocket.CloseStatus(err), err)

	carol := login(p.open(), "carol")
	_ = carol.Write(t.Context(), websocket.MessageText, []byte("bob: x"+text))
	_, _, err = carol.Read(t.Context())
	require.Equal(t, websocket.StatusMessageTooBig, websocket.CloseStatus(err), err)
}

func TestSilence(t *testing.T) {
	if testing.Short() {
		t.Skip("takes as long as the server gives a browser for its login")
	}
	t.Parallel()
	p := start(t)
	silent := p.open()
	var unfinished []net.Conn
	for _, request := range []string{"GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n"} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(p.page, "http://"))
		require.NoError(t, err)
		defer conn.Close()
		_, err = io.WriteString(conn, request)
		require.NoError(t, err)
		unfinished = append(unfinished, conn)
	}

	require.Contains(t, silent.hear(), "error: the first line must be your login, within 10s")
	_, _, err := silent.Read(t.Context())
	require.Equal(t, websocket.StatusPolicyViolation, websocket.CloseStatus(err), err)
	for _, conn := range unfinished {
		_ = conn.SetReadDeadline(time.Now().Add(patience))
		_, err = io.ReadAll(conn)
		require.NoError(t, err)
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	p := start(t, "-tls-self-signed", "-rate", "0")
	require.True(t, strings.HasPrefix(p.page, "https://"))
	trusting := &tls.Config{InsecureSkipVerify: true}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: trusting}}
	answer, _ := p.get(client, "/", nil)
	require.Equal(t, http.StatusOK, answer.StatusCode)

	web, _, err := websocket.Dial(t.Context(), p.page+"/ws", &websocket.DialOptions{HTTPClient: client})
	require.NoError(t, err)
	web.SetReadLimit(1 << 20)
	alice := login(&webUser{t, web}, "alice")
	conn, err := tls.Dial("tcp", p.lines, trusting)
	require.NoError(t, err)
	defer conn.Close()
	bob := login(&tcpUser{t, conn, bufio.NewReader(conn)}, "bob")
	text := strings.Repeat("x", 60_000)
	for range 100 {
		bob.say("alice: " + text)
	}
	bob.say("/who #nobody")
	require.Equal(t, "names: ", bob.hear())
	alice.say("/quit", "bob: not heard")
	for range 100 {
		require.Equal(t, "from bob: "+text, alice.hear())
	}
	_, _, err = alice.Read(t.Context())
	require.Equal(t, websocket.StatusNormalClosure, websocket.CloseStatus(err), err)
	bob.say("bob: end")
	require.Equal(t, "from bob: end", bob.hear())
}

// TestDemo: the backlog of a stalled user grows to the limit, and the status shows it. Others do not
// notice.
func TestDemo(t *testing.T) {
	t.Parallel()
	p := start(t, "-demo", "-rate", "0")
	alice, bob := login(p.open(), "alice"), login(p.open(), "bob")
	status := p.status()
	require.True(t, status().Demo)
	bob.say("/stall 300", "/join #lobby")
	var s snapshot
	for s = status(); len(s.Stalled) == 0 || len(s.Backlogs) == 0; s = status() {
	}
	require.Equal(t, []string{"bob"}, s.Stalled)
	require.Equal(t, "bob", s.Backlogs[0].Name)
	require.Equal(t, demoMaxPending, s.Backlogs[0].MaxPending)
	for range 10 {
		alice.say("bob: " + strings.Repeat("x", 30_000))
	}
	alice.say("alice: still here")
	for line := alice.hear(); line != "from alice: still here"; line = alice.hear() {
		require.Contains(t, line, "error: ") // bob has left, or is unknown
	}
	for s = status(); s.Ends["slow_consumer"] == 0; s = status() {
	}
	require.Empty(t, s.Stalled)
	require.Contains(t, p.stop(), "WARN connection lost user=bob")
}

// TestAway: a user who is away is no connection, and the status shows their backlog as such.
func TestAway(t *testing.T) {
	t.Parallel()
	p := start(t, "-resume")
	alice, bob := login(p.open(), "alice"), p.open()
	bob.say("bob")
	bob.hear() // the key
	require.NoError(t, bob.CloseNow())
	status := p.status()
	s := status()
	for ; s.Away == 0; s = status() {
	}
	s = status() // the Writer of the connection may have ended a moment later
	require.Equal(t, []int{1, 1, 2}, []int{s.Connections, s.Away, s.Names})
	alice.say("bob: hi")
	for ; len(s.Backlogs) == 0; s = status() {
	}
	require.Equal(t, "bob", s.Backlogs[0].Name)
	require.True(t, s.Backlogs[0].Away)
	require.Zero(t, s.Backlogs[0].MaxPending)
}

func TestNoDemo(t *testing.T) {
	t.Parallel()
	p := start(t)
	bob := login(p.dial(), "bob")
	bob.say("/stall 30")
	require.Contains(t, bob.hear(), "error: type a message")
	require.False(t, p.status()().Demo)
}

// status returns a function that returns the next snapshot.
func (p *process) status() (next func() snapshot) {
	r, err := http.NewRequestWithContext(p.t.Context(), http.MethodGet, p.page+"/status/events", nil)
	require.NoError(p.t, err)
	answer, err := http.DefaultClient.Do(r)
	require.NoError(p.t, err)
	p.t.Cleanup(func() { answer.Body.Close() })
	require.Equal(p.t, "text/event-stream", answer.Header.Get("Content-Type"))
	lines := bufio.NewReader(answer.Body)
	return func() (s snapshot) {
		line, err := lines.ReadString('\n')
		require.NoError(p.t, err)
		_, err = lines.ReadString('\n')
		require.NoError(p.t, err)
		require.NoError(p.t, json.Unmarshal([]byte(strings.TrimPrefix(line, "data: ")), &s))
		return s
	}
}
