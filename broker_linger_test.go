package sendq_test

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/sendqtest"
)

// A lingering name is one whose Writer has failed. Its peer had received the lines 0 and 1, and lines
// up to 4 were written. Line 5 was pending.
type lingering struct {
	b        *sendq.Broker
	returned *handBacks
	old      *sendq.Writer
}

var errReset = errors.New("connection reset by peer")

const linger = time.Minute

func inLinger(t *testing.T, opts sendq.WriterOptions, test func(t *testing.T, l lingering)) {
	synctest.Test(t, func(t *testing.T) {
		l := lingering{returned: new(handBacks)}
		l.b = sendq.NewBroker(&sendq.BrokerOptions{Linger: linger, OnUndelivered: l.returned.add})
		conn := sendqtest.NewConn()
		l.old = sendq.NewWriter(conn, &opts)
		require.NoError(t, l.b.Register("bob", l.old))
		require.NoError(t, l.b.Room("room").Join("bob"))
		l.send(t, 0, 5)
		require.NoError(t, l.old.Flush(t.Context()))
		require.NoError(t, l.old.Acknowledge(2))
		conn.Stall()
		l.send(t, 5, 6)
		synctest.Wait()
		require.NoError(t, l.old.Fail(errReset))
		test(t, l)
		require.NoError(t, l.b.CloseNow())
	})
}

// send sends lines in different ways.
func (l lingering) send(t *testing.T, from, to int) {
	t.Helper()
	for i, line := range linesFrom(from, to) {
		if i%2 == 0 {
			require.NoError(t, l.b.Send("bob", line))
		} else {
			require.Equal(t, 1, l.b.Room("room").Publish(line))
		}
	}
}

func (l lingering) requireAway(t *testing.T) {
	t.Helper()
	require.ErrorIs(t, l.old.Err(), errReset)
	require.Equal(t, []string{"bob"}, slices.Collect(l.b.Room("room").Members()))
	require.Equal(t, 1, l.b.Len())
	require.Equal(t, 1, l.b.Stats().Away)
	require.Empty(t, l.returned.all())
}

// What is sent to a name that is away is there when its peer is back.
func TestLinger(t *testing.T) {
	inLinger(t, *keeping, func(t *testing.T, l lingering) {
		l.requireAway(t)
		require.ErrorIs(t, l.b.Register("bob", sendq.NewWriter(sendqtest.NewConn(), nil)), sendq.ErrNameTaken)
		l.send(t, 6, 10)
		time.Sleep(linger - 1)
		l.requireAway(t)
		peer := sendqtest.NewConn()
		w := sendq.NewWriter(peer, keeping)
		_, err := l.b.Resume(t.Context(), "bob", w, 7, nil)
		require.ErrorIs(t, err, sendq.ErrWrongCount)
		l.requireAway(t)
		w = sendq.NewWriter(peer, keeping)
		resumed, err := l.b.Resume(t.Context(), "bob", w, 3, answerTo)
		require.NoError(t, err)
		require.Equal(t, sendq.Resumed{Messages: 7}, resumed)
		l.send(t, 10, 11)
		time.Sleep(2 * linger)
		requireHas(t, l.b, "bob", w)
		require.NoError(t, w.Close())
		require.Equal(t, "back, 7 lines, 0 missed\n"+lines(3, 11), string(peer.Bytes()))
		require.Empty(t, l.returned.all())
	})
}

