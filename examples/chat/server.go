package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sendq-go/sendq"
)

const (
	// loginTimeout is how long a client has for its first line.
	loginTimeout = 10 * time.Second

	// closeTimeout is how long a client has to take what is queued for it when
	// its connection, or the whole server, ends.
	closeTimeout = 10 * time.Second

	// maxPending is how many bytes may be queued for a user. One who has stopped
	// reading for so long is disconnected.
	maxPending = 64 << 20

	// maxPendingOfAll is the same for all users together.
	maxPendingOfAll = 1 << 30
)

// options are what the flags of the command choose.
type options struct {
	takeover bool // a second login takes the name over
	replay   int  // how many lines of a room those get who join it
}

// maxReplay is how many bytes of its last lines a room keeps.
const maxReplay = 256 << 10

// A server is the users who are logged in, and the rooms they are in: a Broker.
type server struct {
	options
	broker *sendq.Broker
	budget *sendq.Budget
	missed *mailboxes
	log    *slog.Logger
}

func newServer(o options, log *slog.Logger) *server {
	s := &server{options: o, budget: sendq.NewBudget(maxPendingOfAll), log: log}
	opts := &sendq.BrokerOptions{ReplayMessages: o.replay, ReplayBytes: maxReplay}
	if o.takeover {
		opts.Names = sendq.Takeover
		s.missed = newMailboxes()
		opts.OnUndelivered = func(name string, messages iter.Seq[[]byte], _ error) {
			s.missed.put(s.broker, name, messages)
		}
	}
	s.broker = sendq.NewBroker(opts)
	return s
}

// serve accepts connections until ctx is done. Then it delivers what is queued for
// each user, for closeTimeout at most, and returns when the last session has ended.
func (s *server) serve(ctx context.Context, l net.Listener) error {
	context.AfterFunc(ctx, func() { l.Close() })
	var sessions sync.WaitGroup
	defer sessions.Wait()
	for pause := time.Duration(0); ; {
		conn, err := l.Accept()
		switch {
		case err == nil:
			pause = 0
			sessions.Go(func() { s.handle(ctx, conn) })
		case ctx.Err() != nil:
			bound, cancel := context.WithTimeout(context.Background(), closeTimeout)
			defer cancel()
			_ = s.broker.Shutdown(bound) // each session reports what its user did not get
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		default:
			// Such as too many open files: it passes when users leave.
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			s.log.Warn("cannot accept, trying again", "error", err, "pause", pause)
			time.Sleep(pause)
		}
	}
}

// A session is one connection, from the login to the end.
type session struct {
	*server
	conn  net.Conn
	w     *sendq.Writer
	lines *lineScanner
	user  *user // nil until the login
	err   error // why the session is over; io.EOF if the client says no more
}

// handle waits for lines, most of its life. What they say is done aside: a stack stays as
// large as it ever was, and that of a goroutine that only waits is all that an idle user
// costs, beside some hundred bytes for the connection, the Writer and the name.
func (s *server) handle(ctx context.Context, conn net.Conn) {
	c := &session{server: s, conn: conn}
	aside(func() { c.begin(ctx) })
	for c.err == nil {
		c.lines.Wait()
		aside(c.talk)
	}
	aside(c.end)
}

// aside calls f in a goroutine of its own and waits for its return.
func aside(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	<-done
}

// begin sees to the login.
func (c *session) begin(ctx context.Context) {
	c.w = sendq.NewWriter(c.conn, &sendq.WriterOptions{
		MaxPending:   maxPending,
		CloseTimeout: closeTimeout,
		Budget:       c.budget,
	})
	c.lines = newLineScanner(c.conn)
	c.err = c.login(ctx)
}

// login reads the first line and registers the Writer under the name in it.
func (c *session) login(ctx context.Context) error {
	// When the server stops, those who are not logged in have nothing to wait for.
	defer context.AfterFunc(ctx, func() { c.w.CloseNow() })()
	c.conn.SetReadDeadline(time.Now().Add(loginTimeout))
	defer c.conn.SetReadDeadline(time.Time{})

	for !c.lines.Scan() {
		if c.lines.Err() != nil {
			return readError(c.lines)
		}
		c.lines.Wait()
	}
	name := clean(c.lines.Text())
	if !isName(name) {
		return fmt.Errorf("a login is 1 to %d letters (a-z), digits, '_', '-' or '.'", maxName)
	}
	if c.missed != nil {
		c.missed.deliver(name, c.w) // before anything newer
	}
	switch err := c.broker.Register(name, c.w); {
	case errors.Is(err, sendq.ErrNameTaken):
		return fmt.Errorf("the login %s is taken, choose another one", name)
	case err != nil:
		return errors.New("the server is shutting down")
	}
	c.user = c.newUser(name, c.w)
	return nil
}

