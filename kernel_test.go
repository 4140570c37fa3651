package sendq_test

import (
	"net"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

// What tests need to know of the kernel.

// bounded makes transports on which the kernel holds less than a message of 4 MiB, on its
// way, however large the machine lets its buffers grow.
func bounded(transports []transport) (b []transport) {
	for _, tr := range transports {
		b = append(b, transport{tr.name, func(t testing.TB) (conn, peer net.Conn) {
			conn, peer = tr.pair(t)
			for _, end := range []net.Conn{conn, peer} {
				if c, ok := innermost(end).(interface {
					SetReadBuffer(bytes int) error
					SetWriteBuffer(bytes int) error
				}); ok {
					require.NoError(t, c.SetReadBuffer(128<<10))
					require.NoError(t, c.SetWriteBuffer(128<<10))
				}
			}
			return conn, peer
		}})
	}
	return b
}

// needAcknowledgements skips a test that asks what only some kernels tell: which bytes the
// peer's machine has acknowledged.
func needAcknowledgements(t testing.TB) {
	if runtime.GOOS != "linux" || runtime.GOARCH == "386" || runtime.GOARCH == "s390x" {
		t.Skip("the kernel is not asked what the peer has acknowledged")
	}
}
