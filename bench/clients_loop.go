//go:build linux

package main

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// A loop reads the connections of some members and publishers in one goroutine. It only
// counts bytes, because the length of each message is known exactly.
type loop struct {
	clients *clients
	epoll   int
	conns   []*conn // the index is the epoll event's Fd
	window  int64   // number of the current window

	left      int     // connections still waiting for bytes
	completed int     // messages received by every member
	at        []int   // at[n] is the number of members with n messages
	doneAt    []int64 // doneAt[n] is when the last member had n+1 messages; see clients.clock
}

// A conn is the connection of a member or of a publisher.
type conn struct {
	*peer
	publisher bool
	want, got int // bytes of the current window
	messages  int // whole messages of the window, if a member
}

// wakeUp is the index of the descriptor used to end a loop.
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

// add gives the loop a connection. The connection must not have unread data.
func (l *loop) add(c *conn) error {
	if len(c.unread) > 0 {
		return fmt.Errorf("unexpected data from the server: %q", c.unread)
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

// begin resets the counts for a new window, before its first byte is read.
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
		return fmt.Errorf("a connection to the server failed: %w", err)
	case n == 0:
		return fmt.Errorf("the server closed a connection")
	}
	c.got += n
	if c.got > c.want {
		return fmt.Errorf("the server sent %d bytes; expected %d", c.got, c.want)
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

// maxRead is the maximum number of bytes in one read.
const maxRead = 256 << 10

// drain discards up to n bytes of a TCP connection without copying them, to leave the CPU to
// the server.
func drain(fd, n int) (int, error) {
	got, _, errno := unix.Syscall6(unix.SYS_RECVFROM, uintptr(fd), 0, uintptr(n), unix.MSG_TRUNC, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(got), nil
}

// count updates the number of a member's messages, and doneAt if the member was the last.
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

// clock returns the time since the clients were created.
func (c *clients) clock() int64 { return int64(time.Since(c.created)) }