// talk does what the lines at hand say. It stops when the Writer has ended: others may have the
// name by then, and what is left of the input must not speak for them.
func (c *session) talk() {
	defer c.user.sendBatch()
	for c.err == nil && c.lines.Scan() {
		switch cmd, err := parse(clean(c.lines.Text())); {
		case c.w.Err() != nil, err == nil && cmd.verb == quit:
			c.err = io.EOF
		case err != nil:
			c.user.answer("error: %v", err)
		default:
			c.user.do(cmd)
		}
	}
	if c.err == nil && c.lines.Err() != nil {
		c.err = readError(c.lines)
	}
}

// end delivers what is queued: a user who says /quit, or whose login is refused, still gets
// every line.
func (c *session) end() {
	u := c.user
	if u != nil && !c.takeover { // else whoever logs in before the end gets the rest
		c.broker.Unregister(u.name, c.w)
		u.sayGoodbye()
	}
	if c.err != io.EOF {
		reply(c.w, "error: %v", c.err)
	}
	err := c.w.Close()
	if u == nil {
		return
	}
	switch {
	case errors.Is(err, sendq.ErrTakenOver):
		c.log.Info("taken over", "user", u.name, "peer", c.conn.RemoteAddr())
	case err != nil:
		c.log.Warn("connection lost", "user", u.name, "peer", c.conn.RemoteAddr(), "error", err)
	}
	if c.takeover {
		u.sayGoodbye()
	}
}

// A user is somebody who is logged in.
type user struct {
	server *server
	name   string
	w      *sendq.Writer
	rooms  map[string]bool // where others heard that the user joined
	batch  *sendq.Batch    // the messages of lines that came together
}

// newUser returns the user who has logged in, in the rooms of the session that was taken
// over, if there was one.
func (s *server) newUser(name string, w *sendq.Writer) *user {
	u := &user{s, name, w, make(map[string]bool), s.broker.NewBatch()}
	for room := range s.broker.RoomsOf(name) {
		u.rooms[room] = true
	}
	return u
}

func (u *user) do(cmd command) {
	broker := u.server.broker
	switch cmd.verb {
	case toUsers:
		message := line("from %s: %s", u.name, cmd.text)
		if len(cmd.users) == 1 {
			u.batch.Send(cmd.users[0], message)
			break
		}
		u.sendBatch()
		u.report(broker.SendTo(cmd.users, message)) // which copies it once
	case toAll:
		u.batch.BroadcastFrom(u.name, line("from %s: %s", u.name, cmd.text))
	case toRoom:
		if broker.Room(cmd.room).Has(u.name) {
			u.batch.PublishFrom(cmd.room, u.name, line("from %s in %s: %s", u.name, cmd.room, cmd.text))
		} else {
			u.answer("error: not in %s", cmd.room)
		}
	case join:
		u.join(cmd.room)
	case leave:
		u.leave(cmd.room)
	case who:
		names := broker.Names()
		if cmd.room != "" {
			names = broker.Room(cmd.room).Members()
		}
		u.answer("names: %s", strings.Join(slices.Sorted(names), ", "))
	}
}

// sendBatch sends the messages of the lines so far.
func (u *user) sendBatch() { u.report(u.batch.Flush()) }

// report tells the user who did not get a message.
func (u *user) report(r sendq.Report) {
	for _, refused := range r.Refused {
		switch {
		case refused.FanOut: // to a room, whose members learn of those who leave
		case errors.Is(refused.Err, sendq.ErrUnknownName):
			reply(u.w, "error: no such user: %s", refused.Name)
		default:
			reply(u.w, "error: %s has just left", refused.Name)
		}
	}
}

// answer tells the user something, after what the lines before have caused.
func (u *user) answer(format string, args ...any) {
	u.sendBatch()
	reply(u.w, format, args...)
}

func (u *user) join(name string) {
	room := u.server.broker.Room(name)
	if room.Has(u.name) {
		u.answer("error: already in %s", name)
		return
	}
	u.sendBatch()
	if _, err := room.JoinReplay(u.name, u.server.replay); err != nil {
		return // this user's Writer has ended, and the connection with it
	}
	u.rooms[name] = true
	room.Publish(line("* %s joined %s", u.name, name))
}

func (u *user) leave(name string) {
	u.sendBatch()
	room := u.server.broker.Room(name)
	if !room.Leave(u.name) {
		reply(u.w, "error: not in %s", name)
		return
	}
	delete(u.rooms, name)
	room.Publish(line("* %s left %s", u.name, name))
}

// sayGoodbye tells the rooms that the user has left, whose name is free by now, unless
// another session has it: in those rooms nobody has left.
func (u *user) sayGoodbye() {
	if errors.Is(u.w.Err(), sendq.ErrTakenOver) {
		return
	}
	for name := range u.rooms {
		if room := u.server.broker.Room(name); !room.Has(u.name) {
			room.Publish(line("* %s left %s", u.name, name))
		}
	}
}

// reply queues a line for w alone. It can fail only when w has ended, and then the
// reader of the connection ends too.
func reply(w *sendq.Writer, format string, args ...any) {
	_, _ = w.Write(line(format, args...))
}

func line(format string, args ...any) []byte {
	return append(fmt.Appendf(nil, format, args...), '\n')
}
