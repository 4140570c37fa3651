package natsrelay

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sendq-go/sendq"
)

// A simClient registers at one node after another, under any of the names, and sends numbered
// messages to others.
type simClient struct {
	sim    *simulation
	id     int
	random *rand.Rand
	pace   time.Duration // between two actions, at most
	number int           // of the last message

	isSender bool // it only sends

	session *simSession // nil if it has none
	older   []*simSession
}

// run acts until the simulation stops the clients.
func (c *simClient) run() {
	for !c.sim.stopped() {
		time.Sleep(time.Duration(c.random.Int64N(int64(c.pace))))
		c.act()
	}
	for c.random.IntN(3) > 0 { // sometimes the last event of a name is that it leaves
		c.leave()
	}
}

func (c *simClient) act() {
	if c.session != nil && c.session.hasEnded() {
		c.session = nil
	}
	p := c.pickProcess()
	if p == nil {
		return
	}
	p.gate() // nobody gets an answer from a frozen process
	if c.isSender {
		c.send(p)
		return
	}
	actions := 20
	if c.sim.isRestless && c.random.IntN(2) == 0 {
		actions = 4 // it comes or goes
	}
	switch c.random.IntN(actions) {
	case 0, 1, 2:
		c.register(p)
	case 3:
		c.leave()
	case 4:
		c.stall()
	case 5:
		if s := c.session; s != nil && !s.process.isDead() {
			s.join(c.pickRoom())
		}
	case 6:
		if s := c.session; s != nil && !s.process.isDead() {
			room := c.pickRoom()
			c.sim.ledger.tell("%s leaves %s at %s: %v", s.name, room, s.process.id, s.process.broker.Room(room).Leave(s.name))
			s.left[room] = time.Now()
		}
	case 7, 8, 9:
		c.publish(p)
	case 10, 11:
		c.sendTo(p)
	case 12:
		c.sendBatch(p)
	default:
		c.send(p)
	}
}

// pickProcess returns the process of the session, or any if there is none.
func (c *simClient) pickProcess() *simProcess {
	if c.session != nil && c.random.IntN(8) > 0 && c.session.process.isUp() {
		return c.session.process
	}
	ps := c.sim.upProcesses()
	if len(ps) == 0 {
		return nil
	}
	return ps[c.random.IntN(len(ps))]
}

func (c *simClient) pickName() string { return c.sim.names[c.random.IntN(len(c.sim.names))] }

// pickRecipient returns a name that gets messages.
func (c *simClient) pickRecipient() string {
	all := c.sim.recipients()
	return all[c.random.IntN(len(all))]
}

func (c *simClient) pickRoom() string { return c.sim.rooms[c.random.IntN(len(c.sim.rooms))] }

// register registers a new connection. The one before stays open, as if its network were gone.
func (c *simClient) register(p *simProcess) {
	name := c.pickName()
	if c.session != nil && c.random.IntN(2) == 0 {
		name = c.session.name
	}
	s := c.sim.ledger.begin(c, p, name)
	s.conn = newSimConn(s)
	if s.conn == nil {
		c.sim.ledger.registered(s, os.ErrClosed)
		return
	}
	s.writer = sendq.NewWriter(s.conn, nil)
	ctx := context.Background()
	patience := 3 * time.Second
	if c.sim.isImpatient {
		patience = 700 * time.Millisecond
	}
	if s.isTimed = c.random.IntN(6) == 0 || c.sim.isImpatient && c.random.IntN(2) == 0; s.isTimed {
		timed, cancel := context.WithTimeout(ctx, time.Duration(c.random.Int64N(int64(patience))))
		defer cancel()
		ctx = timed
	}
	err := p.broker.RegisterContext(ctx, name, s.writer)
	c.sim.ledger.registered(s, err)
	if err != nil {
		_ = s.writer.CloseNow()
		return
	}
	c.sim.watch(s)
	if c.session != nil {
		c.older = append(c.older, c.session)
	}
	c.session = s
	if c.random.IntN(2) == 0 {
		s.join(c.pickRoom())
	}
}

// join makes the name of the session a member of a room.
func (s *simSession) join(room string) {
	err := s.process.broker.Room(room).Join(s.name)
	s.client.sim.ledger.tell("%s joins %s at %s: %v", s.name, room, s.process.id, err)
	if err == nil {
		s.joined[room] = time.Now()
	}
}

// leave ends a session.
func (c *simClient) leave() {
	s := c.session
	if s == nil || c.random.IntN(2) == 0 && len(c.older) > 0 {
		if len(c.older) == 0 {
			return
		}
		s = c.older[0]
		c.older = c.older[1:]
	}
	if s.process.isDead() {
		return
	}
	s.process.gate()
	s.closing = time.Now()
	switch c.random.IntN(3) {
	case 0:
		_ = s.writer.CloseNow()
	case 1:
		s.conn.breakOff() // the Writer notices at the next message
	default:
		go s.writer.Close()
	}
}

// stall makes the peer read nothing for a while.
func (c *simClient) stall() {
	if c.session != nil {
		c.session.conn.stall(time.Duration(c.random.Int64N(int64(8 * time.Second))))
	}
}

func (c *simClient) newMessage(to string) *simMessage {
	return &simMessage{sender: c.id, number: c.number, to: to}
}

// text returns the bytes of a message.
func (m *simMessage) text() []byte { return fmt.Appendf(nil, "%d %d %s\n", m.sender, m.number, m.room) }

func (c *simClient) send(p *simProcess) {
	c.number++
	m := c.newMessage(c.pickRecipient())
	c.sim.ledger.sending(p, m)
	c.sim.ledger.sent(m, p.broker.Send(m.to, m.text()))
}

