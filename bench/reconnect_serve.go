//go:build linux

package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/sendq-go/sendq"
)

// The kinds of servers for users who come back.
const (
	resumeKind = "resume" // by Resume
	replayKind = "replay" // by a new login, with the last messages of the room
)

const (
	reconnectKeep   = 64 << 10 // bytes kept for a user: about 400 messages
	reconnectLinger = time.Minute
)

// A userServer serves users and a control connection. A user's first line is
//
//	user NAME ROOM RECEIVED
//
// and the first line of the answer is how many messages are gone. All other lines of the server are
// messages. The user's other lines acknowledge messages.
//
// The first line of a control connection is "control". A line such as askMemory gets an answer, and
// any other line is a message to the room in its first word.
type userServer struct {
	*sendq.Broker
	resumes bool
	replay  int // messages for a user who logs in again
}

// The questions on a control connection. The answers are numbers.
const (
	askMemory  = "memory"  // bytes in use
	askPresent = "present" // users with a connection
)

// lastMember is in all rooms, because a room without members forgets its messages.
const lastMember = "last member"

func serveUsers(kind, replay, addr string) error {
	messages, err := strconv.Atoi(replay)
	if err != nil {
		return err
	}
	s := &userServer{resumes: kind == resumeKind, replay: messages}
	options := &sendq.BrokerOptions{ReplayMessages: messages}
	if s.resumes {
		options = &sendq.BrokerOptions{Linger: reconnectLinger}
	}
	s.Broker = sendq.NewBroker(options)
	if err := s.Register(lastMember, sendq.NewWriter(discard{}, nil)); err != nil {
		return err
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go s.serve(conn)
	}
}

func (s *userServer) serve(conn net.Conn) {
	defer conn.Close()
	in := bufio.NewReaderSize(conn, 64) // small, because each user has one
	line, err := in.ReadString('\n')
	if err != nil {
		return
	}
	if line == "control\n" {
		s.control(conn, bufio.NewReader(in))
		return
	}
	var options sendq.WriterOptions
	if s.resumes {
		options.Keep = reconnectKeep
	}
	w := sendq.NewWriter(conn, &options)
	defer w.Close()
	if err := s.enter(line, w); err != nil {
		fmt.Fprintf(w, "error: %v\n", err)
		return
	}
	for {
		line, err := in.ReadString('\n')
		if err == nil {
			err = acknowledge(w, line)
		}
		if err != nil {
			w.Fail(err)
			return
		}
	}
}

// enter answers the first line of a user.
func (s *userServer) enter(line string, w *sendq.Writer) error {
	var name, room string
	var received int64
	if _, err := fmt.Sscanf(line, "user %s %s %d\n", &name, &room, &received); err != nil {
		return err
	}
	if err := s.Room(room).Join(lastMember); err != nil {
		return err
	}
	if s.resumes {
		answer := func(r sendq.Resumed) []byte { return fmt.Appendf(nil, "%d\n", r.Missed) }
		if _, err := s.Resume(context.Background(), name, w, received, answer); err != nil {
			return err
		}
		return s.Room(room).Join(name) // nothing new, unless this is the first login
	}
	fmt.Fprintln(w, -1) // unknown
	if err := s.Register(name, w); err != nil {
		return err
	}
	_, err := s.Room(room).JoinReplay(name, s.replay)
	return err
}

func acknowledge(w *sendq.Writer, line string) error {
	n, err := strconv.ParseInt(strings.TrimSpace(line), 10, 64)
	if err != nil {
		return err
	}
	return w.Acknowledge(n)
}

// control serves a control connection.
func (s *userServer) control(conn net.Conn, in *bufio.Reader) {
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		switch room, _, _ := strings.Cut(strings.TrimSpace(line), " "); room {
		case askMemory:
			bytes, _ := memoryInUse()
			fmt.Fprintln(conn, bytes)
		case askPresent:
			fmt.Fprintln(conn, s.Len()-s.Stats().Away-1) // without lastMember
		default:
			s.Room(room).Publish([]byte(line))
		}
	}
}
