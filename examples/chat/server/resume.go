package server

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/examples/chat/core"
)

// With Resume, the last keptBytes of a user's lines are kept, because the kernels may lose what they
// hold of a broken connection. Each line counts 64 bytes more. The kernel here holds at most twice the
// send buffer. The rest is for the user's kernel, and for new lines while the user is away. The protocol
// has no acknowledgement, so they are kept until the user comes back or leaves.
const (
	keptBytes  = 2 << 20
	sendBuffer = 64 << 10
)

// boundKernel bounds what the kernel takes and may lose.
func boundKernel(conn net.Conn) {
	for {
		switch c := conn.(type) {
		case interface{ SetWriteBuffer(bytes int) error }:
			_ = c.SetWriteBuffer(sendBuffer) // at worst, lines are missing later, and the user is told
			return
		case interface{ NetConn() net.Conn }:
			conn = c.NetConn()
		default:
			return
		}
	}
}

// giveKey gives the user a key to come back with.
func (c *session) giveKey() error {
	var key string
	c.ticket, key = newTicket()
	if err := c.armour.tickets.Put(c.Ctx, c.Name, c.ticket); err != nil {
		return c.notNow(c.Name, err)
	}
	c.Reply("* your key is %s", key)
	return nil
}

// notNow logs an error, and returns one for the user.
func (c *session) notNow(user string, err error) error {
	c.armour.opts.Log.Warn("login failed", "user", user, "error", err)
	return errors.New("nobody can log in at the moment, try again later")
}

// A comeback is the first line of a user who comes back: NAME KEY N T. N is the number of lines received
// on the last connection, and T the number of answers to earlier comebacks. With T, the server knows
// which connection was the last one for the user. Without T, it is the last one of the server.
type comeback struct {
	name, key string
	lines     int64
	times     int // -1: not said
}

// parseComeback returns nil if the line is a login, valid or not.
func parseComeback(line string) (*comeback, error) {
	words := strings.Split(line, " ")
	if len(words) != 3 && len(words) != 4 || !core.IsName(words[0]) {
		return nil, nil
	}
	lines, err := strconv.ParseUint(words[2], 10, 62)
	times := -1
	if len(words) == 4 && err == nil {
		var n uint64
		n, err = strconv.ParseUint(words[3], 10, 31)
		times = int(n)
	}
	if err != nil {
		return nil, errors.New("to come back, say NAME KEY N, with the number N of lines received on the last connection")
	}
	return &comeback{words[0], words[1], int64(lines), times}, nil
}

// comeBack gives the user the name again, and sends everything that has not arrived.
func (c *session) comeBack(b *comeback) error {
	t, err := c.armour.tickets.Get(c.Ctx, b.name)
	switch {
	case err != nil:
		return c.notNow(b.name, err)
	case !t.hasKey(b.key):
		return fmt.Errorf("the login %s is taken, choose another one", b.name)
	}
	if b.times >= 0 {
		err = c.resume(b, t, b.times)
	} else if err = c.resume(b, t, t.last()); errors.Is(err, sendq.ErrWrongCount) {
		err = c.resume(b, t, t.last()-1) // the user has not noticed the last connection
	}
	switch {
	case errors.Is(err, sendq.ErrWrongCount):
		return errors.New("it is unknown which lines you have received, log in anew when the login is free")
	case err != nil:
		return c.notNow(b.name, err)
	}
	c.Name, c.Rooms = b.name, slices.Collect(c.Broker.RoomsOf(b.name))
	return c.Conn.SetReadDeadline(time.Time{})
}

// resume resumes the connection after times returns.
func (c *session) resume(b *comeback, t Ticket, times int) error {
	total, isKnown := t.total(b.lines, times)
	if !isKnown {
		return sendq.ErrWrongCount
	}
	_, err := c.Broker.Resume(c.Ctx, b.name, c.W, total, func(r sendq.Resumed) []byte {
		c.ticket = t.next(total, times)
		if err := c.armour.tickets.Put(c.Ctx, b.name, c.ticket); err != nil {
			c.armour.opts.Log.Warn("the user cannot come back again", "user", b.name, "error", err)
		}
		if r.Missed != 0 {
			return c.Line("* back: lines are missing")
		}
		return c.Line("* back: %d lines", r.Messages)
	})
	return err
}
