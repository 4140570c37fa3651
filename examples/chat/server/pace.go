package server

import "time"

// burst is the longest silence to count: its lines may all come at once afterwards.
const burst = 4 * time.Second

// A pace limits the lines of a user. A nil *pace allows any number.
type pace struct {
	each       time.Duration // the time for one line
	spent      time.Time     // the time that lines have used up; at most burst from now
	complained time.Time     // the time of the last complaint
}

func newPace(linesPerSecond int) *pace {
	if linesPerSecond == 0 {
		return nil
	}
	return &pace{each: time.Second / time.Duration(linesPerSecond)}
}

// allows reports whether another line is within the limit, and counts it if so.
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

// mayComplain reports whether the user may be told, which is once a second. Otherwise the complaints
// would be a flood themselves.
func (p *pace) mayComplain() bool {
	now := time.Now()
	if now.Sub(p.complained) < time.Second {
		return false
	}
	p.complained = now
	return true
}
