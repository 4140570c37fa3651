//go:build linux

package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A crowd is the users of a userServer. It also publishes to their rooms, at a fixed rate and in
// turn. The messages of a room have the numbers 1, 2, 3 and so on. A crowd has no goroutine: its
// methods publish and read until something has happened.
type crowd struct {
	server  *child
	resumes bool
	rooms   int
	rate    int // messages per second to each room
	control *peer
	answers *bufio.Reader // from control
	epoll   int
	buf     []byte
	users   []roomUser

	isPublishing bool
	since        time.Time // start of publishing
	published    int       // messages to all rooms together

	waiting int     // users who do not have everything yet
	times   []int64 // ns that the others took since their dial
}

// A roomUser has one connection at a time. Messages that a connection of a user brings must have
// consecutive numbers.
type roomUser struct {
	*peer
	room     string
	resumes  bool
	have     int // the highest number received
	next     int // the number of the next message; 0 if any may come
	answered bool

	missed, repeated int

	dialed time.Time
	due    int // the number that the user waits for
	waits  bool
}

// ackEvery is the number of messages that a user acknowledges together. The users of a room do so in
// turn.
const ackEvery = 8

func newCrowd(server *child, kind string, users, rooms, rate int) (*crowd, error) {
	c := &crowd{server: server, resumes: kind == resumeKind, rooms: rooms, rate: rate,
		buf: make([]byte, 64<<10), users: make([]roomUser, users)}
	for i := range c.users {
		c.users[i] = roomUser{room: roomOf(i % rooms), resumes: c.resumes}
	}
	var err error
	if c.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	if c.control, err = connect(server.addr, 0, false); err != nil {
		unix.Close(c.epoll)
		return nil, err
	}
	c.answers = bufio.NewReader(c.control)
	if err := c.control.send("control\n"); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func roomOf(i int) string { return fmt.Sprintf("room%d", i) }

func (c *crowd) close() {
	for i := range c.users {
		c.users[i].hangUp()
	}
	c.control.close()
	unix.Close(c.epoll)
}

// ask asks the server on the control connection.
func (c *crowd) ask(question string) (float64, error) {
	if err := c.control.send(question + "\n"); err != nil {
		return 0, err
	}
	answer, err := c.answers.ReadString('\n')
	if err != nil {
		return 0, err
	}
	return strconv.ParseFloat(strings.TrimSpace(answer), 64)
}

// logIn connects all users for the first time.
func (c *crowd) logIn() error {
	for i := range c.users {
		if err := c.dial(i); err != nil {
			return err
		}
		if c.waiting < parallelLogins && i < len(c.users)-1 {
			continue
		}
		if err := c.runUntil(func() (bool, error) { return c.waiting == 0, nil }); err != nil {
			return err
		}
	}
	return nil
}

// chat publishes for some time. In the last part of it nobody reads, so the kernel has messages for
// all users.
func (c *crowd) chat(reading, notReading time.Duration) error {
	c.isPublishing, c.since = true, time.Now()
	until := c.since.Add(reading)
	if err := c.runUntil(func() (bool, error) { return time.Now().After(until), nil }); err != nil {
		return err
	}
	for until = until.Add(notReading); time.Now().Before(until); time.Sleep(time.Millisecond) {
		if err := c.publish(); err != nil {
			return err
		}
	}
	return nil
}

// breakAll resets all connections, and waits until the server has noticed.
func (c *crowd) breakAll() error {
	for i := range c.users {
		reset := &unix.Linger{Onoff: 1}
		if err := unix.SetsockoptLinger(c.users[i].fd, unix.SOL_SOCKET, unix.SO_LINGER, reset); err != nil {
			return err
		}
		c.users[i].hangUp()
	}
	return c.runUntil(func() (bool, error) {
		time.Sleep(5 * time.Millisecond) // the question costs the server CPU
		present, err := c.ask(askPresent)
		return present == 0, err
	})
}

// comeBack connects all users again, at even intervals from now to end, and waits until each of them
// has the messages published before its dial.
func (c *crowd) comeBack(end time.Time) error {
	c.times = c.times[:0]
	start := time.Now()
	interval := max(0, end.Sub(start)) / time.Duration(len(c.users))
	back := 0
	return c.runUntil(func() (bool, error) {
		for ; back < len(c.users) && time.Since(start) >= time.Duration(back+1)*interval; back++ {
			if err := c.dial(back); err != nil {
				return false, err
			}
		}
		return back == len(c.users) && c.waiting == 0, nil
	})
}

// finish stops publishing, and checks that all users receive the rest and nothing else. It returns
// how many messages all of them have missed and received again.
func (c *crowd) finish() (missed, repeated int, err error) {
	c.isPublishing = false
	if err := c.runUntil(func() (bool, error) { return c.hasAll(), nil }); err != nil {
		return 0, 0, err
	}
	silence := time.Now().Add(50 * time.Millisecond)
	if err := c.runUntil(func() (bool, error) { return time.Now().After(silence), nil }); err != nil {
		return 0, 0, err
	}
	for i := range c.users {
		missed += c.users[i].missed
		repeated += c.users[i].repeated
	}
	return missed, repeated, nil
}

// hasAll reports whether all users have everything that was published.
func (c *crowd) hasAll() bool {
	for i := range c.users {
		if c.users[i].have < c.publishedTo(i%c.rooms) {
			return false
		}
	}
	return true
}

// runUntil publishes and reads until done returns true or an error.
func (c *crowd) runUntil(done func() (bool, error)) error {
	events := make([]unix.EpollEvent, 256)
	for deadline := time.Now().Add(windowTimeout); ; {
		isDone, err := done()
		if isDone || err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("messages are lost, or take longer than %v", windowTimeout)
		}
		if err := c.publish(); err != nil {
			return err
		}
		n, err := unix.EpollWait(c.epoll, events, 1)
		if err != nil && err != unix.EINTR {
			return fmt.Errorf("epoll: %w", err)
		}
		for _, event := range events[:max(0, n)] {
			if err := c.read(int(event.Fd)); err != nil {
				return fmt.Errorf("user %d: %w", event.Fd, err)
			}
		}
	}
}

