package server

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"time"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/examples/chat/lines"
)

// log writes the cause of a session's end. The error is that of its Writer.
func (s *Server) log(c *session, cause, err error) {
	level, message := slog.LevelInfo, "session ended"
	switch {
	case c.Name == "":
		message = "connection without login ended"
	case errors.Is(err, sendq.ErrTakenOver):
		cause = err
	case (errors.Is(cause, io.EOF) || cause == ErrStopped) && errors.Is(err, cause): // the user may come back
	case err != nil:
		level, message, cause = slog.LevelWarn, "connection lost", err
	case errors.Is(cause, lines.ErrEnd) && !errors.Is(cause, io.EOF):
		level, message = slog.LevelWarn, "connection lost"
	}
	s.opts.Log.Log(context.Background(), level, message, "user", c.Name, "peer", c.Conn.RemoteAddr(),
		"cause", cause, "after", time.Since(c.start).Round(time.Millisecond), "sent", c.W.Stats())
}

// logAbsence writes why a user who was away has left. The error is that of the Writer with the name.
func (s *Server) logAbsence(user string, w *sendq.Writer) {
	level, stats := slog.LevelInfo, w.Stats()
	if stats.Undelivered > 0 {
		level = slog.LevelWarn
	}
	s.opts.Log.Log(context.Background(), level, "user did not come back", "user", user, "cause", w.Err(), "sent", stats)
}
