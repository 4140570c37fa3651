package sendq

import "time"

// ages knows how long pending messages have waited, without a look at the clock for
// each. It is a few marks, which are made for every conn.Write and whenever somebody
// asks. So an age may come out too low, by the time between two marks, but never too
// high.
type ages struct {
	oldest mark
	later  *[]mark // nil until a backlog lives long enough for a second mark
}

// A mark says that so many messages at the front of the queue were accepted by then. It
// is void when it has none left.
type mark struct {
	messages int64
	at       time.Duration // by now
}

const (
	maxMarks     = 8
	markInterval = time.Millisecond // none is made sooner after another
)

var start = time.Now()

// now returns the time of a monotonic clock, in half the space of a time.Time.
func now() time.Duration { return time.Since(start) }

// note makes a mark if there are messages that none covers.
func (a *ages) note(pending int64, at time.Duration) {
	if a.oldest.messages == 0 {
		a.oldest = mark{pending, at}
		return
	}
	if a.later == nil {
		a.later = new([]mark)
	}
	marks := *a.later
	last := a.oldest
	if len(marks) > 0 {
		last = marks[len(marks)-1]
	}
	if last.messages == pending || at-last.at < markInterval {
		return
	}
	if len(marks) == maxMarks {
		// Every second will do: the older a backlog, the coarser its marks.
		for i := range maxMarks / 2 {
			marks[i] = marks[2*i+1]
		}
		marks = marks[:maxMarks/2]
	}
	marks = append(marks, mark{pending, at})
	a.later = &marks
}

// written says that n messages have left the front of the queue.
func (a *ages) written(n int64) {
	a.oldest.messages = max(0, a.oldest.messages-n)
	if a.later == nil {
		return
	}
	marks := *a.later
	for i := range marks {
		marks[i].messages -= n
	}
	for a.oldest.messages == 0 && len(marks) > 0 {
		a.oldest.messages = max(0, marks[0].messages)
		a.oldest.at = marks[0].at
		marks = marks[1:]
	}
	a.later = &marks
}

// dropped says that the message behind the first i has left the queue.
func (a *ages) dropped(i int64) {
	if a.oldest.messages > i {
		a.oldest.messages--
	}
	if a.later != nil {
		for j := range *a.later {
			if m := &(*a.later)[j]; m.messages > i {
				m.messages--
			}
		}
	}
}

// age returns how long the oldest message has waited, at least.
func (a *ages) age(at time.Duration) time.Duration {
	if a.oldest.messages == 0 {
		return 0
	}
	return at - a.oldest.at
}
