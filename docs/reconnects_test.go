package docs

import (
	"bufio"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/internal/missing"
)

// The client in reconnects.md shows every line once in a real browser, although its connection is
// reset again and again.
func TestReconnectsInABrowser(t *testing.T) {
	client := javaScript(t, "reconnects.md")
	broker := sendq.NewBroker(&sendq.BrokerOptions{Linger: patience})
	defer broker.CloseNow()
	resumed := make(chan net.Conn)
	shown := make(chan string, 1)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /", func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(rw, page, client)
	})
	mux.HandleFunc("GET /messages", func(rw http.ResponseWriter, r *http.Request) {
		serve(broker, accept(rw, r), resumed)
	})
	mux.HandleFunc("POST /shown", func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		shown <- string(body)
	})
	server := httptest.NewServer(mux)
	defer server.Close()
	openChromium(t, server.URL)

	var sent []string
	send := func(line string) {
		sent = append(sent, line)
		require.NoError(t, broker.Send("bob", []byte(line)))
	}
	for i := range 5 {
		conn := <-resumed
		for range 200 {
			send(fmt.Sprint("line ", len(sent)))
		}
		time.Sleep(time.Duration(i) * time.Millisecond) // some lines arrive
		require.NoError(t, conn.(*net.TCPConn).SetLinger(0))
		require.NoError(t, conn.Close())
		send("away")
	}
	<-resumed
	send("end")
	require.Equal(t, strings.Join(sent, "\n"), <-shown)
}

// page runs the client, and sends what it has shown to the server.
const page = `<!doctype html><script>%s
const lines = []
follow("ws://" + location.host + "/messages", "bob", line => {
  lines.push(line)
  if (line === "end") fetch("/shown", { method: "POST", body: lines.join("\n") })
}, why => lines.push(why))
</script>`

// serve is the server of ExampleBroker_Resume for messages of a WebSocket. It passes the connection
// on when it has the name.
func serve(broker *sendq.Broker, conn *socket, resumed chan<- net.Conn) {
	w := sendq.NewWriter(conn, &sendq.WriterOptions{Keep: 1 << 20, MessageFramed: true})
	defer w.CloseNow()
	first, _ := conn.read()
	var name string
	var received int64
	if _, err := fmt.Sscan(first, &name, &received); err != nil {
		return
	}
	answer := func(r sendq.Resumed) []byte { return fmt.Append(nil, "missed ", r.Missed) }
	if _, err := broker.Resume(context.Background(), name, w, received, answer); err != nil {
		return
	}
	resumed <- conn.Conn
	message, err := conn.read()
	for ; err == nil; message, err = conn.read() {
		if _, err := fmt.Sscanf(message, "ack %d", &received); err == nil {
			_ = w.Acknowledge(received)
		}
	}
	_ = w.Fail(err)
}

// A socket is a server's WebSocket connection, with one text message for each Write.
type socket struct {
	net.Conn
	r *bufio.Reader
}

func accept(rw http.ResponseWriter, r *http.Request) *socket {
	conn, buffered, err := http.NewResponseController(rw).Hijack()
	if err != nil {
		panic(err)
	}
	sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
		base64.StdEncoding.EncodeToString(sum[:]))
	return &socket{conn, buffered.Reader}
}

// Write sends a text message of less than 126 bytes.
func (s *socket) Write(p []byte) (int, error) {
	if _, err := s.Conn.Write(append([]byte{0x81, byte(len(p))}, p...)); err != nil {
		return 0, err
	}
	return len(p), nil
}

// read returns a text message of less than 126 bytes.
func (s *socket) read() (string, error) {
	var head [6]byte // with a mask
	if _, err := io.ReadFull(s.r, head[:]); err != nil {
		return "", err
	}
	p := make([]byte, head[1]&0x7f)
	_, err := io.ReadFull(s.r, p)
	for i := range p {
		p[i] ^= head[2+i%4]
	}
	return string(p), err
}

// javaScript returns the JavaScript of a document.
func javaScript(t *testing.T, document string) string {
	text, err := os.ReadFile(document)
	require.NoError(t, err)
	for _, b := range fence.FindAllStringSubmatch(string(text), -1) {
		if b[1] == "js" {
			return b[2]
		}
	}
	t.Fatal(document, "has no JavaScript")
	return ""
}

// openChromium opens a page in a browser without a window.
func openChromium(t *testing.T, url string) {
	path, err := exec.LookPath("chromium")
	if err != nil {
		path, err = exec.LookPath("google-chrome")
	}
	if err != nil {
		missing.Skip(t, "chromium, from the package of that name, or Chrome")
	}
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(context.Background())
	c := exec.CommandContext(ctx, path, "--headless", "--no-sandbox", "--disable-gpu", "--user-data-dir="+dir, url)
	c.Cancel = func() error { return c.Process.Signal(os.Interrupt) } // it removes its files
	require.NoError(t, c.Start())
	t.Cleanup(func() {
		cancel()
		_ = c.Wait()
	})
}
