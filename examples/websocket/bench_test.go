package websocket_test

import (
	"bytes"
	"fmt"
	"io"
	"testing"

	"github.com/gobwas/ws"
	"github.com/stretchr/testify/require"
)

// Bursts of 64 short messages to 100 clients, until they are written.
func BenchmarkBroadcast(b *testing.B) {
	const clients, burst = 100, 64
	message := bytes.Repeat([]byte("x"), 64)
	for name, l := range libraries {
		b.Run(name, func(b *testing.B) {
			s := serve(b, l)
			for i := range clients {
				conn, _, _, err := ws.Dial(b.Context(), s.url+fmt.Sprint(i))
				require.NoError(b, err)
				go io.Copy(io.Discard, conn)
				b.Cleanup(func() { conn.Close() })
				s.writer(fmt.Sprint(i))
			}
			for b.Loop() {
				for range burst {
					s.broker.Broadcast(s.message(message))
				}
				for i := range clients {
					require.NoError(b, s.writer(fmt.Sprint(i)).Flush(b.Context()))
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*burst*clients), "ns/delivery")
		})
	}
}
