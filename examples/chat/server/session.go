package server

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/sendq-go/sendq"
)

// A session is what a client says, line by line, wherever the lines come from, and what it
// gets, by a Writer. Its methods are called one at a time: login, then do for each line and
// flush when there are no more at hand, and at last end.
type session struct {
	server *Server
	conn   net.Conn
	w      *sendq.Writer
	name   string          // the user's; empty until the login
	rooms  map[string]bool // where others heard that the user joined; nil if nowhere yet
	batch  *sendq.Batch    // the messages of lines that came together; nil if there are none
	pace   *pace           // nil: there is no limit
}

func (s *Server) newSession(conn net.Conn, closeTimeout time.Duration) session {
	return session{server: s, conn: conn, w: s.newWriter(conn, closeTimeout), pace: newPace(s.opts.Rate)}
}

// login registers the Writer under the name that the first line is. The user is in the rooms
// of the session that is taken over, if there is one.
func (c *session) login(text string) error {
	s := c.server
	name := clean(text)
	if !isName(name) {
		return fmt.Errorf("a login is 1 to %d letters (a-z), digits, '_', '-' or '.'", maxName)
	}
	s.missed.deliver(name, c.w) // before anything newer
	switch err := s.broker.Register(name, c.w); {
	case errors.Is(err, sendq.ErrNameTaken):
		return fmt.Errorf("the login %s is taken, choose another one", name)
	case errors.Is(err, sendq.ErrClosed):
		return ErrStopped
	case err != nil: // with a Relay, when the other servers do not answer
		return errors.New("nobody can log in at the moment, try again later")
	}
	s.missed.deliver(name, c.w) // what has come to the box meanwhile
	c.name = name
	for room := range s.broker.RoomsOf(name) {
		c.isIn(room)
	}
	return nil
}

// do does what a line says. It returns why it was the last one, if it was.
func (c *session) do(text string) error {
	text = clean(text)
	cmd, err := parse(text)
	switch {
	case c.w.Err() != nil: // others may have the name, and what is left of the input must not speak for them
		return errLost
	case cmd.verb != quit && !c.pace.allows():
		if c.pace.mayComplain() {
			c.answer("error: slow down: more than %d lines a second are not heard", c.server.opts.Rate)
		}
		return nil
	case err != nil && c.isKnownElsewhere(text):
		return nil
	case err != nil:
		c.answer("error: %v", err)
		return nil
	}
	broker, line := c.server.broker, c.server.line
	switch cmd.verb {
	case toUsers:
		message := line("from %s: %s", c.name, cmd.text)
		if len(cmd.users) == 1 {
			c.more().Send(cmd.users[0], message)
			break
		}
		c.flush()
		c.report(broker.SendTo(cmd.users, message)) // which copies it once
	case toAll:
		c.more().BroadcastFrom(c.name, line("from %s: %s", c.name, cmd.text))
	case toRoom:
		if broker.Room(cmd.room).Has(c.name) {
			c.more().PublishFrom(cmd.room, c.name, line("from %s in %s: %s", c.name, cmd.room, cmd.text))
		} else {
			c.answer("error: not in %s", cmd.room)
		}
	case join:
		c.join(cmd.room)
	case leave:
		c.leave(cmd.room)
	case who:
		names := broker.Names()
		if cmd.room != "" {
			names = broker.Room(cmd.room).Members()
		}
		c.answer("names: %s", strings.Join(slices.Sorted(names), ", "))
	case quit:
		return errQuit
	}
	return nil
}

// isKnownElsewhere tells whether the program has done what the line says.
func (c *session) isKnownElsewhere(text string) bool {
	known := c.server.opts.Command
	if known == nil || !strings.HasPrefix(text, "/") {
		return false
	}
	c.flush()
	return known(c.name, c.conn, strings.Fields(text))
}

// more returns the batch to which the next message belongs.
func (c *session) more() *sendq.Batch {
	if c.batch == nil {
		c.batch = c.server.broker.NewBatch()
	}
	return c.batch
}

// flush sends the messages of the lines so far.
func (c *session) flush() {
	if c.batch != nil {
		c.report(c.batch.Flush())
		c.batch = nil
	}
}

// report tells the user who did not get a message.
func (c *session) report(r sendq.Report) {
	for _, refused := range r.Refused {
		switch {
		case refused.FanOut: // to a room, whose members learn of those who leave
		case errors.Is(refused.Err, sendq.ErrUnknownName):
			c.reply("error: no such user: %s", refused.Name)
		case errors.Is(refused.Err, sendq.ErrUnconfirmed):
			c.reply("error: the server of %s does not answer: the message may have arrived, or not", refused.Name)
		case errors.Is(refused.Err, sendq.ErrWouldBlock):
			c.reply("error: the server of %s is too far behind: the message was not sent", refused.Name)
		default:
			c.reply("error: %s has just left", refused.Name)
		}
	}
}

// answer tells the user something, after what the lines before have caused.
func (c *session) answer(format string, args ...any) {
	c.flush()
	c.reply(format, args...)
}

func (c *session) join(name string) {
	room := c.server.broker.Room(name)
	if room.Has(c.name) {
		c.answer("error: already in %s", name)
		return
	}
	c.flush()
	if _, err := room.JoinReplay(c.name, c.server.opts.Replay); err != nil {
		return // this user's Writer has ended, and the connection with it
	}
	c.isIn(name)
	room.Publish(c.server.line("* %s joined %s", c.name, name))
}

// isIn remembers that the user is in a room.
func (c *session) isIn(room string) {
	if c.rooms == nil {
		c.rooms = make(map[string]bool)
	}
	c.rooms[room] = true
}

func (c *session) leave(name string) {
	c.flush()
	room := c.server.broker.Room(name)
	if !room.Leave(c.name) {
		c.reply("error: not in %s", name)
		return
	}
	delete(c.rooms, name)
	room.Publish(c.server.line("* %s left %s", c.name, name))
}

// end delivers what is queued, and returns what Close of the Writer does: a user who says
// /quit, or whose login is refused, still gets every line. The cause is what login or do
// has returned, or why the lines have ended, and goes to the client if that was its fault.
func (c *session) end(cause error) error {
	takeover := c.server.opts.Takeover
	if !takeover { // else whoever logs in before the end gets the rest
		c.server.broker.Unregister(c.name, c.w)
		c.sayGoodbye()
	}
	if cause == errQuit || cause == errHungUp || errors.Is(cause, errLost) {
		cause = nil
	} else {
		c.reply("error: %v", cause)
	}
	tellEnd(c.conn, cause)
	err := c.w.Close()
	if takeover {
		c.sayGoodbye()
	}
	return err
}

// sayGoodbye tells the rooms that the user has left, whose name is free by now, unless
// another session has it: in those rooms nobody has left.
func (c *session) sayGoodbye() {
	if errors.Is(c.w.Err(), sendq.ErrTakenOver) {
		return
	}
	for name := range c.rooms {
		if room := c.server.broker.Room(name); !room.Has(c.name) {
			room.Publish(c.server.line("* %s left %s", c.name, name))
		}
	}
}

// reply queues a line for this user alone. It can fail only when the Writer has ended, and
// then the reader of the connection ends too.
func (c *session) reply(format string, args ...any) {
	_, _ = c.w.Write(c.server.line(format, args...))
}

// line returns a line as it is written to all connections.
func (s *Server) line(format string, args ...any) []byte {
	line := append(fmt.Appendf(nil, format, args...), '\n')
	if s.opts.Frame != nil {
		return s.opts.Frame(line)
	}
	return line
}
