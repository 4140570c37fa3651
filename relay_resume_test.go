package sendq_test

import (
	"fmt"
	"io"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/sendqtest"
)

// A peer may come back at another node, to a Writer that lives or to a name that is away.
func TestRelayResume(t *testing.T) {
	for _, fails := range []bool{false, true} {
		t.Run(fmt.Sprintf("away %v", fails), func(t *testing.T) {
			var returned handBacks
			opts := sendq.BrokerOptions{Linger: time.Minute, OnUndelivered: returned.add}
			inCluster(t, 3, opts, func(t *testing.T, _ *hub, bs []*sendq.Broker) {
				conn := sendqtest.NewConn()
				old := sendq.NewWriter(conn, keeping)
				require.NoError(t, bs[0].Register("bob", old))
				require.NoError(t, bs[0].Room("room").Join("bob"))
				settle()
				var stops []func() []sendq.Event
				for _, b := range bs {
					stops = append(stops, observe(b))
				}
				synctest.Wait()
				send := func(from, to int) {
					for i, line := range linesFrom(from, to) {
						require.NoError(t, bs[i%3].Send("bob", line))
					}
				}
				send(0, 5)
				require.NoError(t, old.Flush(t.Context()))
				require.NoError(t, old.Acknowledge(1))
				conn.Stall()
				send(5, 8)
				require.NoError(t, second(old.WriteUrgent([]byte("pong"))))
				if fails {
					synctest.Wait()
					require.NoError(t, old.Fail(io.EOF))
					settle()
					send(8, 10)
				}
				sent := map[bool]int{false: 8, true: 10}[fails]

				peer := readingPeer()
				w := sendq.NewWriter(peer, keeping)
				resumed, err := bs[1].Resume(t.Context(), "bob", w, 3, answerTo)
				require.NoError(t, err)
				require.Equal(t, sendq.Resumed{Messages: sent - 3}, resumed)
				send(sent, sent+3)
				settle()
				require.NoError(t, w.Flush(t.Context()))
				require.Equal(t, string(answerTo(resumed))+lines(3, sent+3), string(peer.Bytes()))
				requireHas(t, bs[1], "bob", w)
				requireSameView(t, bs, 1)
				for i, stop := range stops {
					var kinds []sendq.EventKind
					for _, e := range stop() {
						kinds = append(kinds, e.Kind)
					}
					want := []sendq.EventKind{sendq.EventJoined, sendq.EventRoomJoined}
					if fails {
						want = append(want, sendq.EventAway, sendq.EventBack)
					}
					require.Equal(t, want, kinds, "seen by %d", i)
				}
				require.Equal(t, []string{"room"}, slices.Collect(bs[2].RoomsOf("bob")))

				// The count goes on here as well.
				next := sendq.NewWriter(readingPeer(), keeping)
				resumed, err = bs[2].Resume(t.Context(), "bob", next, int64(sent), nil)
				require.NoError(t, err)
				require.Equal(t, sendq.Resumed{Messages: 3}, resumed)
				require.Empty(t, returned.all())
			})
		})
	}
}

// A peer whose connection breaks before anything has arrived says the same count at the next node, which
// gives it the same messages.
func TestRelayResumeAgain(t *testing.T) {
	inCluster(t, 3, sendq.BrokerOptions{Linger: time.Minute}, func(t *testing.T, _ *hub, bs []*sendq.Broker) {
		require.NoError(t, bs[0].Register("bob", sendq.NewWriter(readingPeer(), keeping)))
		for _, line := range linesFrom(0, 5) {
			require.NoError(t, bs[0].Send("bob", line))
		}
		flushAll(t, bs[0])
		for i := range 6 {
			conn := sendqtest.NewConn()
			conn.Stall()
			resumed, err := bs[(i+1)%3].Resume(t.Context(), "bob", sendq.NewWriter(conn, keeping), 3, answerTo)
			require.NoError(t, err)
			require.Equal(t, sendq.Resumed{Messages: 2}, resumed, i)
		}
	})
}

// A peer may acknowledge a message whose write has not returned. It does not come again at another node.
func TestRelayResumeDuringWrite(t *testing.T) {
	inCluster(t, 2, sendq.BrokerOptions{}, func(t *testing.T, _ *hub, bs []*sendq.Broker) {
		conn := sendqtest.NewConn()
		conn.Stall()
		w := sendq.NewWriter(conn, keeping)
		require.NoError(t, bs[0].Register("bob", w))
		for _, line := range linesFrom(0, 2) {
			require.NoError(t, bs[0].Send("bob", line))
			synctest.Wait()
		}
		require.NoError(t, w.Acknowledge(1))
		resumed, err := bs[1].Resume(t.Context(), "bob", sendq.NewWriter(readingPeer(), keeping), 1, nil)
		require.NoError(t, err)
		require.Equal(t, sendq.Resumed{Messages: 1}, resumed)
	})
}