// publish publishes the messages that are due.
func (c *crowd) publish() error {
	if !c.isPublishing {
		return nil
	}
	due := int(time.Since(c.since).Seconds() * float64(c.rate*c.rooms))
	var lines []byte
	for ; c.published < due; c.published++ {
		lines = fmt.Appendf(lines, "%s %d %s\n", roomOf(c.published%c.rooms), c.published/c.rooms+1, payload)
	}
	if lines == nil {
		return nil
	}
	return c.control.write(lines)
}

// publishedTo returns the number of messages published to a room.
func (c *crowd) publishedTo(room int) int {
	return (c.published + c.rooms - 1 - room) / c.rooms
}

// dial connects user i.
func (c *crowd) dial(i int) error {
	u := &c.users[i]
	u.dialed, u.due, u.waits = time.Now(), c.publishedTo(i%c.rooms), true
	c.waiting++
	u.begin()
	var err error
	if u.peer, err = connect(c.server.addr, i, false); err != nil {
		return err
	}
	if err := u.send(fmt.Sprintf("user user%d %s %d\n", i, u.room, u.have)); err != nil {
		return err
	}
	if err := unix.SetNonblock(u.fd, true); err != nil {
		return fmt.Errorf("make a connection non-blocking: %w", err)
	}
	event := &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(i)}
	if err := unix.EpollCtl(c.epoll, unix.EPOLL_CTL_ADD, u.fd, event); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	return nil
}

// read reads what user i has received.
func (c *crowd) read(i int) error {
	u := &c.users[i]
	n, err := unix.Read(u.fd, c.buf)
	switch {
	case err == unix.EAGAIN || err == unix.EINTR:
		return nil
	case err != nil:
		return fmt.Errorf("receive from the server: %w", err)
	case n == 0:
		return errors.New("the server closed the connection")
	}
	had := u.have
	if err := u.receive(c.buf[:n]); err != nil {
		return err
	}
	if turn := i / c.rooms % ackEvery; u.resumes && (u.have+turn)/ackEvery > (had+turn)/ackEvery {
		if err := u.send(fmt.Sprintln(u.have)); err != nil {
			return err
		}
	}
	if u.waits && u.answered && u.have >= u.due {
		u.waits = false
		c.waiting--
		c.times = append(c.times, int64(time.Since(u.dialed)))
	}
	return nil
}

// begin prepares for the answer on a new connection.
func (u *roomUser) begin() {
	u.answered, u.next = false, 0
	if u.resumes {
		u.next = u.have + 1
	}
}

// hangUp closes the connection, if there is one. A part of a message does not count.
func (u *roomUser) hangUp() {
	if u.peer != nil {
		u.peer.close()
		u.peer = nil
	}
}

// receive takes the next bytes of the connection. A part of a line stays in unread.
func (u *roomUser) receive(b []byte) error {
	if len(u.unread) > 0 {
		b = append(u.unread, b...)
	}
	for {
		line, rest, found := bytes.Cut(b, []byte("\n"))
		if !found {
			u.unread = bytes.Clone(b)
			return nil
		}
		if err := u.take(line); err != nil {
			return err
		}
		b = rest
	}
}

// take takes one line.
func (u *roomUser) take(line []byte) error {
	if !u.answered {
		return u.takeAnswer(string(line))
	}
	room, rest, _ := bytes.Cut(line, []byte(" "))
	digits, text, _ := bytes.Cut(rest, []byte(" "))
	number, err := strconv.Atoi(string(digits))
	if err != nil || number < 1 || string(room) != u.room || string(text) != payload {
		return fmt.Errorf("unexpected line from the server: %q", line)
	}
	switch u.next {
	case number:
	case 0:
		u.missed += max(0, number-u.have-1)
		u.repeated += max(0, u.have-number+1)
	default:
		return fmt.Errorf("message %d; expected %d", number, u.next)
	}
	u.have, u.next = max(u.have, number), number+1
	return nil
}

// takeAnswer takes the answer to the first line of the connection: how many messages are missed. It
// is -1 at the first login, and always without Resume.
func (u *roomUser) takeAnswer(missed string) error {
	if missed != "0" && (missed != "-1" || u.resumes && u.have > 0) {
		return fmt.Errorf("expected the number of missed messages, 0 or unknown; got %q", missed)
	}
	u.answered = true
	return nil
}