// If the peer does not come back, the name leaves, and OnUndelivered gets everything that the peer may
// not have.
func TestLingerEnds(t *testing.T) {
	for _, tt := range []struct {
		name  string
		end   func(t *testing.T, l lingering)
		cause string // of OnUndelivered; none if it is empty
	}{
		{"when the time has passed", func(*testing.T, lingering) { time.Sleep(linger) },
			"sendq: not back within Linger of 1m0s: connection reset by peer"},
		{"at the bound", func(t *testing.T, l lingering) {
			require.ErrorIs(t, l.b.Send("bob", counted(1<<20)), sendq.ErrSlowConsumer)
		}, "sendq: slow consumer: Keep of 1048576 bytes exceeded while the peer is away"},
		{"by CloseNow", func(t *testing.T, l lingering) {
			heir, _ := l.b.Lookup("bob")
			require.NoError(t, heir.CloseNow())
		}, "sendq: closed"},
		{"by Close", func(t *testing.T, l lingering) {
			heir, _ := l.b.Lookup("bob")
			require.EqualError(t, heir.Close(), "sendq: undelivered messages: 2 (14 bytes): the peer is away: connection reset by peer")
		}, "sendq: the peer is away: connection reset by peer"},
		{"by Shutdown", func(t *testing.T, l lingering) {
			require.EqualError(t, l.b.Shutdown(t.Context()), `sendq: "bob": undelivered messages: 2 (14 bytes): the peer is away: connection reset by peer`)
		}, "sendq: the peer is away: connection reset by peer"},
		{"by Unregister", func(t *testing.T, l lingering) {
			require.True(t, l.b.Unregister("bob", l.old))
			require.False(t, l.b.Unregister("bob", l.old))
		}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inLinger(t, *keeping, func(t *testing.T, l lingering) {
				l.send(t, 6, 7)
				began := time.Now()
				tt.end(t, l)
				synctest.Wait()
				require.LessOrEqual(t, time.Since(began), linger)
				require.Zero(t, l.b.Len()+l.b.Stats().Away)
				require.Empty(t, slices.Collect(l.b.Room("room").Members()))
				calls := l.returned.all()
				if tt.cause == "" {
					require.Empty(t, calls)
					return
				}
				require.Len(t, calls, 1)
				require.EqualError(t, calls[0].cause, tt.cause)
				require.Equal(t, "bob", calls[0].name)
				var want []string
				for _, line := range linesFrom(2, 7) {
					want = append(want, string(line))
				}
				require.Equal(t, want, calls[0].messages)
			})
		})
	}
}

// The oldest written messages make room for new ones. The peer is told how many are gone.
func TestLingerKeepsTheNewest(t *testing.T) {
	opts := sendq.WriterOptions{Keep: 10 * 71}
	inLinger(t, opts, func(t *testing.T, l lingering) {
		l.send(t, 6, 10)
		l.requireAway(t)
		heir, _ := l.b.Lookup("bob")
		require.EqualValues(t, 3, heir.Stats().Kept)
		for i := range 4 {
			require.NoError(t, l.b.Send("bob", []byte("line +\n")))
			require.EqualValues(t, min(3, 4-i), heir.Stats().Kept, i)
		}
		w := sendq.NewWriter(sendqtest.NewConn(), &opts)
		resumed, err := l.b.Resume(t.Context(), "bob", w, 3, nil)
		require.NoError(t, err)
		require.Equal(t, sendq.Resumed{Messages: 10, Missed: 1}, resumed)
		require.NoError(t, w.Close())
	})
}

// Of WriteLatest and PublishLatest, a name that is away keeps the newest message of each key, if its
// Writer had a HighMark. So prices do not end the wait.
func TestLingerKeepsTheLatest(t *testing.T) {
	opts := sendq.WriterOptions{Keep: 100 << 10, HighMark: 2 << 10}
	inLinger(t, opts, func(t *testing.T, l lingering) {
		room := l.b.Room("room")
		for i := range 1000 {
			require.Equal(t, 1, room.PublishLatest("price", fmt.Appendf(nil, "price %d %0500d\n", i, 0)))
		}
		require.Equal(t, 1, l.b.Stats().Away)
		conn := readingPeer()
		w := sendq.NewWriter(conn, &opts)
		resumed, err := l.b.Resume(t.Context(), "bob", w, 2, nil)
		require.NoError(t, err)
		require.Zero(t, resumed.Missed)
		require.NoError(t, w.Close())
		got := strings.Split(strings.TrimSuffix(string(conn.Bytes()), "\n"), "\n")
		require.Equal(t, lines(2, 6), strings.Join(got[:4], "\n")+"\n")
		require.Less(t, len(got), 20)
		require.Contains(t, got[len(got)-1], "price 999 ")
	})
}

