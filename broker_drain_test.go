package sendq_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
)

// A server that stops tells its clients when to come back, and ends them over some time.
func ExampleBroker_Drain() {
	broker := sendq.NewBroker(nil)
	conn, peer := dialed()
	defer peer.Close()
	broker.Register("ann", sendq.NewWriter(conn, nil))

	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	err := broker.Drain(ctx, 10*time.Second, func(name string) []byte {
		return fmt.Appendf(nil, "goodbye %s, another server is waiting\n", name)
	})
	fmt.Println(err)
	received, _ := io.ReadAll(peer)
	fmt.Print(string(received))
	// Output:
	// <nil>
	// goodbye ann, another server is waiting
}

func TestDrain(t *testing.T) {
	// crowd returns a Broker with n names whose peers read, and when and with what each ended.
	type end struct {
		at   time.Duration
		text string
	}
	crowd := func(t *testing.T, n int) (*sendq.Broker, []net.Conn, <-chan end) {
		b := sendq.NewBroker(nil)
		ends := make(chan end, n)
		began := time.Now()
		var conns []net.Conn
		for i := range n {
			conn, peer := pipePair(t)
			require.NoError(t, b.Register(memberName(i), sendq.NewWriter(conn, nil)))
			conns = append(conns, conn)
			go func() {
				text := readAll(peer)
				ends <- end{time.Since(began), text.bytes}
			}()
		}
		return b, conns, ends
	}
	goodbye := func(name string) []byte { return []byte("goodbye " + name) }

	t.Run("spread over the time", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b, _, ends := crowd(t, 10)
			drained := async(func() error { return b.Drain(t.Context(), 10*time.Second, goodbye) })
			time.Sleep(4*time.Second + 1)
			synctest.Wait()
			require.Len(t, ends, 5)
			require.Equal(t, 5, b.Broadcast([]byte("still here, ")))
			other, _ := overPipe(t, nil)
			require.ErrorIs(t, b.Register("other", other), net.ErrClosed)
			require.NoError(t, <-drained)
			for i := range 10 {
				e := <-ends
				require.Equal(t, time.Duration(i)*time.Second, e.at)
				require.Equal(t, i >= 5, strings.HasPrefix(e.text, "still here"))
				require.Contains(t, e.text, "goodbye ")
			}
			require.Zero(t, b.Len())
		})
	})

	t.Run("until the context is done", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b, _, ends := crowd(t, 10)
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second+1)
			defer cancel()
			_ = b.Drain(ctx, 10*time.Second, nil)
			for range 10 {
				require.LessOrEqual(t, (<-ends).at, 5*time.Second+1)
			}
		})
	})

	t.Run("a stalled peer has its CloseTimeout and delays no other", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b, _, ends := crowd(t, 3)
			stuck, _ := overPipe(t, &sendq.WriterOptions{CloseTimeout: time.Hour})
			require.NoError(t, b.Register("stuck", stuck))
			began := time.Now()
			err := b.Drain(t.Context(), 4*time.Second, goodbye)
			require.Equal(t, 3*time.Second+time.Hour, time.Since(began))
			require.ErrorContains(t, err, `"stuck": undelivered messages: 1`)
			for i := range 3 {
				require.Equal(t, time.Duration(i)*time.Second, (<-ends).at)
			}
		})
	})

	t.Run("nobody waits for those who have gone", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b, conns, _ := crowd(t, 10)
			began := time.Now()
			drained := async(func() error { return b.Drain(t.Context(), time.Hour, nil) })
			synctest.Wait()
			for i, conn := range conns {
				if w, ok := b.Lookup(memberName(i)); ok {
					w.CloseNow()
				}
				conn.Close()
			}
			require.NoError(t, <-drained)
			require.LessOrEqual(t, time.Since(began), 6*time.Minute, "only for the turn under way")
		})
	})

	require.Panics(t, func() { sendq.NewBroker(nil).Drain(t.Context(), -1, nil) })
	require.NoError(t, sendq.NewBroker(nil).Drain(t.Context(), time.Hour, nil))
}
