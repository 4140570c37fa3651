//go:build !race

// Under the race detector, sync.Pool forgets at random.

package sendq_test

import (
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
)

// A short message allocates nothing: alone, in a burst, and with limits.
func TestWriterAllocatesNothing(t *testing.T) {
	needSocketWrites(t) // a flusher allocates
	for name, opts := range map[string]*sendq.WriterOptions{
		"no limits": nil,
		"limits": {MaxPending: 1 << 20, Overflow: sendq.Block, MaxAge: time.Minute, WriteTimeout: time.Minute,
			Budget: sendq.NewBudget(1 << 30)},
	} {
		t.Run(name, func(t *testing.T) {
			conn, peer := tcpPair(t)
			w := sendq.NewWriter(conn, opts)
			message, answer := []byte("message"), make([]byte, 100*len("message"))
			require.Zero(t, testing.AllocsPerRun(100, func() {
				w.Write(message)
				io.ReadFull(peer, answer[:len(message)])
				time.Sleep(10 * time.Microsecond) // or the next counts as of one burst
			}))
			require.LessOrEqual(t, testing.AllocsPerRun(100, func() {
				for range 100 {
					w.Write(message)
				}
				io.ReadFull(peer, answer)
			}), 10.0, "flushers, of 100 messages")
		})
	}
}
