package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/sendq-go/sendq"
)

// A session is what a client needs to come back, and to go on as if nothing had happened.
type session struct {
	hadKey bool // the server gives keys
	key    string
	lines  int      // received on the last connection
	times  int      // how often the server has said that the user is back
	rooms  []string // of the user
	joins  []string // rooms that the client joins again, without an answer yet

	questions int  // /who of the user, without an answer
	hides     bool // the answer to the /who of the client
}

// errTaken means that another user has the name. It may still be the user's own, without a key.
var errTaken = errors.New("another user has your login")

// login returns the first line for the server.
func (c *client) login() string {
	if c.key == "" {
		c.lines, c.times = 0, 0
		return c.name
	}
	return fmt.Sprintf("%s %s %d %d", c.name, c.key, c.lines, c.times)
}

// heed counts and shows a line, unless it is for the client itself.
func (c *client) heed(w *sendq.Writer, line string) error {
	text := strings.TrimSuffix(line, "\n")
	key, isKey := strings.CutPrefix(text, "* your key is ")
	back, isBack := strings.CutPrefix(text, "* back: ")
	switch {
	case !c.isIn && strings.HasPrefix(text, "error: "):
		return c.refused(text)
	case !c.isIn && isBack:
		c.isIn, c.lines, c.times = true, 1, c.times+1
		if n, isCount := strings.CutSuffix(back, " lines"); isCount {
			c.note("back, %s messages caught up", n)
		} else {
			c.note("back, messages may be missing here")
			c.joins = slices.Clone(c.rooms) // the server of the last connection may be gone
		}
		c.rejoin(w)
		return nil
	}
	c.lines++
	switch {
	case isKey:
		c.key = key
		if c.hadKey {
			c.note("logged in anew, messages may be missing here")
			c.joins = slices.Clone(c.rooms)
			c.rejoin(w)
		}
		c.isIn, c.hadKey = true, true
	case strings.HasPrefix(text, "names: ") && c.questions > 0:
		c.questions--
		fmt.Fprint(c.out, line)
	case strings.HasPrefix(text, "names: ") && c.hides:
		c.hides = false
	case !c.joined(text):
		fmt.Fprint(c.out, line)
	}
	return nil
}

// refused returns the error of a refused login. If the server does not know the key any longer, the
// next login is a new one.
func (c *client) refused(text string) error {
	if strings.Contains(text, " is taken") || strings.Contains(text, "log in anew") {
		if c.key == "" {
			return errTaken
		}
		c.key = ""
	}
	return errors.New(text)
}

// rejoin joins rooms again. The user may still be in them.
func (c *client) rejoin(w *sendq.Writer) {
	for _, room := range c.joins {
		fmt.Fprintln(w, "/join "+room)
	}
}

// joined notes that the user is in a room, if text says so. It reports whether text is only for the
// client.
func (c *client) joined(text string) (isHidden bool) {
	room, isNew := strings.CutPrefix(text, "* "+c.name+" joined ")
	if !isNew {
		room, isHidden = strings.CutPrefix(text, "error: already in ")
		isHidden = isHidden && slices.Contains(c.joins, room)
	}
	if isNew && !slices.Contains(c.rooms, room) {
		c.rooms = append(c.rooms, room)
	}
	c.joins = without(c.joins, room)
	return isHidden
}

func without(rooms []string, room string) []string {
	return slices.DeleteFunc(rooms, func(r string) bool { return r == room })
}

// ask makes the server say something.
func (c *client) ask(w *sendq.Writer) {
	c.asks, c.hides = true, true
	fmt.Fprintln(w, "/who")
}

// noteTyped notes what a line of the user will change.
func (c *client) noteTyped(line string) {
	if strings.HasPrefix(line, "/who") {
		c.questions++
	}
	if room, leaves := strings.CutPrefix(line, "/leave "); leaves {
		room = strings.TrimSpace(room)
		c.rooms, c.joins = without(c.rooms, room), without(c.joins, room)
	}
}

// isOwn reports whether the client has sent a line by itself, and will do so again if necessary.
func (c *client) isOwn(line string) bool {
	room, isJoin := strings.CutPrefix(line, "/join ")
	return c.hides && line == "/who" || isJoin && slices.Contains(c.joins, room)
}
