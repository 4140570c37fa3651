package sendq_test

import (
	"context"
	"fmt"
	"slices"
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

func TestAttach(t *testing.T) {
	attached := func(t *testing.T, n int) (b *sendq.Broker, returned *handBacks, writers []*sendq.Writer, peers []*sendqtest.Conn) {
		b, returned = newBroker(sendq.NameAttach)
		for range n {
			peers = append(peers, readingPeer())
			writers = append(writers, register(t, b, "bob", peers[len(peers)-1]))
		}
		require.NoError(t, b.Room("room").Join("bob"))
		return b, returned, writers, peers
	}
	requireOneName := func(t *testing.T, b *sendq.Broker) {
		t.Helper()
		require.Equal(t, 1, b.Len())
		require.Equal(t, []string{"bob"}, slices.Collect(b.Names()))
		require.Equal(t, 1, b.Room("room").Len())
		require.Equal(t, []string{"bob"}, slices.Collect(b.Room("room").Members()))
		require.Equal(t, []string{"room"}, slices.Collect(b.RoomsOf("bob")))
	}

	t.Run("each gets every message", func(t *testing.T) {
		b, _, writers, peers := attached(t, 3)
		requireOneName(t, b)
		sent := sendInAllWays(t, b, "")
		require.Zero(t, b.BroadcastFrom("bob", []byte("from bob\n")))
		require.Zero(t, b.Room("room").PublishFrom("bob", []byte("from bob\n")))
		for i, w := range writers {
			require.NoError(t, w.Flush(t.Context()))
			require.Equal(t, sent, linesOf(peers[i]))
		}
	})

	t.Run("in one order", func(t *testing.T) {
		b, _, writers, peers := attached(t, 3)
		publishAtOnce(200, b.Broadcast)
		for i, w := range writers {
			require.NoError(t, w.Flush(t.Context()))
			require.Len(t, linesOf(peers[i]), 200*publishers)
			require.True(t, slices.Equal(linesOf(peers[0]), linesOf(peers[i])))
		}
	})

	t.Run("the name lives until the last ends", func(t *testing.T) {
		b, _, writers, peers := attached(t, 4)
		requireHas(t, b, "bob", writers[0])
		writers[0].CloseNow()
		requireHas(t, b, "bob", writers[1])
		require.True(t, b.Unregister("bob", writers[2]))
		require.False(t, b.Unregister("bob", writers[2]))
		require.False(t, b.Unregister("bob", writers[0]))
		requireHas(t, b, "bob", writers[1])
		requireOneName(t, b)
		sent := sendInAllWays(t, b, "")
		require.NoError(t, writers[1].Close())
		requireHas(t, b, "bob", writers[3])
		requireOneName(t, b)
		require.NoError(t, writers[3].Close())
		require.Empty(t, linesOf(peers[0]))
		require.Equal(t, sent, linesOf(peers[1]))
		require.Empty(t, linesOf(peers[2]))
		require.Equal(t, sent, linesOf(peers[3]))
		require.False(t, hasEnded(writers[2]))

		require.Zero(t, b.Len())
		require.Zero(t, b.Room("room").Len())
		require.ErrorIs(t, b.Send("bob", nil), sendq.ErrUnknownName)
		require.NoError(t, b.Register("bob", writers[2]), "as if it were new")
		require.Zero(t, b.Room("room").Len())
	})

	t.Run("the same Writer twice", func(t *testing.T) {
		b, _, writers, peers := attached(t, 2)
		for _, w := range writers {
			require.ErrorIs(t, b.Register("bob", w), sendq.ErrNameTaken)
		}
		require.NoError(t, b.Send("bob", []byte("once\n")))
		require.NoError(t, b.Shutdown(t.Context()))
		for _, peer := range peers {
			require.Equal(t, []string{"once\n"}, linesOf(peer))
		}
	})

	t.Run("accepted if one accepts", func(t *testing.T) {
		b, _, writers, peers := attached(t, 1)
		limited, limitedPeer := stuck(t, &sendq.WriterOptions{MaxPending: 100, Overflow: sendq.DropNewest})
		require.NoError(t, b.Register("bob", limited))
		sent := sendInAllWays(t, b, "")
		require.Contains(t, sent, string(limitedPeer.Bytes())+sent[0])
		require.EqualValues(t, len(sent)-2, limited.Stats().Dropped, "but those that are too large")
		require.NoError(t, writers[0].Close())
		require.Equal(t, sent, linesOf(peers[0]))

		require.ErrorIs(t, b.Send("bob", []byte("nobody's\n")), sendq.ErrDropped)
		require.Zero(t, b.Broadcast([]byte("nobody's\n")))
		limited.CloseNow()
	})

	t.Run("a closing one leaves the others", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b, returned, writers, peers := attached(t, 2)
			peers[0].Stall()
			require.NoError(t, b.Send("bob", []byte("to both\n")))
			closed := async(writers[0].Close)
			synctest.Wait()
			sent := sendInAllWays(t, b, "")
			require.False(t, hasEnded(writers[0]))
			peers[0].Release()
			require.NoError(t, <-closed)
			require.NoError(t, writers[1].Flush(t.Context()))
			require.Equal(t, []string{"to both\n"}, linesOf(peers[0]))
			require.Equal(t, slices.Concat([]string{"to both\n"}, sent), linesOf(peers[1]))
			require.Empty(t, returned.all())
		})
	})

	t.Run("one that fails leaves the others", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b, returned, writers, peers := attached(t, 2)
			failing := sendqtest.NewConn()
			failing.FailAfter(3, errBroken)
			register(t, b, "bob", failing)
			require.NoError(t, b.Send("bob", []byte("to all\n")))
			synctest.Wait()
			require.Equal(t, []handBack{{"bob", []string{"to all\n"}, errBroken}}, returned.all())
			requireOneName(t, b)
			for i, w := range writers {
				require.False(t, hasEnded(w))
				require.Equal(t, []string{"to all\n"}, linesOf(peers[i]))
			}
		})
	})

	t.Run("Shutdown ends all", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b, returned, writers, peers := attached(t, 3)
			peers[1].Stall()
			require.NoError(t, b.Send("bob", []byte("last\n")))
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			err := b.Shutdown(ctx)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.Equal(t, 1, strings.Count(err.Error(), `"bob": `), "%v", err)
			for _, w := range writers {
				require.True(t, hasEnded(w))
			}
			require.Equal(t, []handBack{{"bob", []string{"last\n"}, context.DeadlineExceeded}}, returned.all())
			require.ErrorIs(t, b.Register("bob", sendq.NewWriter(readingPeer(), nil)), sendq.ErrClosed)
		})
	})
}

