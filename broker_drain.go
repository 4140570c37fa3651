package sendq

import (
	"context"
	"fmt"
	"time"
)

// Drain ends the Broker like Shutdown, but the Writers one after the other, spread evenly over the
// given time. So the clients of a server that stops do not all come back at the same moment. Like
// Shutdown, Drain accepts no more names from its call on. Until a Writer's turn has come, it sends
// and receives as ever.
//
// Each Writer ends as by CloseWith(last(name)), so it has its CloseTimeout, within the bound of ctx.
// Drain calls last for each Writer of a name, one after the other and without a lock. If last is nil
// or returns nil, there is no last message. Drain does not wait for the turns of names without a
// Writer. If ctx is done before the time has passed, all other Writers end at once.
//
// Drain returns the errors of Shutdown. It panics if ctx is nil or the time is negative.
func (b *Broker) Drain(ctx context.Context, over time.Duration, last func(name string) []byte) error {
	requireContext(ctx)
	if over < 0 {
		panic(fmt.Sprintf("sendq: Drain: the time is negative: %v", over))
	}
	began := time.Now()
	await := func(i, n int) {
		turn := time.NewTimer(time.Until(began.Add(time.Duration(float64(over) * float64(i) / float64(n)))))
		defer turn.Stop()
		select {
		case <-turn.C:
		case <-ctx.Done():
		}
	}
	begin := func(name string, w *Writer) {
		var message []byte
		if last != nil {
			message = last(name)
		}
		_ = w.CloseWith(message) // fails if w is ending already; Shutdown returns why
	}
	undelivered := b.endWriters(await, begin, func(w *Writer) error { return w.Shutdown(ctx) })
	return b.leaveCluster(ctx, undelivered)
}