// What is gone is told at another node too.
func TestRelayResumeWithLosses(t *testing.T) {
	inCluster(t, 2, sendq.BrokerOptions{Linger: time.Minute}, func(t *testing.T, _ *hub, bs []*sendq.Broker) {
		resume := func(b *sendq.Broker, received int64) sendq.Resumed {
			resumed, err := b.Resume(t.Context(), "bob", sendq.NewWriter(readingPeer(), &sendq.WriterOptions{Keep: 5 * 71}), received, nil)
			require.NoError(t, err)
			return resumed
		}
		require.Equal(t, sendq.Resumed{Missed: -1}, resume(bs[0], 10), "nobody had the name")
		for _, line := range linesFrom(0, 9) {
			require.NoError(t, bs[0].Send("bob", line))
		}
		flushAll(t, bs[0])
		require.Equal(t, sendq.Resumed{Messages: 5, Missed: 2}, resume(bs[1], 12))
		flushAll(t, bs[1])
		require.Equal(t, sendq.Resumed{Missed: -1}, resume(bs[0], 20), "the peer cannot have received so much")
		w, _ := bs[0].Lookup("bob")
		require.NoError(t, w.Fail(io.EOF))
		for _, line := range linesFrom(0, 2) {
			require.NoError(t, bs[0].Send("bob", line))
		}
		require.Equal(t, sendq.Resumed{Messages: 2, Missed: -1}, resume(bs[1], 27), "nor so much, but two are pending")
	})
}

// A peer that comes back before it has received a message is told again what is gone, at whatever node.
func TestRelayResumeTellsAgain(t *testing.T) {
	for _, gone := range []int64{-1, 4} {
		inCluster(t, 2, sendq.BrokerOptions{Linger: time.Minute}, func(t *testing.T, _ *hub, bs []*sendq.Broker) {
			resume := func(node int, received int64) (*sendq.Writer, sendq.Resumed) {
				w := sendq.NewWriter(readingPeer(), &sendq.WriterOptions{Keep: 5 * 71})
				resumed, err := bs[node].Resume(t.Context(), "bob", w, received, answerTo)
				require.NoError(t, err)
				return w, resumed
			}
			send := func(from, to int) {
				for _, line := range linesFrom(from, to) {
					require.NoError(t, bs[0].Send("bob", line))
				}
			}
			if gone > 0 {
				require.NoError(t, bs[0].Register("bob", sendq.NewWriter(readingPeer(), &sendq.WriterOptions{Keep: 5 * 71})))
				send(0, 9)
				flushAll(t, bs[0])
			} else {
				resume(0, 0)
				send(4, 9)
			}
			for i, node := range []int{0, 1, 1, 0} {
				w, resumed := resume(node, 0)
				require.Equal(t, sendq.Resumed{Messages: 5, Missed: gone}, resumed, i)
				if i%2 == 1 {
					flushAll(t, bs[node])
					require.NoError(t, w.Fail(io.EOF))
					synctest.Wait()
				}
			}
			for node := range bs {
				_, resumed := resume(node, 1)
				require.Equal(t, sendq.Resumed{Messages: 4}, resumed)
			}
		})
	}
}

// Who looks later sees at every node that a name is away, until that is over.
func TestRelayAway(t *testing.T) {
	inCluster(t, 2, sendq.BrokerOptions{Linger: time.Minute}, func(t *testing.T, _ *hub, bs []*sendq.Broker) {
		w := sendq.NewWriter(readingPeer(), keeping)
		require.NoError(t, bs[0].Register("bob", w))
		require.NoError(t, w.Fail(io.EOF))
		settle()
		for i, node := range []string{"", "a"} {
			stop := observe(bs[i])
			synctest.Wait()
			events := stop()
			require.Len(t, events, 2)
			require.Equal(t, sendq.EventAway, events[1].Kind)
			require.Equal(t, node, events[1].Node)
		}
		require.ErrorIs(t, bs[1].Register("bob", sendq.NewWriter(readingPeer(), keeping)), sendq.ErrNameTaken)
		time.Sleep(time.Minute)
		settle()
		requireSameView(t, bs, 0)
		require.NoError(t, bs[1].Register("bob", sendq.NewWriter(readingPeer(), keeping)))
	})
}
