package sendq_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
)

// panickingContext is a Context that somebody has made badly.
type panickingContext struct{ context.Context }

func (panickingContext) Done() <-chan struct{} { panic("Done") }

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
