package server

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode"
)

const (
	maxLine = 64 << 10 // bytes, without the end of the line
	maxName = 32
)

// clean makes a line harmless for the terminal of whoever gets to see it: U+FFFD
// replaces control characters, among them those of escape sequences, characters that
// change the direction of writing, and what is not UTF-8. A tab becomes a space.
func clean(line string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t':
			return ' '
		case unicode.In(r, unicode.Cc, unicode.Zl, unicode.Zp, unicode.Bidi_Control):
			return unicode.ReplacementChar
		}
		return r
	}, line) // Map sees U+FFFD for each byte that is not UTF-8
}

var (
	namePattern = regexp.MustCompile(fmt.Sprintf(`^[A-Za-z0-9_.-]{1,%d}$`, maxName))
	roomPattern = regexp.MustCompile(fmt.Sprintf(`^#[A-Za-z0-9_.-]{1,%d}$`, maxName))
)

func isName(s string) bool { return namePattern.MatchString(s) }

// A verb is what a line asks for.
type verb int

const (
	toUsers verb = iota // bob, alice: text
	toAll               // *: text
	toRoom              // #room: text
	join                // /join #room
	leave               // /leave #room
	who                 // /who, /who #room
	quit                // /quit
)

// A command is a line that was understood.
type command struct {
	verb  verb
	users []string // of toUsers, each once
	room  string   // of toRoom, join, leave, and of who unless empty
	text  string
}

var errUsage = errors.New("type a message as bob: text, bob, alice: text, *: text or #room: text; " +
	"or /join #room, /leave #room, /who, /who #room, /quit")

// parse understands a line that clean has returned. Its errors say what to type instead.
func parse(line string) (command, error) {
	if strings.HasPrefix(line, "/") {
		return parseSlash(strings.Fields(line))
	}
	to, text, found := strings.Cut(line, ":")
	to, text = strings.TrimSpace(to), strings.TrimSpace(text)
	switch {
	case !found || to == "":
		return command{}, errUsage
	case text == "":
		return command{}, fmt.Errorf("the message is empty: type %s: text", to)
	case to == "*":
		return command{verb: toAll, text: text}, nil
	case strings.HasPrefix(to, "#"):
		return command{verb: toRoom, room: to, text: text}, nil
	}
	cmd := command{verb: toUsers, text: text}
	named := make(map[string]bool)
	for name := range strings.SplitSeq(to, ",") {
		if name = strings.TrimSpace(name); name != "" && !named[name] {
			named[name] = true
			cmd.users = append(cmd.users, name)
		}
	}
	if cmd.users == nil {
		return command{}, errUsage
	}
	return cmd, nil
}

func parseSlash(words []string) (command, error) {
	var cmd command
	switch words[0] {
	case "/join":
		cmd.verb = join
	case "/leave":
		cmd.verb = leave
	case "/who":
		cmd.verb = who
	case "/quit":
		cmd.verb = quit
	default:
		return command{}, errUsage
	}
	switch {
	case cmd.verb == quit && len(words) == 1, cmd.verb == who && len(words) == 1:
		return cmd, nil
	case cmd.verb != quit && len(words) == 2:
		cmd.room = words[1]
		if roomPattern.MatchString(cmd.room) {
			return cmd, nil
		}
		return command{}, fmt.Errorf("a room is '#' and 1 to %d letters (a-z), digits, '_', '-' or '.'", maxName)
	}
	return command{}, errUsage
}
