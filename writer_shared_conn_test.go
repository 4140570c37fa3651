package sendq_test

import (
	"io"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
)

// A reader tells the end by its own side from the end by the peer.
func TestClosing(t *testing.T) {
	byPeer := map[string]func(t *testing.T, peer net.Conn){
		"Close": func(t *testing.T, peer net.Conn) { peer.Close() },
		"reset": func(t *testing.T, peer net.Conn) { reset(t, peer) },
	}
	for _, tr := range transports {
		t.Run(tr.name, func(t *testing.T) {
			t.Parallel()
			// pair returns a Writer, and what Closing returns when its reader has ended.
			pair := func(opts *sendq.WriterOptions) (w *sendq.Writer, peer net.Conn, closing <-chan bool) {
				conn, peer := tr.pair(t)
				w = sendq.NewWriter(conn, opts)
				require.False(t, w.Closing())
				return w, peer, async(func() bool {
					io.Copy(io.Discard, conn)
					return w.Closing()
				})
			}
			for name, end := range ends {
				for range 20 {
					w, peer, closing := pair(patient)
					received := async(func() content { return readAll(peer) })
					w.WriteString("message")
					ended := async(func() error { return end(w) })
					require.True(t, within(t, closing), name)
					require.NoError(t, within(t, ended))
					require.True(t, w.Closing())
					peer.Close()
					within(t, received)
				}
			}
			for name, end := range byPeer {
				w, peer, closing := pair(patient)
				end(t, peer)
				require.False(t, within(t, closing), name)
				w.CloseNow()
			}
			w, _, closing := pair(&sendq.WriterOptions{MaxPending: 64 << 20})
			for w.Send(make([]byte, 8<<20)) == nil {
			}
			require.True(t, within(t, closing), "a limit")
			require.ErrorIs(t, w.Err(), sendq.ErrSlowConsumer)
		})
	}
}

// Somebody closes the connection of an idle Writer. The Writer notices at its next write, and not
// before. On a socket, that is in the next Write, so the one after it fails.
func TestClosedBeneath(t *testing.T) {
	over(t, transports, func(t *testing.T, conn, _ net.Conn) {
		w := sendq.NewWriter(conn, nil)
		require.NoError(t, conn.Close())
		require.False(t, hasEnded(w))
		require.False(t, w.Closing())
		require.NoError(t, second(w.WriteString("accepted")))
		switch conn.(type) {
		case *net.TCPConn, *net.UnixConn:
			if runtime.GOOS != "windows" {
				require.ErrorIs(t, second(w.WriteString("refused")), net.ErrClosed)
			}
		}
		within(t, w.Done())
		require.ErrorIs(t, second(w.WriteString("refused")), w.Err())
		require.ErrorIs(t, w.Err(), net.ErrClosed)
		requireMessages(t, [][]byte{[]byte("accepted")}, w.Undelivered())
		require.ErrorIs(t, w.Close(), net.ErrClosed)
	})
}

// A deadline for reads must be set by SetReadDeadline: SetDeadline reaches writes.
func TestSetDeadline(t *testing.T) {
	over(t, transports, func(t *testing.T, conn, peer net.Conn) {
		go io.Copy(io.Discard, peer)
		w := sendq.NewWriter(conn, nil)
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(-1)))
		w.WriteString("written")
		require.NoError(t, w.Flush(t.Context()))
		require.NoError(t, conn.SetDeadline(time.Now().Add(-1)))
		w.WriteString("undelivered")
		within(t, w.Done())
		require.ErrorIs(t, w.Err(), os.ErrDeadlineExceeded)
		requireMessages(t, [][]byte{[]byte("undelivered")}, w.Undelivered())
	})
}
