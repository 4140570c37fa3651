package sendq_test

import (
	"bytes"
	"compress/flate"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/sendq-go/sendq"
)

// A pacedConn takes at most rate bytes a second, a tenth of it at a time. It needs no lock, because
// only the flusher writes.
type pacedConn struct {
	net.Conn
	rate   int
	closed chan struct{}
	close  func()
}

func paced(conn net.Conn, rate int) *pacedConn {
	closed := make(chan struct{})
	return &pacedConn{conn, rate, closed, sync.OnceFunc(func() { close(closed) })}
}

func (c *pacedConn) Write(p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		part := p[n:min(n+max(c.rate/10, 1), len(p))]
		var wrote int
		wrote, err = c.Conn.Write(part)
		n += wrote
		select {
		case <-time.After(time.Duration(wrote) * time.Second / time.Duration(c.rate)):
		case <-c.closed:
		}
	}
	return n, err
}

func (c *pacedConn) Close() error {
	c.close() // so CloseNow does not wait for the pace
	return c.Conn.Close()
}

// NetConn lets the Writer see the acknowledgements of the peer.
func (c *pacedConn) NetConn() net.Conn { return c.Conn }

// A connection may have a pace. The queue has none: the Writer waits for the connection, and no
// sender does.
func Example_pace() {
	conn, peer := dialed()
	defer peer.Close()
	w := sendq.NewWriter(paced(conn, 100_000), nil)
	began := time.Now()
	w.Write(make([]byte, 20_000)) // accepted at once
	go io.Copy(io.Discard, peer)
	fmt.Println(w.Close(), time.Since(began) >= 200*time.Millisecond)
	// Output: <nil> true
}

// A file goes through a queue in parts, as fast as the peer reads. Messages of others come between
// the parts, so a protocol needs frames for them. Without such messages, write to the connection.
func Example_file() {
	conn, peer := dialed()
	w := sendq.NewWriter(conn, nil)
	sent := make(chan error)
	go func() { sent <- sendFile(context.Background(), w, "LICENSE") }()
	go func() {
		<-sent
		w.Close()
	}()
	received, err := io.ReadAll(peer)
	fmt.Println(strings.HasPrefix(string(received), "MIT License"), err)
	// Output: true <nil>
}

// sendFile queues a file. At most 256 KiB of it are in memory.
func sendFile(ctx context.Context, w *sendq.Writer, name string) error {
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	for {
		part := make([]byte, 64<<10) // Send takes it over
		n, err := file.Read(part)
		if err == io.EOF {
			return nil
		}
		if err == nil {
			err = w.WaitPending(ctx, 192<<10)
		}
		if err == nil {
			err = w.Send(part[:n])
		}
		if err != nil {
			return err
		}
	}
}

// Whoever sends compresses, once for all recipients. The queue cannot: it would have to know where
// the compressed bytes of one recipient end, and compress for each.
func Example_compression() {
	broker := sendq.NewBroker(nil)
	conn, peer := dialed()
	broker.Register("bob", sendq.NewWriter(conn, nil))

	var message bytes.Buffer
	compressor, _ := flate.NewWriter(&message, flate.BestSpeed)
	compressor.Write([]byte(strings.Repeat("gophers ", 100)))
	compressor.Close()
	broker.Broadcast(message.Bytes())
	broker.Close()

	received, _ := io.ReadAll(peer)
	text, err := io.ReadAll(flate.NewReader(bytes.NewReader(received)))
	fmt.Println(len(text), "bytes,", len(received) < 50, err)
	// Output: 800 bytes, true <nil>
}
