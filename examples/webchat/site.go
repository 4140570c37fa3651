package main

import (
	"context"
	"embed"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gobwas/ws"

	"github.com/sendq-go/sendq/examples/chat/server"
)

const (
	requestTimeout = 10 * time.Second // for a request with its body
	idleTimeout    = 30 * time.Second // between two requests
	writeTimeout   = 30 * time.Second // for an answer
	maxHeader      = 8 << 10          // bytes of a request's header, about
)

//go:embed page
var pageFiles embed.FS

// A site serves the page, the status and the WebSocket.
type site struct {
	ctx     context.Context // of the chat
	chat    *server.Server
	origins []string // further origins of WebSockets
	conns   sync.Map // net.Conn to *admission, while it speaks HTTP

	browsers sync.Map // the keys are each *browser
}

// An admission is the result of Admit for a connection.
type admission struct {
	release func()
	refused error
}

// admissionKey is the key of the *admission in a request's context.
type admissionKey struct{}

// server returns the HTTP server of the site.
func (s *site) server(status *status) *http.Server {
	files, _ := fs.Sub(pageFiles, "page")
	mux := http.NewServeMux()
	mux.Handle("GET /", http.FileServerFS(files))
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) {
		http.ServeFileFS(w, r, files, "status.html")
	})
	mux.Handle("GET /status/events", status)
	mux.HandleFunc("GET /ws", s.serveWebSocket)
	return &http.Server{
		Handler:        s.guard(mux),
		ReadTimeout:    requestTimeout,
		IdleTimeout:    idleTimeout,
		WriteTimeout:   writeTimeout,
		MaxHeaderBytes: maxHeader,
		ErrorLog:       slog.NewLogLogger(slog.Default().Handler(), slog.LevelInfo),
		BaseContext:    func(net.Listener) context.Context { return s.ctx },
		ConnContext:    s.admit,
		ConnState:      s.leave,
	}
}

// admit counts a connection.
func (s *site) admit(ctx context.Context, conn net.Conn) context.Context {
	a := new(admission)
	a.release, a.refused = s.chat.Admit(conn.RemoteAddr())
	s.conns.Store(conn, a)
	return context.WithValue(ctx, admissionKey{}, a)
}

// leave releases the admission of a closed connection. The session of a WebSocket does so itself.
func (s *site) leave(conn net.Conn, state http.ConnState) {
	if state != http.StateClosed && state != http.StateHijacked {
		return
	}
	if a, ok := s.conns.LoadAndDelete(conn); ok && state == http.StateClosed {
		a.(*admission).release()
	}
}

// guard sets the headers of all answers, and refuses the connections of an address with too many. It
// leaves WebSockets to serveWebSocket.
func (s *site) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'self'; base-uri 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-cache")
		if refused := admissionOf(r).refused; refused != nil {
			h.Set("Connection", "close") // also for /ws, in case it is no WebSocket
			if r.URL.Path != "/ws" {
				http.Error(w, refused.Error(), http.StatusServiceUnavailable)
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

func admissionOf(r *http.Request) *admission { return r.Context().Value(admissionKey{}).(*admission) }

// serveWebSocket starts a session on the connection, and returns, so that the memory of the request is
// freed.
func (s *site) serveWebSocket(w http.ResponseWriter, r *http.Request) {
	if !s.isAllowed(r) {
		http.Error(w, "this origin may not use the chat: "+r.Header.Get("Origin")+"; start the server with -origin to allow it", http.StatusForbidden)
		return
	}
	// Upgrade would take over the connection, and close it after an answer without "Connection: close".
	// The client's next request could then be lost.
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		http.Error(w, "this is not a WebSocket handshake", http.StatusBadRequest)
		return
	}
	a := admissionOf(r)
	conn, rw, _, err := ws.HTTPUpgrader{Timeout: writeTimeout}.Upgrade(r, w)
	if conn == nil {
		return
	}
	// Input before the end of the handshake breaks the rules, and would be in a buffer.
	if err != nil || rw.Reader.Buffered() > 0 {
		conn.Close()
		a.release()
		return
	}
	go func() {
		defer a.release()
		b := &browser{framedConn: framedConn{Conn: conn}, refused: a.refused}
		s.browsers.Store(b, nil)
		defer s.browsers.Delete(b)
		s.chat.Handle(b)
	}()
}

// isAllowed reports whether the request comes from our page or from an origin of -origin. Only browsers
// send their origin.
func (s *site) isAllowed(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" || slices.Contains(s.origins, origin) {
		return true
	}
	at, err := url.Parse(origin)
	return err == nil && strings.EqualFold(at.Host, r.Host)
}
