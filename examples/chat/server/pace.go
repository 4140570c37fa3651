package server

import "time"

// burst is how long a user may have been silent to say what they did not say then at once.
const burst = 4 * time.Second

// A pace is how fast a user says lines. A nil *pace allows any number.
type pace struct {
	each       time.Duration // the time of one line
	spent      time.Time     // up to when lines have been said; it is ahead by burst at most
	complained time.Time     // when the user was told last
}

func newPace(linesPerSecond int) *pace {
	if linesPerSecond == 0 {
		return nil
	}
	return &pace{each: time.Second / time.Duration(linesPerSecond)}
}

// allows counts a line, unless there were too many.
func (p *pace) allows() bool {
	if p == nil {
		return true
	}
	now := time.Now()
	if p.spent.Before(now) {
		p.spent = now
	}
	next := p.spent.Add(p.each)
	if next.Sub(now) > burst {
		return false
	}
	p.spent = next
	return true
}

// mayComplain tells whether the user may be told of it, once a second: the answers must not
// become the flood that the limit keeps away.
func (p *pace) mayComplain() bool {
	now := time.Now()
	if now.Sub(p.complained) < time.Second {
		return false
	}
	p.complained = now
	return true
}
