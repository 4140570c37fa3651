package sendq_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
)

// panickingContext is a Context that somebody has made badly.
type panickingContext struct{ context.Context }

func (panickingContext) Done() <-chan struct{} { panic("Done") }

// lateContext is one that panics when it is asked for the cause.
type lateContext struct{ context.Context }

func (lateContext) Value(any) any { panic("Value") }

// The message of a call that has panicked is not accepted later.
func TestContextPanicsLate(t *testing.T) {
	w, conn := stuck(t, &sendq.WriterOptions{MaxPending: 550, Overflow: sendq.Block})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.Panics(t, func() { w.WriteContext(lateContext{ctx}, counted(500)) })
	require.Panics(t, func() { w.Flush(lateContext{ctx}) })
	conn.Release()
	require.NoError(t, w.Close())
	require.Len(t, conn.Bytes(), 36)
}

// A nil Context panics with a message, and a Context that panics does no more than that: the
// Writer goes on, and no lock is left in a state that ends the process.
func TestBadContexts(t *testing.T) {
	for name, call := range map[string]func(w *sendq.Writer, ctx context.Context){
		"WriteContext": func(w *sendq.Writer, ctx context.Context) { w.WriteContext(ctx, counted(500)) },
		"Flush":        func(w *sendq.Writer, ctx context.Context) { w.Flush(ctx) },
		"WaitPending":  func(w *sendq.Writer, ctx context.Context) { w.WaitPending(ctx, 0) },
		"Shutdown":     func(w *sendq.Writer, ctx context.Context) { w.Shutdown(ctx) },
	} {
		t.Run(name, func(t *testing.T) {
			w, conn := stuck(t, &sendq.WriterOptions{MaxPending: 550, Overflow: sendq.Block})
			require.PanicsWithValue(t, "sendq: nil Context", func() { call(w, nil) })
			require.PanicsWithValue(t, "Done", func() { call(w, panickingContext{t.Context()}) })
			conn.Release()
			require.NoError(t, w.Close())
		})
	}
	b := sendq.NewBroker(nil)
	var none context.Context
	require.PanicsWithValue(t, "sendq: nil Context", func() { b.Shutdown(none) })
	require.PanicsWithValue(t, "sendq: nil Context", func() { b.Events(none) })
}

// hookContext calls a function when it is asked for Done.
type hookContext struct {
	context.Context
	asked func()
}

func (c hookContext) Done() <-chan struct{} {
	c.asked()
	return c.Context.Done()
}

// Room that comes while the Context is asked is taken, and the flusher, which has gone meanwhile,
// is woken.
func TestRoomComesWhileTheContextIsAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, conn := stuck(t, &sendq.WriterOptions{MaxPending: 550, Overflow: sendq.Block})
		bound, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		ctx := hookContext{bound, func() {
			conn.Release()
			synctest.Wait()
		}}
		require.NoError(t, second(w.WriteContext(ctx, counted(500))))
		require.NoError(t, w.Flush(bound))
	})
}