// Only a failure lets a name linger, and only the name of a Writer with Keep.
func TestLingerOnlyAfterAFailure(t *testing.T) {
	for _, tt := range []struct {
		name string
		opts *sendq.WriterOptions
		end  func(b *sendq.Broker, w *sendq.Writer)
	}{
		{"Close", keeping, func(_ *sendq.Broker, w *sendq.Writer) { w.Close() }},
		{"CloseNow", keeping, func(_ *sendq.Broker, w *sendq.Writer) { w.CloseNow() }},
		{"CloseWith", keeping, func(_ *sendq.Broker, w *sendq.Writer) { w.CloseWith([]byte("goodbye")) }},
		{"Unregister", keeping, func(b *sendq.Broker, w *sendq.Writer) { b.Unregister("bob", w); w.Fail(io.EOF) }},
		{"no Keep", nil, func(_ *sendq.Broker, w *sendq.Writer) { w.Fail(io.EOF) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := sendq.NewBroker(&sendq.BrokerOptions{Linger: time.Hour})
			w := sendq.NewWriter(sendqtest.NewConn(), tt.opts)
			require.NoError(t, b.Register("bob", w))
			tt.end(b, w)
			<-w.Done()
			require.Zero(t, b.Len())
		})
	}
	require.Panics(t, func() { sendq.NewWriter(sendqtest.NewConn(), nil).Fail(nil) })
	require.Panics(t, func() { sendq.NewBroker(&sendq.BrokerOptions{Linger: 1, NamePolicy: sendq.NameAttach}) })
}

// Whatever the failure, no message to the name is refused at any moment: before it, during a farewell
// or the close of the connection, or after the end.
func TestLingerLosesNothingInTransition(t *testing.T) {
	for name, fail := range map[string]func(w *sendq.Writer, conn *sendqtest.Conn){
		"Fail":        func(w *sendq.Writer, _ *sendqtest.Conn) { w.Fail(errReset) },
		"write error": func(_ *sendq.Writer, conn *sendqtest.Conn) { conn.Close() },
		"limit":       func(_ *sendq.Writer, conn *sendqtest.Conn) { conn.Stall() },
	} {
		t.Run(name, func(t *testing.T) {
			for range 20 {
				b := sendq.NewBroker(&sendq.BrokerOptions{Linger: time.Hour})
				conn := sendqtest.NewConn()
				old := sendq.NewWriter(conn, &sendq.WriterOptions{
					Keep: 64 << 20, MaxMessages: 100, Farewell: func(error) []byte { return []byte("too slow\n") },
				})
				require.NoError(t, b.Register("bob", old))
				require.NoError(t, b.Room("room").Join("bob"))
				const count = 1000
				sent := async(func() error {
					for i := range count {
						if i%2 == 0 {
							if err := b.Send("bob", fmt.Appendf(nil, "line %d\n", i)); err != nil {
								return fmt.Errorf("line %d: %w", i, err)
							}
						} else if b.Room("room").Publish(fmt.Appendf(nil, "line %d\n", i)) != 1 {
							return fmt.Errorf("line %d", i)
						}
						if i%10 == 0 {
							runtime.Gosched()
						}
					}
					return nil
				})
				runtime.Gosched()
				fail(old, conn)
				require.NoError(t, <-sent)
				conn.Release()
				peer := sendqtest.NewConn()
				w := sendq.NewWriter(peer, keeping)
				resumed, err := b.Resume(t.Context(), "bob", w, 0, nil)
				require.NoError(t, err)
				require.Zero(t, resumed.Missed)
				require.NoError(t, w.Close())
				require.Equal(t, lines(0, count), string(peer.Bytes()))
			}
		})
	}
}

