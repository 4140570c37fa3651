package sendq_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/relay"
)

// Shutdown first ends the Writers and announces the consequences. Then it closes the transport,
// once, within the bound of each Shutdown or Close.
func TestRelayShutdown(t *testing.T) {
	t.Run("delivers first", func(t *testing.T) {
		var returned handBacks
		opts := sendq.BrokerOptions{OnUndelivered: returned.add}
		inCluster(t, 2, opts, func(t *testing.T, h *hub, bs []*sendq.Broker) {
			port := h.port("a")
			peer := stalledPeer()
			register(t, bs[0], "bob", peer)
			register(t, bs[1], "carol", readingPeer())
			require.NoError(t, bs[0].Send("bob", []byte("hello")))
			settle()
			stop := observe(bs[1])
			down := async(func() error { return bs[0].Shutdown(t.Context()) })
			settle()
			require.Zero(t, port.closes)
			require.ErrorIs(t, bs[1].Send("bob", nil), sendq.ErrClosed, "it is closing")
			require.NoError(t, bs[0].Send("carol", nil), "and can still speak")
			peer.Release()
			require.NoError(t, <-down)
			require.Equal(t, 1, port.closes)
			settle()
			require.Equal(t, []string{"carol"}, slices.Collect(bs[1].Names()))
			require.ErrorIs(t, bs[0].Send("carol", nil), sendq.ErrUnknownName, "it knows nobody any more")
			require.Zero(t, bs[0].Len())
			require.Zero(t, bs[0].Broadcast(nil))
			require.ErrorIs(t, bs[0].Register("dave", sendq.NewWriter(readingPeer(), nil)), sendq.ErrClosed)
			require.Contains(t, stop(), sendq.Event{Kind: sendq.EventLeft, Name: "bob", Node: "a"})
			require.NoError(t, bs[0].Shutdown(t.Context()))
			require.NoError(t, bs[0].CloseNow())
			port.node.Apply("b", []relay.Event{{Kind: relay.EventJoined, Name: "late"}}, false)
			require.Zero(t, bs[0].Len())
		})
	})

	t.Run("all names leave", func(t *testing.T) {
		inCluster(t, 2, anyPolicy, func(t *testing.T, h *hub, bs []*sendq.Broker) {
			register(t, bs[0], "alice", readingPeer())
			register(t, bs[1], "bob", readingPeer())
			settle()
			stop := observe(bs[0])
			synctest.Wait()
			require.NoError(t, bs[0].Shutdown(t.Context()))
			synctest.Wait()
			here := make(map[string]bool)
			for _, e := range stop() {
				here[e.Name] = e.Kind == sendq.EventJoined
			}
			require.Equal(t, map[string]bool{"alice": false, "bob": false}, here)
		})
	})

	t.Run("within the bound", func(t *testing.T) {
		inCluster(t, 2, anyPolicy, func(t *testing.T, h *hub, bs []*sendq.Broker) {
			h.hold("a", "b")
			start := time.Now()
			patiently := async(func() error { return bs[0].Shutdown(context.Background()) })
			settle()
			ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, errPatience)
			defer cancel()
			err := bs[0].Shutdown(ctx)
			require.ErrorIs(t, err, errPatience)
			require.ErrorContains(t, err, "not sent")
			require.Equal(t, err, <-patiently)
			require.Less(t, time.Since(start), 2*time.Minute)
			require.Equal(t, err, bs[0].CloseNow())
		})
	})

	t.Run("Close does not wait", func(t *testing.T) {
		inCluster(t, 2, anyPolicy, func(t *testing.T, h *hub, bs []*sendq.Broker) {
			h.hold("a", "b")
			start := time.Now()
			require.Error(t, bs[0].CloseNow())
			require.Zero(t, time.Since(start))
		})
	})

	// A takeover under way fails, and nothing is lost.
	t.Run("meets Register", func(t *testing.T) {
		var returned handBacks
		opts := sendq.BrokerOptions{NamePolicy: sendq.NameTakeover, OnUndelivered: returned.add}
		inCluster(t, 2, opts, func(t *testing.T, h *hub, bs []*sendq.Broker) {
			register(t, bs[0], "bob", stalledPeer())
			require.NoError(t, bs[0].Send("bob", []byte("old")))
			settle()
			release := h.hold("a", "b")
			w := sendq.NewWriter(readingPeer(), nil)
			registered := async(func() error { return bs[1].Register("bob", w) })
			synctest.Wait()
			require.NoError(t, bs[1].Shutdown(t.Context()))
			require.ErrorIs(t, <-registered, sendq.ErrClosed)
			require.NoError(t, w.Close())
			release()
			settle()
			require.Equal(t, []handBack{{"bob", []string{"old"}, sendq.ErrTakenOver}}, returned.all())
			require.Zero(t, bs[0].Len())
		})
	})
}

var errPatience = errors.New("a minute is over")
