package queue

import (
	"iter"
	"slices"
)

// A History keeps the last messages: at most MaxMessages, and, unless MaxBytes is 0, at most
// MaxBytes of them together. It copies all but long messages, because the blocks they came in
// may be much larger. It is not safe for concurrent use.
type History struct {
	MaxMessages, MaxBytes int

	queue    Queue
	messages int
}

// Add adds the messages of r, and drops the oldest ones beyond the limits.
func (h *History) Add(r Run) {
	if h.MaxMessages == 0 {
		return
	}
	for i := range r.Len() {
		h.add(r.Message(i))
	}
}

func (h *History) add(p []byte) {
	h.queue.keep(p)
	h.messages++
	for h.messages > h.MaxMessages || h.MaxBytes > 0 && h.queue.bytes > int64(h.MaxBytes) {
		h.queue.DropOldest(1)
		h.messages--
	}
}

// Precede puts older messages before the kept ones.
func (h *History) Precede(older [][]byte) {
	newer := slices.Collect(h.queue.All())
	*h = History{MaxMessages: h.MaxMessages, MaxBytes: h.MaxBytes}
	for _, p := range slices.Concat(older, newer) {
		h.add(p)
	}
}

// Last yields the last n messages, or all if there are fewer.
func (h *History) Last(n int) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		skip := max(0, h.messages-max(0, n))
		for p := range h.queue.All() {
			if skip--; skip < 0 && !yield(p) {
				return
			}
		}
	}
}
