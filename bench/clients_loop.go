//go:build linux

package main

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// A loop reads the connections of some members and publishers, with one thread and one
// buffer. It only counts: what a member gets is known to the byte.
type loop struct {
	clients *clients
	epoll   int
	conns   []*conn // by the index that epoll knows
	window  int64   // the window that what follows is about

	left      int     // connections that have not got everything
	completed int     // how many messages all members have at least
	at        []int   // how many members have so many messages
	doneAt    []int64 // when the last member had so many and one more; see clients.clock
}

// A conn is the connection of a member or of a publisher.
type conn struct {
	*peer
	publisher bool
	want, got int // bytes in this window
	messages  int // that a member has of this window
}

// wakeUp is the index of the descriptor that ends a loop.
const wakeUp = -1

func newLoop(c *clients) (*loop, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	l := &loop{clients: c, epoll: epoll}
	if err := l.watch(c.wake, wakeUp); err != nil {
		unix.Close(epoll)
		return nil, err
	}
	return l, nil
}

// add gives the loop a connection. Nothing may be on its way to it.
func (l *loop) add(c *conn) error {
	if len(c.unread) > 0 {
		return fmt.Errorf("the server has said too much: %q", c.unread)
	}
	if err := unix.SetNonblock(c.fd, true); err != nil {
		return fmt.Errorf("make a connection non-blocking: %w", err)
	}
	l.conns = append(l.conns, c)
	return l.watch(c.fd, len(l.conns)-1)
}

func (l *loop) watch(fd, index int) error {
	event := &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(index)}
	if err := unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, fd, event); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	return nil
}

// run reads until the clients are closed.
func (l *loop) run() {
	defer l.clients.running.Done()
	events := make([]unix.EpollEvent, 64)
	for {
		n, err := unix.EpollWait(l.epoll, events, -1)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			l.clients.fail(fmt.Errorf("epoll: %w", err))
			return
		}
		if window := l.clients.window.Load(); window != l.window {
			l.begin(window)
		}
		for _, event := range events[:n] {
			if event.Fd == wakeUp {
				return
			}
			if err := l.read(l.conns[event.Fd]); err != nil {
				l.clients.fail(err)
				return
			}
		}
	}
}

// begin forgets the last window. It comes before the first byte of the new one.
func (l *loop) begin(window int64) {
	inFlight := l.clients.inFlight
	l.window = window
	l.left, l.completed = 0, 0
	if len(l.at) != inFlight+1 {
		l.at, l.doneAt = make([]int, inFlight+1), make([]int64, inFlight)
	}
	clear(l.at)
	for _, c := range l.conns {
		c.got, c.messages = 0, 0
		if !c.publisher {
			c.want = inFlight * l.clients.frame
			l.at[0]++
		}
		if c.want > 0 {
			l.left++
		}
	}
}

func (l *loop) read(c *conn) error {
	n, err := drain(c.fd, maxRead)
	switch {
	case err == unix.EAGAIN || err == unix.EINTR:
		return nil
	case err != nil:
		return fmt.Errorf("the server has broken a connection: %w", err)
	case n == 0:
		return fmt.Errorf("the server has ended a connection")
	}
	c.got += n
	if c.got > c.want {
		return fmt.Errorf("the server has sent %d bytes, and %d were due", c.got, c.want)
	}
	if !c.publisher {
		l.count(c)
	}
	if c.got == c.want {
		if l.left--; l.left == 0 {
			l.clients.loopDone()
		}
	}
	return nil
}

// maxRead is how much a connection may bring at once, in bytes.
const maxRead = 256 << 10

// drain takes up to n bytes from a TCP connection without a copy: what members do takes
// as little as it can of the machine that they share with the server.
func drain(fd, n int) (int, error) {
	got, _, errno := unix.Syscall6(unix.SYS_RECVFROM, uintptr(fd), 0, uintptr(n), unix.MSG_TRUNC, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(got), nil
}

// count notes how many messages a member has, and when the last one has them.
func (l *loop) count(c *conn) {
	messages := c.got / l.clients.frame
	if messages == c.messages {
		return
	}
	l.at[c.messages]--
	l.at[messages]++
	wasLast := c.messages == l.completed && l.at[c.messages] == 0
	c.messages = messages
	if !wasLast {
		return
	}
	now := l.clients.clock()
	for l.at[l.completed] == 0 {
		l.doneAt[l.completed] = now
		l.completed++
	}
}

// clock returns the time since the clients were made.
func (c *clients) clock() int64 { return int64(time.Since(c.created)) }