// Observers see that a name is away and back, and nothing else.
func TestLingerEvents(t *testing.T) {
	inLinger(t, *keeping, func(t *testing.T, l lingering) {
		stop := observe(l.b)
		synctest.Wait()
		w := sendq.NewWriter(sendqtest.NewConn(), keeping)
		require.NoError(t, second(l.b.Resume(t.Context(), "bob", w, 3, nil)))
		require.NoError(t, w.Fail(io.EOF))
		time.Sleep(linger)
		synctest.Wait()
		var got []string
		for _, e := range stop() {
			assert.Equal(t, "bob", e.Name)
			got = append(got, fmt.Sprint(e.Kind, " ", e.Room, " ", e.Cause))
		}
		require.Equal(t, []string{
			"Joined  <nil>", "RoomJoined room <nil>", "Away  connection reset by peer", "Back  <nil>", "Away  EOF",
			"RoomLeft room <nil>", "Left  sendq: not back within Linger of 1m0s: EOF",
		}, got)
	})
}

// If a Writer fails while it takes over, the messages that it should have inherited come before those
// that were sent to it.
func TestFailureDuringTakeover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := sendq.NewBroker(&sendq.BrokerOptions{NamePolicy: sendq.NameTakeover, Linger: linger})
		oldConn, releaseOld := stalledClose()
		newConn, releaseNew := stalledClose()
		require.NoError(t, b.Register("bob", sendq.NewWriter(oldConn, keeping)))
		require.NoError(t, b.Send("bob", []byte("line 0\n")))
		w := sendq.NewWriter(newConn, keeping)
		resumed := async(func() error { return second(b.Resume(t.Context(), "bob", w, 0, nil)) })
		synctest.Wait()
		require.NoError(t, b.Send("bob", []byte("line 1\n"))) // waits for the takeover
		failed := async(func() error { return w.Fail(errReset) })
		synctest.Wait()
		require.NoError(t, b.Send("bob", []byte("line 2\n"))) // to the heir
		releaseOld()
		require.NoError(t, <-resumed)

		peer := sendqtest.NewConn()
		last := sendq.NewWriter(peer, keeping)
		resumed = async(func() error { return second(b.Resume(t.Context(), "bob", last, 0, nil)) })
		synctest.Wait()
		releaseNew() // w has ended after that, so its heir is never used
		require.NoError(t, <-resumed)
		require.NoError(t, <-failed)
		require.NoError(t, last.Close())
		require.Equal(t, lines(0, 3), string(peer.Bytes()))
	})
}

// A peer may acknowledge a farewell. No message is taken for it.
func TestLingerAfterAnAcknowledgedFarewell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := sendq.NewBroker(&sendq.BrokerOptions{Linger: linger})
		closing := make(chan struct{})
		conn := hooked(sendqtest.NewConn())
		conn.Enter = func(method string) {
			if method == "Close" {
				<-closing
			}
		}
		old := sendq.NewWriter(conn, &sendq.WriterOptions{
			Keep: 1 << 20, MaxMessages: 2, Farewell: func(error) []byte { return []byte("too slow\n") },
		})
		require.NoError(t, b.Register("bob", old))
		conn.Stall()
		for _, line := range linesFrom(0, 4) {
			require.NoError(t, b.Send("bob", line))
			synctest.Wait()
		}
		conn.Release()
		synctest.Wait()
		received := strings.Count(string(conn.Bytes()), "\n")
		require.Equal(t, lines(0, received-1)+"too slow\n", string(conn.Bytes()))
		require.NoError(t, old.Acknowledge(int64(received)))
		close(closing)
		synctest.Wait()

		peer := sendqtest.NewConn()
		w := sendq.NewWriter(peer, keeping)
		resumed, err := b.Resume(t.Context(), "bob", w, int64(received), nil)
		require.NoError(t, err)
		require.Equal(t, sendq.Resumed{Messages: 5 - received}, resumed)
		require.NoError(t, w.Close())
		require.Equal(t, lines(received-1, 4), string(peer.Bytes()))
	})
}
