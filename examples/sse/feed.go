package main

import (
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/sendq-go/sendq"
)

const (
	kept     = 100              // events for clients that come back
	maxEvent = 16 << 10         // bytes of one
	quiet    = 20 * time.Second // of a stream, because proxies end an idle one, often after a minute
)

//go:embed page.html
var page []byte

// A feed sends events to all clients. Each event has the number of the one before, plus one.
type feed struct {
	broker *sendq.Broker
	room   *sendq.Room // of all clients; it keeps the last events
	run    string      // differs for each run of the program, because numbers begin again

	mu      sync.Mutex // held to number events and to count clients
	last    int        // number of the last event
	clients int        // so far
}

func newFeed() *feed {
	f := &feed{broker: sendq.NewBroker(&sendq.BrokerOptions{ReplayMessages: kept}), run: fmt.Sprint(time.Now().UnixNano())}
	f.room = f.broker.Room("events")
	// A room lasts as long as it has members, so one of them stays.
	f.broker.Register("archive", sendq.NewWriter(sendq.StreamConn(io.Discard), nil))
	f.room.Join("archive")
	return f
}

func (f *feed) server() *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(rw http.ResponseWriter, _ *http.Request) { rw.Write(page) })
	mux.HandleFunc("GET /events", f.stream)
	mux.HandleFunc("POST /events", func(rw http.ResponseWriter, r *http.Request) {
		text, err := io.ReadAll(http.MaxBytesReader(rw, r.Body, maxEvent))
		if err != nil {
			http.Error(rw, err.Error(), http.StatusBadRequest)
			return
		}
		f.publish(string(text))
		rw.WriteHeader(http.StatusNoContent)
	})
	s := &http.Server{
		Handler:      http.NewCrossOriginProtection().Handler(mux), // pages of other sites cannot post
		ReadTimeout:  10 * time.Second,
		WriteTimeout: 10 * time.Second,
		Protocols:    new(http.Protocols),
	}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetHTTP2(true)
	s.Protocols.SetUnencryptedHTTP2(true) // for a proxy
	return s
}

// stream is the response without an end.
func (f *feed) stream(rw http.ResponseWriter, r *http.Request) {
	rw.Header().Set("Content-Type", "text/event-stream")
	rw.Header().Set("Cache-Control", "no-store")
	rw.Header().Set("X-Accel-Buffering", "no") // nginx would keep events back
	controller := http.NewResponseController(rw)
	// The timeout of the server is for short responses.
	if err := errors.Join(controller.SetWriteDeadline(time.Time{}), controller.Flush()); err != nil {
		http.Error(rw, err.Error(), http.StatusInternalServerError)
		return
	}
	conn := sendq.StreamConn(struct {
		io.Writer
		*http.ResponseController // Flush, and SetWriteDeadline to end a stuck Write
	}{rw, controller})
	// If a client does not read, it is disconnected. It may come back for the kept events.
	w := sendq.NewWriter(conn, &sendq.WriterOptions{MaxPending: 4 << 20, WriteTimeout: 30 * time.Second})
	defer w.Close() // before this handler returns, because then nobody may use rw

	if err := f.join(w, r.Header.Get("Last-Event-ID")); err != nil {
		return // the program ends
	}
	select {
	case <-r.Context().Done(): // the client has gone
	case <-w.Done(): // a limit, or the end of the program
	}
}

// join sends w the missed events, and all later ones.
func (f *feed) join(w *sendq.Writer, lastID string) error {
	f.mu.Lock()
	defer f.mu.Unlock() // so no event comes between counting the missed ones and joining
	f.clients++
	name := fmt.Sprint("client ", f.clients)
	if err := f.broker.Register(name, w); err != nil {
		return err
	}
	seen := 0
	if _, err := fmt.Sscanf(lastID, f.run+".%d", &seen); err != nil || seen > f.last {
		seen = 0 // a new client, or one of an earlier run
	}
	missed := f.last - seen
	if lost := missed - kept; lost > 0 && seen > 0 {
		fmt.Fprintf(w, "event: lost\ndata: %d\n\n", lost)
	}
	_, err := f.room.JoinReplay(name, missed)
	return err
}

// publish sends an event to all clients.
func (f *feed) publish(text string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last++
	lines := strings.NewReplacer("\r\n", "\ndata: ", "\n", "\ndata: ", "\r", "\ndata: ").Replace(text)
	f.room.Publish(fmt.Appendf(nil, "id: %s.%d\ndata: %s\n\n", f.run, f.last, lines))
}

// keepAlive sends a comment to all clients now and then. If a client is gone without a goodbye, the
// write of it fails sooner or later.
func (f *feed) keepAlive() {
	for range time.Tick(quiet) {
		f.broker.Broadcast([]byte(":\n\n"))
	}
}
