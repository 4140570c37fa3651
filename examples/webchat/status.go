package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/sendq-go/sendq/examples/chat/server"
)

// most bounds the number of backlogs in a snapshot.
const most = 10

// A snapshot is an event of /status/events.
type snapshot struct {
	Time        int64 `json:"time"` // Unix, in milliseconds
	Connections int   `json:"connections"`
	Away        int   `json:"away"` // users without a connection, who may come back
	Names       int   `json:"names"`
	Rooms       int   `json:"rooms"`

	// Messages since the start.
	Accepted    int64 `json:"accepted"`
	Written     int64 `json:"written"`
	Dropped     int64 `json:"dropped"`
	Undelivered int64 `json:"undelivered"`

	PendingBytes int64            `json:"pendingBytes"`
	OldestMillis int64            `json:"oldestMillis"`
	Ends         map[string]int64 `json:"ends"`
	Backlogs     []backlog        `json:"backlogs"` // the largest first
	Stalled      []string         `json:"stalled"`
	Demo         bool             `json:"demo"`
}

// A backlog describes the queue of a user.
type backlog struct {
	Name            string `json:"name"`
	PendingBytes    int64  `json:"pendingBytes"`
	PendingMessages int64  `json:"pendingMessages"`
	OldestMillis    int64  `json:"oldestMillis"`
	PeakBytes       int64  `json:"peakBytes"`
	MaxPending      int    `json:"maxPending"` // 0: unknown
	Away            bool   `json:"away"`
}

// A status sends snapshots of the chat to any number of viewers.
type status struct {
	chat       *server.Server
	maxPending int
	demo       *demo

	mu      sync.Mutex
	viewers map[chan []byte]bool
	stop    context.CancelFunc // stops send; set while there are viewers
}

func newStatus(chat *server.Server, maxPending int, d *demo) *status {
	return &status{chat: chat, maxPending: maxPending, demo: d, viewers: make(map[chan []byte]bool)}
}

// watch returns a channel with an event each second, until ctx is done. A slow viewer misses events.
func (s *status) watch(ctx context.Context) <-chan []byte {
	events := make(chan []byte, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.viewers[events] = true
	if len(s.viewers) == 1 {
		var watched context.Context
		watched, s.stop = context.WithCancel(context.Background())
		go s.send(watched)
	}
	context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.viewers, events)
		if len(s.viewers) == 0 {
			s.stop()
		}
	})
	return events
}

// send sends an event to all viewers each second, until ctx is done.
func (s *status) send(ctx context.Context) {
	second := time.NewTicker(time.Second)
	defer second.Stop()
	for {
		event, _ := json.Marshal(s.now()) // numbers and names, which cannot fail
		s.mu.Lock()
		for events := range s.viewers {
			select {
			case events <- event:
			default:
			}
		}
		s.mu.Unlock()
		select {
		case <-second.C:
		case <-ctx.Done():
			return
		}
	}
}

// now returns a snapshot.
func (s *status) now() snapshot {
	stats := s.chat.Broker().Stats()
	n := snapshot{
		Time:        time.Now().UnixMilli(),
		Connections: stats.Writers,
		Away:        stats.Away, Names: stats.Names, Rooms: stats.Rooms,
		Accepted: stats.Accepted, Written: stats.Written, Dropped: stats.Dropped, Undelivered: stats.Undelivered,
		PendingBytes: stats.PendingBytes,
		Ends: map[string]int64{
			"delivered":     stats.Ends.Delivered.Writers,
			"closed":        stats.Ends.Closed.Writers,
			"expired":       stats.Ends.Expired.Writers,
			"slow_consumer": stats.Ends.SlowConsumer.Writers,
			"taken_over":    stats.Ends.TakenOver.Writers,
			"failed":        stats.Ends.Failed.Writers,
		},
		Backlogs: []backlog{},
		Stalled:  s.demo.names(),
		Demo:     s.demo != nil,
	}
	if stats.Pending > 0 {
		n.OldestMillis = stats.OldestPending.Milliseconds()
		n.Backlogs = s.backlogs()
	}
	return n
}

// backlogs returns the largest backlogs.
func (s *status) backlogs() []backlog {
	all := []backlog{}
	for name := range s.chat.Broker().Names() {
		w, ok := s.chat.Broker().Lookup(name)
		if !ok {
			continue
		}
		stats := w.Stats()
		if stats.Pending == 0 {
			continue
		}
		b := backlog{name, stats.PendingBytes, stats.Pending, stats.OldestPending.Milliseconds(), stats.PeakPendingBytes, s.maxPending, false}
		if s.chat.IsAway(w) {
			b.MaxPending, b.Away = 0, true
		}
		all = append(all, b)
	}
	slices.SortFunc(all, func(a, b backlog) int { return cmp.Compare(b.PendingBytes, a.PendingBytes) })
	return all[:min(len(all), most)]
}

// ServeHTTP sends events until the viewer leaves, or takes nothing for writeTimeout.
func (s *status) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	if r.Method == http.MethodHead {
		return // without writes, the server would not notice that the viewer has left
	}
	control := http.NewResponseController(w)
	events := s.watch(r.Context())
	for {
		select {
		case event := <-events:
			_ = control.SetWriteDeadline(time.Now().Add(writeTimeout))
			fmt.Fprintf(w, "data: %s\n\n", event)
			if control.Flush() != nil {
				return
			}
		case <-r.Context().Done():
			return
		}
	}
}
