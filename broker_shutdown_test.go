package sendq_test

import (
	"context"
	"fmt"
	"iter"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/sendqtest"
)

func TestBrokerShutdownDelivers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const members = 10
		b := sendq.NewBroker(nil)
		var peers []*sendqtest.Conn
		for i := range members {
			peer := stalledPeer()
			peers = append(peers, peer)
			register(t, b, memberName(i), peer)
			time.AfterFunc(time.Duration(i)*time.Second, peer.Release)
		}
		want := []string{"first\n", strings.Repeat("x", 1<<20) + "\n", "last\n"}
		for _, line := range want {
			require.Equal(t, members, b.Broadcast([]byte(line)))
		}

		start := time.Now()
		require.NoError(t, b.Shutdown(t.Context()))
		require.Equal(t, (members-1)*time.Second, time.Since(start), "as long as the slowest takes")
		for i, peer := range peers {
			require.True(t, slices.Equal(want, linesOf(peer)), memberName(i))
			_, err := peer.Read(nil)
			require.ErrorIs(t, err, net.ErrClosed, memberName(i))
		}
		require.Zero(t, b.Len())
		require.NoError(t, b.Shutdown(t.Context()), "again")
		require.NoError(t, b.CloseNow(), "again")
	})
}

// All Writers end under one deadline, not one after the other, and the error names those that did
// not deliver.
func TestBrokerShutdownUnderOneDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := sendq.NewBroker(nil)
		for i := range 10 {
			register(t, b, fmt.Sprintf("stalled-%d", i), stalledPeer())
			register(t, b, fmt.Sprintf("reading-%d", i), readingPeer())
			register(t, b, fmt.Sprintf("idle-%d", i), stalledPeer())
		}
		for name := range b.Names() {
			if !strings.HasPrefix(name, "idle") {
				require.NoError(t, b.Send(name, []byte("hello\n")))
			}
		}
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		err := b.Shutdown(ctx)
		require.Equal(t, 3*time.Second, time.Since(start))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		for i := range 10 {
			require.ErrorContains(t, err, fmt.Sprintf("sendq: \"stalled-%d\": undelivered messages", i))
		}
		require.NotContains(t, err.Error(), "reading")
		require.NotContains(t, err.Error(), "idle")
		require.Zero(t, b.Len())
	})
}

func TestBrokerShutdownMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := sendq.NewBroker(nil)
		w := register(t, b, "bob", stalledPeer())
		require.NoError(t, b.Room("room").Join("bob"))
		require.NoError(t, b.Send("bob", []byte("stuck\n")))

		// If there are several deadlines, the first one ends the Writers, for every caller.
		start := time.Now()
		var callers sync.WaitGroup
		for _, bound := range []time.Duration{2 * time.Second, time.Minute} {
			callers.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), bound)
				defer cancel()
				assert.ErrorContains(t, b.Shutdown(ctx), `sendq: "bob": `)
				assert.Equal(t, 2*time.Second, time.Since(start))
			})
		}
		synctest.Wait()
		require.ErrorIs(t, b.Send("bob", []byte("late\n")), net.ErrClosed)
		for _, fanOut := range fanOuts {
			require.Zero(t, fanOut.send(b, []byte("late\n")), fanOut.name)
		}
		require.ErrorIs(t, b.Register("carol", w), sendq.ErrClosed)
		callers.Wait()
		require.EqualValues(t, 1, w.Stats().Undelivered)
	})
}

func TestBrokerShutdownWithDoneContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := sendq.NewBroker(nil)
		w := register(t, b, "bob", stalledPeer())
		require.NoError(t, b.Send("bob", []byte("stuck\n")))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		start := time.Now()
		require.ErrorIs(t, b.Shutdown(ctx), context.Canceled)
		require.Zero(t, time.Since(start))
		require.True(t, hasEnded(w))
	})
}

// Either Register fails or Shutdown ends the Writer.
func TestBrokerShutdownMeetsRegister(t *testing.T) {
	for range 200 {
		b := sendq.NewBroker(nil)
		var writers [4]*sendq.Writer
		var registering sync.WaitGroup
		for i := range writers {
			registering.Go(func() {
				w := sendq.NewWriter(readingPeer(), nil)
				if err := b.Register(memberName(i), w); err != nil {
					assert.ErrorIs(t, err, sendq.ErrClosed)
					return
				}
				writers[i] = w
			})
		}
		require.NoError(t, b.CloseNow())
		registering.Wait()
		for _, w := range writers {
			require.True(t, w == nil || hasEnded(w))
		}
		require.Zero(t, b.Len())
	}
}

// Close delivers, each Writer within its own CloseTimeout, and says who did not.
func TestBrokerClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := sendq.NewBroker(nil)
		for name, timeout := range map[string]time.Duration{"carol": time.Second, "dave": 3 * time.Second} {
			w := sendq.NewWriter(stalledPeer(), &sendq.WriterOptions{CloseTimeout: timeout})
			require.NoError(t, b.Register(name, w))
		}
		slow := sendqtest.NewConn()
		slow.Stall()
		time.AfterFunc(2*time.Second, slow.Release)
		alice := register(t, b, "alice", slow)
		b.Broadcast([]byte("hello\n"))
		start := time.Now()
		err := b.Close()
		require.Equal(t, 3*time.Second, time.Since(start))
		require.NoError(t, alice.Err())
		require.EqualValues(t, 1, alice.Stats().Written)

		var failed *sendq.ShutdownError
		require.ErrorAs(t, err, &failed)
		require.NoError(t, failed.Relay)
		names := make(map[string]int64)
		for _, u := range failed.Undelivered {
			names[u.Name] = u.Messages
			require.ErrorIs(t, u, context.DeadlineExceeded)
		}
		require.Equal(t, map[string]int64{"carol": 1, "dave": 1}, names)
		require.ErrorIs(t, b.Register("late", sendq.NewWriter(readingPeer(), nil)), sendq.ErrClosed)
		require.NoError(t, b.Close(), "again")
	})
}

// CloseNow waits for no peer, reports the undelivered messages, and hands them back.
func TestBrokerCloseNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		returned := 0
		b := sendq.NewBroker(&sendq.BrokerOptions{OnUndelivered: func(_ string, messages iter.Seq[[]byte], _ error) {
			time.Sleep(time.Second) // a database
			returned += len(slices.Collect(messages))
		}})
		for i := range 5 {
			register(t, b, memberName(i), stalledPeer())
		}
		idle := register(t, b, "idle", readingPeer())
		b.BroadcastFrom("idle", []byte("stuck\n"))
		start := time.Now()
		err := b.CloseNow()
		require.Equal(t, 5*time.Second, time.Since(start), "the time of the handler alone")
		require.Equal(t, 5, returned)
		for i := range 5 {
			require.ErrorContains(t, err, strconv.Quote(memberName(i))+": ")
		}
		require.NotContains(t, err.Error(), "idle")
		require.Equal(t, sendq.ErrClosed, idle.Err())
		var undelivered *sendq.UndeliveredError
		require.ErrorAs(t, err, &undelivered)
		require.EqualValues(t, 1, undelivered.Messages)
		require.EqualValues(t, len("stuck\n"), undelivered.Bytes)
		require.ErrorIs(t, undelivered, net.ErrClosed)
		require.ErrorIs(t, b.Register("late", sendq.NewWriter(readingPeer(), nil)), sendq.ErrClosed)
		require.NoError(t, b.CloseNow(), "again")
	})
}
