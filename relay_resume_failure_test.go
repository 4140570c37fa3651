package sendq_test

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/sendqtest"
)

// A connection may break while Resume still waits for another node. The name is away at this node then,
// in its rooms, and nothing is lost.
func TestRelayResumeOfABrokenConnection(t *testing.T) {
	tests := []struct {
		name            string
		oldIsAway       bool
		oldClose, close time.Duration // how long these take
		breaks          time.Duration // after the call of Resume
	}{
		{name: "at once", breaks: time.Nanosecond, oldIsAway: true},
		{name: "while the old one ends", oldClose: 100 * time.Millisecond, breaks: 50 * time.Millisecond},
		{name: "and ends later", oldClose: 100 * time.Millisecond, breaks: 50 * time.Millisecond, close: time.Second},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var returned handBacks
			opts := sendq.BrokerOptions{Linger: time.Minute, OnUndelivered: returned.add}
			inCluster(t, 2, opts, func(t *testing.T, _ *hub, bs []*sendq.Broker) {
				slow := func(d time.Duration) *hookedConn {
					conn := hooked(readingPeer())
					conn.Enter = func(method string) {
						if method == "Close" {
							time.Sleep(d)
						}
					}
					return conn
				}
				old := sendq.NewWriter(slow(test.oldClose), keeping)
				require.NoError(t, bs[0].Register("bob", old))
				require.NoError(t, bs[0].Room("room").Join("bob"))
				require.NoError(t, bs[0].Send("bob", []byte("line 0\n")))
				require.NoError(t, old.Flush(t.Context()))
				if test.oldIsAway {
					require.NoError(t, old.Fail(io.EOF))
				}
				settle()
				seen := observe(bs[0])

				w := sendq.NewWriter(slow(test.close), keeping)
				resumed := async(func() error { return second(bs[1].Resume(t.Context(), "bob", w, 0, answerTo)) })
				time.Sleep(test.breaks)
				failed := async(func() error { return w.Fail(io.EOF) })
				require.NoError(t, <-resumed)
				require.NoError(t, bs[0].Send("bob", []byte("line 1\n")))
				require.NoError(t, <-failed)
				settle()
				require.Equal(t, 1, bs[1].Stats().Away)
				require.Equal(t, []string{"room"}, slices.Collect(bs[1].RoomsOf("bob")))
				events := seen()
				require.Equal(t, sendq.EventAway, events[len(events)-1].Kind)
				requireSameView(t, bs, 1)

				peer := sendqtest.NewConn()
				w = sendq.NewWriter(peer, keeping)
				require.NoError(t, second(bs[1].Resume(t.Context(), "bob", w, 0, nil)))
				require.NoError(t, w.Close())
				require.Equal(t, lines(0, 2), string(peer.Bytes()))
				require.Empty(t, returned.all())
			})
		})
	}
}

// If the claim fails as well, nothing remains of it.
func TestRelayRefusedResumeOfABrokenConnection(t *testing.T) {
	inCluster(t, 2, sendq.BrokerOptions{Linger: time.Minute}, func(t *testing.T, h *hub, bs []*sendq.Broker) {
		conn := hooked(readingPeer())
		conn.Enter = func(method string) {
			if method == "Close" {
				time.Sleep(time.Hour)
			}
		}
		require.NoError(t, bs[0].Register("bob", sendq.NewWriter(conn, keeping)))
		settle()
		w := sendq.NewWriter(readingPeer(), keeping)
		resumed := async(func() error { return second(bs[1].Resume(t.Context(), "bob", w, 0, nil)) })
		time.Sleep(50 * time.Millisecond)
		require.NoError(t, w.Fail(io.EOF))
		require.Error(t, <-resumed)
		_, found := bs[1].Lookup("bob")
		require.False(t, found)
		require.Zero(t, bs[1].Stats().Away)
		require.Zero(t, bs[1].Stats().Writers)
		time.Sleep(time.Hour) // until the old Writer has ended
	})
}

