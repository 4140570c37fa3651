package queue

import (
	"slices"
	"time"
)

// Ages measures how long pending messages have waited, without reading the clock for each. It
// keeps a few marks, made when a conn.Write begins and when somebody asks. So an age may be too
// low by the time between two marks, but never too high. It is not safe for concurrent use.
type Ages struct {
	oldest mark
	later  *[]mark // nil until a backlog lives long enough for a second mark
}

// A mark says that the given number of messages at the front of the queue had been accepted at
// a certain time. A mark without messages is void.
type mark struct {
	messages int64
	at       time.Duration // on the clock of Now
}

// The marks of a backlog are at least an eighth of its age apart, and at least a millisecond.
const (
	marksPerAge     = 8
	maxMarks        = 2 * marksPerAge
	minMarkInterval = time.Millisecond
)

var start = time.Now()

// Now returns the time of a monotonic clock. It takes half the space of a time.Time.
func Now() time.Duration { return time.Since(start) }

// Sample makes a mark if no recent mark covers all of the pending messages.
func (a *Ages) Sample(pending int64, at time.Duration) {
	if a.oldest.messages == 0 {
		a.oldest = mark{pending, at}
		return
	}
	var marks []mark
	if a.later != nil {
		marks = *a.later
	}
	last := a.oldest
	if len(marks) > 0 {
		last = marks[len(marks)-1]
	}
	interval := max(minMarkInterval, (at-a.oldest.at)/marksPerAge)
	if last.messages == pending || at-last.at < interval {
		return
	}
	if len(marks) == maxMarks {
		// The others were made when the backlog was younger, and are too close together.
		last = a.oldest
		marks = slices.DeleteFunc(marks, func(m mark) bool {
			if m.at-last.at < interval {
				return true
			}
			last = m
			return false
		})
	}
	if a.later == nil {
		a.later = new([]mark)
	}
	*a.later = append(marks, mark{pending, at})
}

// Written accounts for n messages removed from the front of the queue.
func (a *Ages) Written(n int64) {
	a.oldest.messages -= n
	if a.later == nil {
		a.oldest.messages = max(0, a.oldest.messages)
		return
	}
	for i := range *a.later {
		(*a.later)[i].messages -= n
	}
	a.promote()
}

// promote replaces a void oldest mark by the first one that is not void.
func (a *Ages) promote() {
	for a.oldest.messages <= 0 && len(*a.later) > 0 {
		a.oldest = (*a.later)[0]
		*a.later = (*a.later)[1:]
	}
	a.oldest.messages = max(0, a.oldest.messages)
}

// Shift accounts for n messages inserted after the first i, or removed there if n is negative.
func (a *Ages) Shift(i, n int64) {
	if a.oldest.messages > i {
		a.oldest.messages = max(i, a.oldest.messages+n)
	}
	if a.later == nil {
		return
	}
	for j := range *a.later {
		if m := &(*a.later)[j]; m.messages > i {
			m.messages = max(i, m.messages+n)
		}
	}
	a.promote()
}

// Forget makes the marks that cover no message after the first j cover only the first i. The messages
// in between were inserted there, and may be younger than the marks of those that were removed.
func (a *Ages) Forget(i, j int64) {
	if a.oldest.messages <= j {
		a.oldest.messages = min(a.oldest.messages, i)
	}
	if a.later == nil {
		return
	}
	for k := range *a.later {
		if m := &(*a.later)[k]; m.messages <= j {
			m.messages = min(m.messages, i)
		}
	}
	a.promote()
}

// Skip makes the last d before at not count.
func (a *Ages) Skip(d, at time.Duration) {
	a.oldest.at = min(a.oldest.at+d, at)
	if a.later != nil {
		for i := range *a.later {
			m := &(*a.later)[i]
			m.at = min(m.at+d, at)
		}
	}
}

// Clamp makes no message older than d. Otherwise the marks would become as far apart as befits the
// age of a message that never expires.
func (a *Ages) Clamp(d, at time.Duration) {
	a.oldest.at = max(a.oldest.at, at-d)
	if a.later != nil {
		for i := range *a.later {
			m := &(*a.later)[i]
			m.at = max(m.at, at-d)
		}
	}
}

// Older returns how many messages have waited for d, at least.
func (a *Ages) Older(d, at time.Duration) (messages int64) {
	if a.oldest.messages == 0 || at-a.oldest.at < d {
		return 0
	}
	messages = a.oldest.messages
	if a.later != nil {
		for _, m := range *a.later {
			if at-m.at < d {
				break
			}
			messages = m.messages
		}
	}
	return messages
}

// Age returns how long the oldest message has waited, at least.
func (a *Ages) Age(at time.Duration) time.Duration {
	if a.oldest.messages == 0 {
		return 0
	}
	return at - a.oldest.at
}
