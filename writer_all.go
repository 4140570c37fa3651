package sendq

import (
	"iter"

	"github.com/sendq-go/sendq/internal/queue"
)

// WriteAll queues p for all of the writers, and returns how many accepted it and did not drop it at
// once. It is for programs that keep Writers without a Broker. In a loop of Write, the caller itself
// writes to each idle Writer. WriteAll leaves that to a few goroutines, as a Broker does. It copies
// p once for all.
//
// In the end WriteAll calls refused for each of the other Writers, with the error of Write, unless
// refused is nil. WriteAll does not wait for any Writer: where Write would wait, the error is
// ErrWouldBlock. The iteration must not wait for one either. A Writer that comes twice gets p
// twice.
//
// Messages of one goroutine reach each Writer in call order. If several goroutines call WriteAll,
// two Writers may get their messages in different orders; the members of a Room see one order.
func WriteAll(writers iter.Seq[*Writer], p []byte, refused func(*Writer, error)) (accepted int) {
	accepted, refusals := writeAll(writers, p)
	if refused != nil {
		for _, r := range refusals {
			refused(r.writer, r.err)
		}
	}
	return accepted
}

// A writerRefusal is a Writer that did not accept a message, or dropped it at once.
type writerRefusal struct {
	writer *Writer
	err    error
}

// writeAll is WriteAll without the calls of refused, which may wait for Writers that are still to
// be woken here.
func writeAll(writers iter.Seq[*Writer], p []byte) (accepted int, refusals []writerRefusal) {
	m := payload{run: queue.Shared(p)}
	idle := newWakeList()
	defer idle.done() // also if the iteration panics
	for w := range writers {
		if _, err := w.tryEnqueue(&m, idle); err != nil {
			refusals = append(refusals, writerRefusal{w, err})
			continue
		}
		accepted++
	}
	return accepted, refusals
}
