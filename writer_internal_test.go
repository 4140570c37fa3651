package sendq

import (
	"context"
	"net"
	"path/filepath"
	"runtime"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq/internal/faultconn"
)

// What no longer waits must not be remembered, which only memory would tell outside.
func TestQueueForgetsCanceledFlushes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := faultconn.New()
		conn.Stall()
		w := NewWriter(conn, nil)
		require.NoError(t, w.Send([]byte("message")))
		ctx, cancel := context.WithCancel(t.Context())
		var flushed []chan error
		for range 10 {
			result := make(chan error)
			flushed = append(flushed, result)
			go func() { result <- w.Flush(ctx) }()
		}
		synctest.Wait()
		require.NotNil(t, w.watchers)
		cancel()
		for _, result := range flushed {
			require.ErrorIs(t, <-result, context.Canceled)
		}
		require.Nil(t, w.watchers)
		conn.Release()
		require.NoError(t, w.Close())
	})
}

// An idle Writer takes at most 256 bytes of heap, everything included.
func TestWriterIsSmall(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			address := "127.0.0.1:0"
			if network == "unix" {
				address = filepath.Join(t.TempDir(), "socket")
			}
			listener, err := net.Listen(network, address)
			require.NoError(t, err)
			defer listener.Close()
			conn, err := net.Dial(network, listener.Addr().String())
			require.NoError(t, err)
			defer conn.Close()
			writers := make([]*Writer, 10_000)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for i := range writers {
				writers[i] = NewWriter(conn, nil)
			}
			runtime.ReadMemStats(&after)
			each := (after.TotalAlloc - before.TotalAlloc) / uint64(len(writers))
			require.LessOrEqual(t, each, uint64(256))
		})
	}
}
