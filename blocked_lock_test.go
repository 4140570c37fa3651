package sendq

import (
	"context"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq/internal/faultconn"
)

// A Writer that is closing or has ended keeps no message of a sender that waited for room.
func TestRefusedSendersAreForgotten(t *testing.T) {
	for name, end := range map[string]func(w *Writer){
		"Shutdown": func(w *Writer) { _ = w.Shutdown(context.Background()) },
		"CloseNow": func(w *Writer) { _ = w.CloseNow() },
	} {
		t.Run(name, func(t *testing.T) {
			conn := faultconn.New()
			conn.Stall()
			w := NewWriter(conn, &WriterOptions{MaxPending: 100, Overflow: Block})
			require.NoError(t, w.Send(make([]byte, 36)))
			refused := make(chan error, 1)
			go func() { refused <- w.Send(make([]byte, 36)) }()
			waiting := func() int {
				w.mu.Lock()
				defer w.mu.Unlock()
				return w.limits.blocked.Len()
			}
			for waiting() == 0 {
				runtime.Gosched()
			}
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				end(w)
			}()
			require.ErrorIs(t, <-refused, ErrClosed)
			require.Zero(t, waiting())
			conn.Release()
			<-ended
		})
	}
}
