// Package core is the chat server without armour: the whole protocol and an orderly end, in this
// file. Read it from top to bottom. It shows how a Writer and a Broker work together:
//
//   - Each connection has a Writer. Senders fill its queue, so no slow peer holds them up.
//   - The Broker sends to users by name, to rooms and to all, and reports each user it did not reach.
//
// Package lines reads lines of at most 64 KiB, without control characters. Package server is armour
// for the internet: TLS, limits, rates, users who come back, a log. It goes on at the hooks in hooks.go. Without
// hooks, the core is a complete server.
package core

import (
	"context"
	"errors"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/examples/chat/lines"
)

const (
	MaxLine      = 64 << 10         // bytes in a line, without its end
	LoginTimeout = 10 * time.Second // for the first line
	usage        = "error: type a message as bob: text, bob, alice: text, *: text or #room: text; or /join #room, " +
		"/leave #room, /who, /who #room, /quit; a room is '#' and 1 to 32 letters (a-z), digits, '_', '-' or '.'"
)

// IsName reports whether a user may have the name.
var IsName = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,32}$`).MatchString

// A Server serves the users of its Broker. It may do without Hooks.
type Server struct {
	Broker *sendq.Broker
	Hooks
}

// Serve accepts connections until ctx is done. It returns the error of l after the last session.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	defer context.AfterFunc(ctx, func() { l.Close() })()
	var sessions sync.WaitGroup
	defer sessions.Wait()
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		sessions.Go(func() { s.Handle(ctx, conn) })
	}
}

// Handle runs a session: Begin, Do for each line, Flush before a wait, and End, which calls Leave.
func (s *Server) Handle(ctx context.Context, conn net.Conn) {
	lines.Serve(conn, MaxLine, s.armour(&Session{Server: s, Ctx: ctx, Conn: conn}))
}

// A Session is a user on a connection.
type Session struct {
	*Server
	Ctx   context.Context // done when the server stops
	Conn  net.Conn
	W     *sendq.Writer // nothing else writes to Conn
	Name  string        // empty before the login
	Rooms []string      // the rooms of the user
	batch *sendq.Batch  // messages of lines that arrived together
	stop  func() bool   // ends the wait for Ctx
}

// Begin waits for the first line. When the server stops, Close delivers the queued lines.
func (c *Session) Begin() error {
	c.W, c.batch = sendq.NewWriter(c.Conn, &c.Options), c.Broker.NewBatch()
	c.stop = context.AfterFunc(c.Ctx, func() { c.W.Close() })
	return c.Conn.SetReadDeadline(time.Now().Add(LoginTimeout))
}

// Do is the protocol, case by case. An error ends the session.
func (c *Session) Do(line string) error {
	to, text, _ := strings.Cut(line, ":")
	to, text = strings.TrimSpace(to), strings.TrimSpace(text)
	switch {
	case c.Name == "":
		return c.login(line)
	case c.W.Err() != nil: // another user may have the name by now
		return c.W.Err()
	case strings.HasPrefix(line, "/"):
		return c.command(line)
	case strings.Trim(to, ", ") == "" || text == "":
		c.Reply(usage)
	case to == "*":
		c.batch.BroadcastFrom(c.Name, c.Line("from %s: %s", c.Name, text))
	case to[0] == '#' && c.Broker.Room(to).Has(c.Name):
		c.batch.PublishFrom(to, c.Name, c.Line("from %s in %s: %s", c.Name, to, text))
	case to[0] == '#':
		c.Reply("error: not in %s", to)
	case !strings.Contains(to, ","):
		c.batch.Send(to, c.Line("from %s: %s", c.Name, text))
	default:
		c.sendTo(to, c.Line("from %s: %s", c.Name, text))
	}
	return nil
}

// login gives the Writer the name in the first line.
func (c *Session) login(name string) error {
	if !IsName(name) {
		return errors.New("a login is 1 to 32 letters (a-z), digits, '_', '-' or '.'")
	}
	switch err := c.Broker.Register(name, c.W); {
	case errors.Is(err, sendq.ErrNameTaken):
		return fmt.Errorf("the login %s is taken, choose another one", name)
	case err != nil:
		return errors.New("nobody can log in at the moment, try again later")
	}
	c.Name = name
	return c.Conn.SetReadDeadline(time.Time{})
}

// command does a line that begins with a slash.
func (c *Session) command(line string) error {
	c.Flush()
	verb, name, _ := strings.Cut(strings.Join(strings.Fields(line), " "), " ")
	room := c.Broker.Room(name)
	switch {
	case verb == "/quit" && name == "":
		return ErrQuit
	case verb == "/who" && name == "":
		c.Reply("names: %s", strings.Join(slices.Sorted(c.Broker.Names()), ", "))
	case name == "" || name[0] != '#' || !IsName(name[1:]):
		c.Reply(usage)
	case verb == "/who":
		c.Reply("names: %s", strings.Join(slices.Sorted(room.Members()), ", "))
	case verb == "/join" && room.Has(c.Name):
		c.Reply("error: already in %s", name)
	case verb == "/join":
		if _, err := room.JoinReplay(c.Name, c.Replay); err == nil { // else the Writer has ended
			c.Rooms = append(c.Rooms, name)
			room.Publish(c.Line("* %s joined %s", c.Name, name))
		}
	case verb == "/leave" && room.Leave(c.Name):
		c.Rooms = slices.DeleteFunc(c.Rooms, func(r string) bool { return r == name })
		room.Publish(c.Line("* %s left %s", c.Name, name))
	case verb == "/leave":
		c.Reply("error: not in %s", name)
	default:
		c.Reply(usage)
	}
	return nil
}

// sendTo sends a message once to each of the users.
func (c *Session) sendTo(users string, message []byte) {
	var names []string
	seen := map[string]bool{"": true}
	for name := range strings.SplitSeq(users, ",") {
		if name = strings.TrimSpace(name); !seen[name] {
			names, seen[name] = append(names, name), true
		}
	}
	c.Flush()
	c.report(c.Broker.SendTo(names, message)) // one copy for all
}

// Flush sends the messages in the batch.
func (c *Session) Flush() { c.report(c.batch.Flush()) }

// report tells the user about names without a Writer, and about Writers that refused a message.
func (c *Session) report(r sendq.Report) {
	for _, refused := range r.Refused {
		if errors.Is(refused.Err, sendq.ErrUnknownName) {
			c.Reply("error: no such user: %s", refused.Name)
		} else if !refused.FanOut {
			c.Reply("error: %s", c.why(refused))
		}
	}
}

// Reply queues a line for this user, after the effects of earlier lines.
func (c *Session) Reply(format string, args ...any) {
	c.Flush()
	c.W.Write(c.Line(format, args...)) // an error means that the session is about to end
}

// Leave is the end: it tells the rooms, delivers the queued lines, and closes the connection.
func (c *Session) Leave(cause error) error {
	c.stop()
	c.Broker.Unregister(c.Name, c.W)
	c.TellLeft()
	if IsFault(cause) {
		c.Reply("error: %v", cause)
	}
	return c.W.Close()
}

// TellLeft tells the rooms that the user has left.
func (c *Session) TellLeft() {
	for _, name := range c.Rooms {
		if room := c.Broker.Room(name); !room.Has(c.Name) { // true if the user is back already
			room.Publish(c.Line("* %s left %s", c.Name, name))
		}
	}
}
