package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"time"

	"github.com/sendq-go/sendq"
)

const (
	answerTimeout = 10 * time.Second // for an answer of the server, and for its goodbye
	silence       = time.Minute      // without a line, before the client asks for one
	shortestPause = 100 * time.Millisecond
	longestPause  = 5 * time.Second
)

// A client sends the lines that a user types, and shows those of the server. If the server gives it a
// key, it comes back by itself after a broken connection.
type client struct {
	dial   func() (net.Conn, error)
	name   string
	typed  *typed
	out    io.Writer                        // for the lines of the server
	note   func(format string, args ...any) // for everything else
	linger time.Duration                    // how long the server keeps the name of a broken connection

	session
	isIn   bool // the server has accepted the login, as far as is known
	quits  bool // the last line on the connection was /quit
	leaves bool // because the user has typed the last line
	asks   bool // for a sign of life
	unsure int  // lines sent after the last one received
}

// run talks until the user or the server ends it. If the server gave no key, the end of the connection
// is the end.
func (c *client) run() error {
	var lost time.Time
	for tries := 0; ; tries++ {
		c.isIn = !c.hadKey // otherwise the server says something first
		conn, err := c.dial()
		if err == nil && !c.hadKey {
			c.note("connected to %v: say bob: hi, *: hi, /who, /join #go, #go: hi; Ctrl-D ends", conn.RemoteAddr())
		}
		if err == nil {
			err = c.talk(conn)
		}
		isOver := time.Since(lost) > c.linger
		switch {
		case err == nil || !c.hadKey:
			return err
		case c.isIn:
			c.note("%v: coming back", err)
			if c.unsure > 0 {
				c.note("your last lines, %d at most, may not have arrived", c.unsure)
			}
			tries, lost, c.unsure = 0, time.Now(), 0
		case isOver && (c.typed.hasEnded() || errors.Is(err, errTaken)):
			return err
		}
		time.Sleep(pause(tries))
	}
}

// pause returns a random time, so that not all clients of a server come back at the same moment.
func pause(tries int) time.Duration {
	longest := min(shortestPause<<min(tries, 10), longestPause)
	return longest/2 + rand.N(longest/2)
}

// talk logs in and talks until the connection ends. It gives back the lines that were not sent.
func (c *client) talk(conn net.Conn) error {
	w := sendq.NewWriter(conn, nil)
	login := c.login()
	fmt.Fprintln(w, login)
	c.quits, c.leaves, c.asks = false, false, false
	received, done := make(chan reception), make(chan struct{})
	go read(conn, received, done)
	defer func() {
		close(done)
		c.keepUnsent(w, login)
	}()
	since, timer := time.Now(), time.NewTimer(0)
	for {
		timer.Reset(time.Until(since.Add(c.patience())))
		var ready <-chan struct{}
		if c.isIn {
			ready = c.typed.ready
		}
		select {
		case r := <-received:
			c.asks, since = false, time.Now()
			if r.err != nil {
				return c.ended(r)
			}
			c.unsure = 0
			if err := c.heed(w, r.line); err != nil {
				return err
			}
		case <-ready:
			if c.send(w); c.leaves {
				since = time.Now()
			}
		case <-timer.C:
			if c.asks || c.leaves || !c.isIn {
				return errors.New("the server does not answer")
			}
			c.ask(w)
			since = time.Now()
		}
	}
}

// patience returns how long to wait for a line since the last one.
func (c *client) patience() time.Duration {
	switch {
	case c.asks || c.leaves || !c.isIn:
		return answerTimeout
	case c.hadKey:
		return silence
	}
	return 1<<63 - 1 // the client could not come back
}

// A reception is a line, or the end of the connection after a part of a line.
type reception struct {
	line string
	err  error
}

func read(conn net.Conn, received chan<- reception, done <-chan struct{}) {
	for lines := bufio.NewReader(conn); ; {
		line, err := lines.ReadString('\n')
		select {
		case received <- reception{line, err}:
		case <-done:
			return
		}
		if err != nil {
			return
		}
	}
}

// ended returns nil if the end of the connection is the goodbye of the server.
func (c *client) ended(r reception) error {
	if !c.hadKey { // otherwise the whole line comes again
		fmt.Fprint(c.out, r.line)
	}
	switch {
	case r.err == io.EOF && c.quits:
		return nil
	case r.err == io.EOF:
		return errors.New("the server closed the connection")
	case c.leaves:
		return fmt.Errorf("the server did not say goodbye: %w", r.err)
	}
	return fmt.Errorf("the connection broke: %w", r.err)
}

// send sends what was typed. After the last line it sends /quit: the server answers all earlier lines
// before it obeys, and closes within 10 seconds.
func (c *client) send(w *sendq.Writer) {
	lines, ended := c.typed.take()
	for _, line := range lines {
		c.quits = line == "/quit"
		c.noteTyped(line)
		fmt.Fprintln(w, line)
	}
	c.unsure += len(lines)
	if ended {
		fmt.Fprintln(w, "/quit")
		c.quits, c.leaves = true, true
	}
}

// keepUnsent ends the Writer. It gives back the lines that the connection has not taken completely; the
// server ignores a part of a line.
func (c *client) keepUnsent(w *sendq.Writer, login string) {
	_ = w.CloseNow()
	var unsent []string
	for message := range w.Undelivered() {
		line := strings.TrimSuffix(string(message), "\n")
		if line != login && !c.isOwn(line) {
			unsent = append(unsent, line)
		}
	}
	c.unsure = max(0, c.unsure-len(unsent))
	c.typed.giveBack(unsent)
}
