package core

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/examples/chat/lines"
)

// Hooks are the places where armour goes on. The zero value leaves all of them bare.
type Hooks struct {
	Options sendq.WriterOptions          // of the Writer of each session
	Replay  int                          // lines of a room for a new member; the Broker must keep them
	Frame   func(line []byte) []byte     // encodes a line, once for all connections
	Why     func(sendq.Refusal) string   // explains why a user did not get a message
	Armour  func(*Session) lines.Handler // returns a replacement of a session; it embeds the *Session
}

// ErrQuit is the cause of the end after /quit.
var ErrQuit = errors.New("the user has quit")

// IsFault reports whether the cause of an end is the user's fault. If so, the user is told.
func IsFault(cause error) bool { return cause != ErrQuit && !errors.Is(cause, lines.ErrEnd) }

// End is Leave with a log. Armour logs more.
func (c *Session) End(cause error) {
	if err := c.Leave(cause); err != nil {
		slog.Warn("not all lines were delivered", "user", c.Name, "error", err)
	}
}

// Fail is the end in place of Leave after a failure. If the Broker lets names linger, the user may come
// back.
func (c *Session) Fail(cause error) {
	c.stop()
	_ = c.W.Fail(cause)
}

// Line returns a line for any connection.
func (h *Hooks) Line(format string, args ...any) []byte {
	line := append(fmt.Appendf(nil, format, args...), '\n')
	if h.Frame == nil {
		return line
	}
	return h.Frame(line)
}

func (h *Hooks) why(r sendq.Refusal) string {
	if h.Why == nil {
		return r.Name + " has just left"
	}
	return h.Why(r)
}

func (h *Hooks) armour(c *Session) lines.Handler {
	if h.Armour == nil {
		return c
	}
	return h.Armour(c)
}