// A peer may count more than is known to be written: a farewell, or a message whose write has failed. At
// another node too nothing comes twice then, and nothing is missing.
func TestRelayResumeWithMoreThanWritten(t *testing.T) {
	for at := range 2 {
		t.Run(fmt.Sprint("farewell, node ", at), func(t *testing.T) {
			inCluster(t, 2, sendq.BrokerOptions{Linger: time.Minute}, func(t *testing.T, _ *hub, bs []*sendq.Broker) {
				conn := sendqtest.NewConn()
				old := sendq.NewWriter(conn, &sendq.WriterOptions{
					Keep: 1 << 20, MaxMessages: 3,
					Farewell: func(error) []byte { return []byte("too slow\n") },
				})
				require.NoError(t, bs[0].Register("bob", old))
				require.NoError(t, bs[0].Send("bob", []byte("line 0\n")))
				require.NoError(t, old.Flush(t.Context()))
				conn.Stall()
				for _, line := range linesFrom(1, 5) {
					require.NoError(t, bs[0].Send("bob", line))
				}
				conn.Release()
				<-old.Done()
				settle()
				received := strings.Count(string(conn.Bytes()), "\n")
				requireResumes(t, bs[at], int64(received), lines(received-1, 5))
			})
		})
		for _, isUrgent := range []bool{false, true} {
			t.Run(fmt.Sprintf("failed write, urgent %v, node %d", isUrgent, at), func(t *testing.T) {
				inCluster(t, 2, sendq.BrokerOptions{Linger: time.Minute}, func(t *testing.T, _ *hub, bs []*sendq.Broker) {
					arrives := func([]byte) error { return errReset }
					old := sendq.NewWriter(sendq.MessageConn(arrives, func() error { return nil }), keeping)
					require.NoError(t, bs[0].Register("bob", old))
					first := 1
					if isUrgent {
						require.NoError(t, second(old.WriteUrgent([]byte("pong"))))
						first = 0
					} else {
						require.NoError(t, bs[0].Send("bob", []byte("line 0\n")))
					}
					<-old.Done()
					for _, line := range linesFrom(first, 3) {
						require.NoError(t, bs[0].Send("bob", line))
					}
					settle()
					requireResumes(t, bs[at], 1, lines(first, 3))
				})
			})
		}
	}
}

// The same, if urgent messages are sent while the name is away.
func TestRelayUrgentMessageToAnAwayName(t *testing.T) {
	for at := range 2 {
		t.Run(fmt.Sprint("node ", at), func(t *testing.T) {
			inCluster(t, 2, sendq.BrokerOptions{Linger: time.Minute}, func(t *testing.T, _ *hub, bs []*sendq.Broker) {
				arrives := func([]byte) error { return errReset }
				old := sendq.NewWriter(sendq.MessageConn(arrives, func() error { return nil }), keeping)
				require.NoError(t, bs[0].Register("bob", old))
				require.NoError(t, bs[0].Send("bob", []byte("line 0\n")))
				<-old.Done()
				require.NoError(t, bs[0].Send("bob", []byte("line 1\n")))
				settle()
				heir, _ := bs[0].Lookup("bob")
				require.NoError(t, second(heir.WriteUrgent([]byte("urgent\n"))))
				requireResumes(t, bs[at], 1, lines(1, 2))
			})
		})
	}
}

// A Writer with another name may fail while it takes a name over from another node. The peer is told on the
// next connection what is gone.
func TestRelayResumeOfABrokenConnectionTellsAgain(t *testing.T) {
	inCluster(t, 2, sendq.BrokerOptions{Linger: time.Minute}, func(t *testing.T, _ *hub, bs []*sendq.Broker) {
		conn, releaseClose := stalledClose()
		conn.Release()
		old := sendq.NewWriter(conn, &sendq.WriterOptions{Keep: 5 * 71})
		require.NoError(t, bs[0].Register("bob", old))
		for _, line := range linesFrom(0, 9) {
			require.NoError(t, bs[0].Send("bob", line))
		}
		require.NoError(t, old.Flush(t.Context()))
		settle()
		w := sendq.NewWriter(readingPeer(), keeping)
		require.NoError(t, bs[1].Register("inbox", w))
		resumed := async(func() error { return second(bs[1].Resume(t.Context(), "bob", w, 0, nil)) })
		settle()
		require.NoError(t, w.Fail(io.EOF))
		settle()
		releaseClose()
		require.NoError(t, <-resumed)
		settle()
		again, err := bs[1].Resume(t.Context(), "bob", sendq.NewWriter(readingPeer(), keeping), 0, nil)
		require.NoError(t, err)
		require.Equal(t, sendq.Resumed{Messages: 5, Missed: 4}, again)
	})
}

// requireResumes lets bob come back and requires that he gets exactly want.
func requireResumes(t *testing.T, b *sendq.Broker, received int64, want string) {
	t.Helper()
	peer := sendqtest.NewConn()
	w := sendq.NewWriter(peer, keeping)
	resumed, err := b.Resume(t.Context(), "bob", w, received, nil)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	require.Equal(t, want, string(peer.Bytes()))
	require.Zero(t, resumed.Missed)
}
