package main

import (
	"bufio"
	"io"
	"slices"
	"strings"
	"sync"
)

// typed holds the lines that the user has typed and the client has not sent.
type typed struct {
	ready chan struct{} // has a value if there may be something to take

	mu    sync.Mutex
	lines []string
	ended bool
}

// readTyped returns what is typed into in, from now on.
func readTyped(in io.Reader) *typed {
	t := &typed{ready: make(chan struct{}, 1)}
	go func() {
		for lines := bufio.NewReader(in); ; {
			line, err := lines.ReadString('\n')
			t.add(line, err)
			if err != nil {
				return
			}
		}
	}()
	return t
}

// add adds a line. The last one may have no end, and may be empty then.
func (t *typed) add(line string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if line != "" {
		t.lines = append(t.lines, strings.TrimRight(line, "\r\n"))
	}
	t.ended = err != nil
	t.signal()
}

func (t *typed) signal() {
	select {
	case t.ready <- struct{}{}:
	default:
	}
}

// take takes all lines, and reports whether the user has typed the last one.
func (t *typed) take() (lines []string, ended bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines, t.lines = t.lines, nil
	return lines, t.ended
}

// giveBack puts lines before all others.
func (t *typed) giveBack(lines []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lines = slices.Concat(lines, t.lines)
	t.signal() // also for the end
}

func (t *typed) hasEnded() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ended
}