func (c *simClient) sendTo(p *simProcess) {
	c.number++
	var names []string
	var messages []*simMessage
	all := c.sim.recipients()
	for _, i := range c.random.Perm(len(all))[:1+c.random.IntN(len(all))] {
		names = append(names, all[i])
		messages = append(messages, c.newMessage(all[i]))
	}
	c.sim.ledger.sending(p, messages...)
	r := p.broker.SendTo(names, messages[0].text())
	for _, m := range messages {
		c.sim.ledger.sent(m, refusalOf(r, m.to))
	}
}

// sendBatch sends two messages to each of some names, and one to a room, as one Batch.
func (c *simClient) sendBatch(p *simProcess) {
	b := p.broker.NewBatch()
	var messages []*simMessage
	name := c.pickRecipient()
	for range 2 + c.random.IntN(3) {
		c.number++
		m := c.newMessage(name)
		messages = append(messages, m)
		b.Send(name, m.text())
	}
	c.sim.ledger.sending(p, messages...)
	r := b.Flush()
	refused := 0
	for _, f := range r.Refused {
		refused += f.Messages
	}
	for _, m := range messages {
		err := refusalOf(r, name)
		if err != nil && refused < len(messages) { // it is not said which
			err = fmt.Errorf("%w: some of a batch", sendq.ErrUnconfirmed)
		}
		c.sim.ledger.sent(m, err)
	}
}

// refusalOf returns the error of messages to a name.
func refusalOf(r sendq.Report, name string) error {
	for _, f := range r.Refused {
		if f.Name == name {
			return f.Err
		}
	}
	return nil
}

func (c *simClient) publish(p *simProcess) {
	c.number++
	m := c.newMessage("")
	m.room = c.pickRoom()
	room := p.broker.Room(m.room)
	before := membersOf(room)
	c.sim.ledger.sending(p, m)
	room.Publish(m.text())
	m.members = intersection(before, membersOf(room))
	c.sim.ledger.sent(m, nil)
}

// A simConn is the connection of a session. What is written has arrived, except that the last lines
// for a user may be lost when the connection ends.
type simConn struct {
	session *simSession
	slow    time.Duration // how long Close takes
	user    *simUser      // nil if it is not that of a user

	mu      sync.Mutex
	lag     int      // lines that a user has not read, at most
	unread  []string // by a user
	isCut   bool     // what is written is lost
	closed  chan struct{}
	broken  bool
	stalled time.Time // writes wait until then
}

// newSimConn returns nil if the process is dead.
func newSimConn(s *simSession) *simConn {
	c := &simConn{session: s, closed: make(chan struct{})}
	p := s.process
	if s.client.random.IntN(10) == 0 && s.client.sim.weather != simNoStorm {
		c.slow = time.Duration(s.client.random.Int64N(int64(2 * time.Second)))
	}
	if s.client.sim.isSlow && s.client.random.IntN(2) == 0 {
		c.slow = time.Duration(s.client.random.Int64N(int64(3 * time.Second)))
		c.stalled = time.Now().Add(time.Duration(s.client.random.Int64N(int64(3 * time.Second))))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dead {
		return nil
	}
	p.conns[c] = true
	return c
}

// stall makes writes wait.
func (c *simConn) stall(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stalled = time.Now().Add(d)
}

// breakOff ends the connection from the peer's side.
func (c *simConn) breakOff() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.breakOffLocked()
}

// breakOffLocked is breakOff. mu is held.
func (c *simConn) breakOffLocked() {
	c.discard()
	if !c.broken {
		c.broken = true
		close(c.closed)
	}
}

// discard loses what is unread. mu is held.
func (c *simConn) discard() {
	for _, line := range c.unread {
		c.session.process.sim.ledger.swallowed(c.session, line)
	}
	c.unread = nil
}

// cutOff ends the connection on the peer's side only.
func (c *simConn) cutOff() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.discard()
	c.isCut = true
}

// readAll makes the peer read everything, from now on at once.
func (c *simConn) readAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lag = 0
	c.read()
}

// read makes the peer read all but the last lines. mu is held.
func (c *simConn) read() {
	for len(c.unread) > c.lag {
		line := c.unread[0]
		c.unread = c.unread[1:]
		if c.user != nil {
			c.user.receive(c.session, line)
		} else {
			c.session.process.sim.ledger.written(c.session, line)
		}
	}
}

// isLost reports whether the connection has ended for the peer.
func (c *simConn) isLost() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.broken || c.isCut
}

func (c *simConn) Write(b []byte) (int, error) {
	c.session.process.gate()
	c.mu.Lock()
	defer c.mu.Unlock()
	for wait := time.Until(c.stalled); wait > 0 && !c.broken; wait = time.Until(c.stalled) {
		c.mu.Unlock()
		select {
		case <-time.After(wait):
		case <-c.closed:
		}
		c.mu.Lock()
	}
	if c.broken {
		return 0, net.ErrClosed
	}
	c.unread = slices.AppendSeq(c.unread, strings.Lines(string(b)))
	if c.isCut {
		c.discard()
	}
	c.read()
	return len(b), nil
}

func (c *simConn) Close() error {
	c.breakOff()
	time.Sleep(c.slow)
	return nil
}

func (c *simConn) Read([]byte) (int, error) {
	<-c.closed
	return 0, io.EOF
}

func (c *simConn) LocalAddr() net.Addr              { return simAddr{} }
func (c *simConn) RemoteAddr() net.Addr             { return simAddr{} }
func (c *simConn) SetDeadline(time.Time) error      { return nil }
func (c *simConn) SetReadDeadline(time.Time) error  { return nil }
func (c *simConn) SetWriteDeadline(time.Time) error { return nil }

// A simAddr says that a connection keeps what it was given.
type simAddr struct{}

func (simAddr) Network() string { return "pipe" }
func (simAddr) String() string  { return "pipe" }