// While other Writers attach and end, one Writer of the name gets each message once. It refuses
// some messages of each batch.
func TestAttachChurn(t *testing.T) {
	b, _ := newBroker(sendq.NameAttach)
	peer := readingPeer()
	w := sendq.NewWriter(peer, &sendq.WriterOptions{MaxPending: 1000})
	require.NoError(t, b.Register("bob", w))
	require.NoError(t, b.Room("room").Join("bob"))
	ctx, stop := context.WithCancel(t.Context())
	var churn sync.WaitGroup
	for range 2 {
		churn.Go(func() {
			for ctx.Err() == nil {
				w := sendq.NewWriter(stalledPeer(), nil)
				assert.NoError(t, b.Register("bob", w))
				w.CloseNow()
			}
		})
	}
	var want []string
	for i := range 300 {
		lines := []string{fmt.Sprintf("%d a\n", i), fmt.Sprintf("%d b\n", i)}
		want = append(want, lines...)
		batch := b.NewBatch()
		batch.Publish("room", make([]byte, 1000)) // too large for w
		batch.Publish("room", []byte(lines[0]))
		batch.Publish("room", []byte(lines[1]))
		batch.Flush()
		require.NoError(t, w.Flush(t.Context()))
	}
	stop()
	churn.Wait()
	require.NoError(t, w.Close())
	require.True(t, slices.Equal(want, linesOf(peer)), "%d lines, not %d", len(linesOf(peer)), len(want))
}
