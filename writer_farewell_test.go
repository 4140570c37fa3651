package sendq_test

import (
	"context"
	"iter"
	"net"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/sendqtest"
)

// The farewell follows whole messages, and arrives although nobody has read what the peer sent.
func TestFarewell(t *testing.T) {
	over(t, transports, func(t *testing.T, conn, peer net.Conn) {
		if conn.LocalAddr().Network() != "pipe" {
			require.NoError(t, second(peer.Write(letters(16<<10))))
			require.NoError(t, second(conn.Read(make([]byte, 1))))
		}
		w := sendq.NewWriter(conn, &sendq.WriterOptions{
			MaxPending:   500_000,
			CloseTimeout: time.Hour,
			Farewell:     func(slow error) []byte { return frame(1, 0, len(slow.Error())) },
		})
		sent := 0
		for w.Send(frame(0, sent, 30_000)) == nil {
			sent++
		}
		require.ErrorIs(t, w.Err(), sendq.ErrSlowConsumer)
		require.ErrorIs(t, w.Send(nil), sendq.ErrSlowConsumer)
		got := receive(peer)
		require.NoError(t, got.err)
		require.Equal(t, []int{0}, got.order[1])
		require.Equal(t, upTo(len(got.order[0])), got.order[0])
		<-w.Done()
		s := w.Stats()
		assertConserved(t, s)
		require.EqualValues(t, len(got.order[0]), s.Written)
		require.EqualValues(t, sent-len(got.order[0]), s.Undelivered)
		require.NotZero(t, s.Undelivered)
		require.ErrorIs(t, w.Close(), sendq.ErrSlowConsumer)
	})
}

// A peer that goes on reading nothing does not get it, and costs at most CloseTimeout.
func TestFarewellToAStalledPeer(t *testing.T) {
	over(t, transports, func(t *testing.T, conn, peer net.Conn) {
		w := sendq.NewWriter(conn, &sendq.WriterOptions{
			MaxPending:   500_000,
			CloseTimeout: 20 * time.Millisecond,
			Farewell:     func(error) []byte { return []byte("farewell") },
		})
		for w.Send(make([]byte, 30_000)) == nil {
		}
		<-w.Done()
		require.ErrorIs(t, w.Err(), sendq.ErrSlowConsumer, "the first cause")
		assertConserved(t, w.Stats())
		require.NotZero(t, w.Stats().Undelivered)
	})
	synctest.Test(t, func(t *testing.T) {
		w, _ := stuck(t, &sendq.WriterOptions{MaxMessages: 1, Farewell: func(error) []byte { panic("called") }})
		begun := time.Now()
		require.ErrorIs(t, w.Send(nil), sendq.ErrSlowConsumer)
		<-w.Done()
		require.Equal(t, 5*time.Second, time.Since(begun))
	})
}

// Every limit has its farewell.
func TestFarewellOfEachLimit(t *testing.T) {
	for name, opts := range map[string]*sendq.WriterOptions{
		"MaxPending":   {MaxPending: 300},
		"MaxMessages":  {MaxMessages: 2, Budget: sendq.NewBudget(1 << 20)},
		"MaxAge":       {MaxAge: time.Minute},
		"WriteTimeout": {WriteTimeout: time.Minute},
		"Budget":       {Budget: sendq.NewBudget(300)},
		"for others":   {Budget: sendq.NewBudget(300)},
		"WriteAlways":  {MaxPending: 300, Overflow: sendq.DropNewest},
		"framed":       {MaxMessages: 2, MessageFramed: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				opts.Farewell = func(slow error) []byte {
					require.ErrorIs(t, slow, sendq.ErrSlowConsumer)
					return []byte("farewell")
				}
				w, conn := stuck(t, opts)
				require.NoError(t, w.Send([]byte("given up")))
				ended := make(chan struct{})
				w.OnEnd(func() { close(ended) })
				switch name {
				case "MaxAge", "WriteTimeout":
					for w.Err() == nil {
						time.Sleep(time.Second)
					}
				case "for others":
					other, _ := stuck(t, &sendq.WriterOptions{Budget: opts.Budget})
					require.NoError(t, other.Send(nil))
				default:
					for w.Err() == nil {
						w.WriteAlways(make([]byte, 100))
					}
				}
				synctest.Wait()
				require.False(t, hasEnded(w))
				require.ErrorIs(t, w.Err(), sendq.ErrSlowConsumer)
				if name == "Budget" || name == "MaxMessages" {
					require.Zero(t, opts.Budget.PendingBytes())
				}
				conn.Release()
				<-ended
				require.Equal(t, "farewell", string(conn.Bytes()[36:]))
				require.NotZero(t, w.Stats().Undelivered)
				assertConserved(t, w.Stats())
			})
		})
	}
}

// A Farewell that has nothing to say, ends its goroutine or does not return costs no more.
func TestFarewellThatFails(t *testing.T) {
	for name, farewell := range map[string]func(error) []byte{
		"nil":    func(error) []byte { return nil },
		"Goexit": func(error) []byte { runtime.Goexit(); return nil },
		"waits":  func(error) []byte { time.Sleep(time.Hour); return []byte("late") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				conn := sendqtest.NewConn()
				w := sendq.NewWriter(conn, &sendq.WriterOptions{MaxMessages: 1, Farewell: farewell})
				waiting := conn.Stall()
				w.WriteString("begun")
				<-waiting
				require.ErrorIs(t, w.Send(nil), sendq.ErrSlowConsumer)
				conn.Release()
				begun := time.Now()
				<-w.Done()
				if name != "waits" {
					require.Zero(t, time.Since(begun))
				} else {
					require.Equal(t, 5*time.Second, time.Since(begun))
				}
				require.Equal(t, "begun", string(conn.Bytes()))
				time.Sleep(2 * time.Hour) // the late one returns
			})
		})
	}
}

// A message of several writes is finished before the farewell, and nothing else is.
func TestFarewellAfterALongMessage(t *testing.T) {
	conn := sendqtest.NewConn()
	waiting := conn.Stall()
	w := sendq.NewWriter(conn, &sendq.WriterOptions{
		MaxMessages:  2,
		WriteTimeout: time.Hour, // writes of 4 KiB
		Farewell:     func(error) []byte { return []byte("farewell") },
	})
	long := strings.Repeat("a", 10_000)
	w.WriteString(long)
	<-waiting
	w.WriteString("b")
	w.WriteString("c")
	conn.Release()
	<-w.Done()
	require.Equal(t, long+"farewell", string(conn.Bytes()))
	require.EqualValues(t, 1, w.Stats().Undelivered)
}

// CloseNow and a takeover do not wait for a farewell.
func TestFarewellIsCutShort(t *testing.T) {
	opts := &sendq.WriterOptions{MaxMessages: 2, CloseTimeout: time.Hour, Farewell: func(error) []byte { return []byte("farewell") }}
	t.Run("CloseNow", func(t *testing.T) {
		w, _ := stuck(t, opts)
		for w.Send(nil) == nil {
		}
		require.NoError(t, w.CloseNow())
		require.ErrorIs(t, w.Err(), sendq.ErrSlowConsumer)
	})
	t.Run("takeover", func(t *testing.T) {
		b := sendq.NewBroker(&sendq.BrokerOptions{NamePolicy: sendq.NameTakeover})
		old, _ := stuck(t, opts)
		require.NoError(t, b.Register("bob", old))
		for b.Send("bob", []byte("x")) == nil {
		}
		w, conn := stuck(t, opts)
		require.NoError(t, b.Register("bob", w))
		require.True(t, hasEnded(old))
		conn.Release()
		require.NoError(t, w.Close())
		require.Equal(t, "x", strings.Trim(string(conn.Bytes()), "\x00"))
	})
}

// A Writer that waits for a takeover and reaches a limit says farewell, and inherits nothing.
func TestFarewellBeforeATakeover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var returned []string
		b := sendq.NewBroker(&sendq.BrokerOptions{
			NamePolicy: sendq.NameTakeover,
			OnUndelivered: func(_ string, messages iter.Seq[[]byte], _ error) {
				for p := range messages {
					returned = append(returned, string(p))
				}
			},
		})
		conn, releaseClose := stalledClose()
		old := sendq.NewWriter(conn, nil)
		old.WriteString("old")
		require.NoError(t, b.Register("bob", old))
		next := sendqtest.NewConn()
		w := sendq.NewWriter(next, &sendq.WriterOptions{MaxMessages: 1, Farewell: func(error) []byte { return []byte("farewell") }})
		registered := async(func() error { return b.Register("bob", w) })
		synctest.Wait()
		require.NoError(t, w.Send([]byte("given up")))
		require.ErrorIs(t, w.Send(nil), sendq.ErrSlowConsumer)
		synctest.Wait()
		require.True(t, hasEnded(w))
		require.Equal(t, "farewell", string(next.Bytes()))
		releaseClose()
		<-registered
		require.NoError(t, b.CloseNow())
		require.ElementsMatch(t, []string{"given up", "old"}, returned)
	})
}

// A sender that waits for room does not wait for the farewell.
func TestFarewellRefusesBlockedSenders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := stuck(t, &sendq.WriterOptions{MaxMessages: 1, Overflow: sendq.Block, MaxAge: time.Minute,
			CloseTimeout: time.Hour, Farewell: func(error) []byte { return nil }})
		begun := time.Now()
		require.ErrorIs(t, w.Send(nil), sendq.ErrSlowConsumer)
		require.Less(t, time.Since(begun), time.Hour)
		require.False(t, hasEnded(w))
	})
}

// The last message arrives after all others, although nobody has read what the peer sent, and
// CloseWith does not wait.
func TestCloseWith(t *testing.T) {
	over(t, transports, func(t *testing.T, conn, peer net.Conn) {
		if conn.LocalAddr().Network() != "pipe" {
			require.NoError(t, second(peer.Write(letters(16<<10))))
			require.NoError(t, second(conn.Read(make([]byte, 1))))
		}
		w := sendq.NewWriter(conn, patient)
		message := letters(2 << 20)
		require.NoError(t, w.Send(message))
		last := []byte("goodbye")
		require.NoError(t, w.CloseWith(last))
		clear(last) // it is the caller's again
		require.False(t, hasEnded(w), "the peer has read nothing")
		require.ErrorIs(t, w.Send(nil), net.ErrClosed)
		require.ErrorIs(t, w.CloseWith(nil), net.ErrClosed)
		got := readAll(peer)
		require.NoError(t, got.err)
		require.True(t, got.bytes == string(message)+"goodbye")
		<-w.Done()
		require.NoError(t, w.Close())
		require.EqualValues(t, 2, w.Stats().Written)
		require.Equal(t, sendq.ErrClosed, w.CloseWith([]byte("late")))
	})
}

// No limit refuses or drops the last message.
func TestCloseWithAtALimit(t *testing.T) {
	for overflow := sendq.Disconnect; overflow <= sendq.DropOldest; overflow++ {
		t.Run(overflow.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, conn := stuck(t, &sendq.WriterOptions{MaxPending: 200, MaxMessages: 1, Overflow: overflow,
					Budget: sendq.NewBudget(120), MaxAge: time.Second, Expire: true, CloseTimeout: time.Hour})
				blocked := make(<-chan error)
				if overflow == sendq.Block {
					blocked = async(func() error { return w.Send(nil) })
					synctest.Wait()
				}
				require.NoError(t, w.CloseWith([]byte("goodbye")))
				if overflow == sendq.Block {
					require.ErrorIs(t, <-blocked, net.ErrClosed)
				}
				time.Sleep(time.Minute)
				conn.Release()
				require.NoError(t, w.Close())
				require.Equal(t, "goodbye", string(conn.Bytes()[36:]))
			})
		})
	}
}

// The Budget counts the last message.
func TestCloseWithAndTheBudget(t *testing.T) {
	budget := sendq.NewBudget(1000)
	w, conn := stuck(t, &sendq.WriterOptions{Budget: budget})
	require.NoError(t, w.CloseWith([]byte("goodbye")))
	require.Equal(t, 100+7+64, budget.PendingBytes())
	conn.Release()
	require.NoError(t, w.Close())
	require.Zero(t, budget.PendingBytes())
}

// A Writer that has ended is not kept in memory until CloseTimeout.
func TestCloseWithForgetsItsTimer(t *testing.T) {
	w := sendq.NewWriter(sendqtest.NewConn(), patient)
	forgotten := make(chan struct{})
	runtime.AddCleanup(w, func(c chan struct{}) { close(c) }, forgotten)
	require.NoError(t, w.CloseWith(nil))
	<-w.Done()
	w = nil
	for range 1000 {
		runtime.GC()
		select {
		case <-forgotten:
			return
		case <-time.After(time.Millisecond):
		}
	}
	require.Fail(t, "it is kept")
}

// CloseWith ends the Writer in time.
func TestCloseWithEndsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := stuck(t, nil)
		begun := time.Now()
		require.NoError(t, w.CloseWith([]byte("goodbye")))
		<-w.Done()
		require.Equal(t, 5*time.Second, time.Since(begun))
		require.ErrorIs(t, w.Err(), context.DeadlineExceeded)
		require.ErrorContains(t, w.Close(), "undelivered messages: 2 (43 bytes): CloseTimeout of 5s exceeded")

		w, peer := overPipe(t, nil)
		require.NoError(t, w.CloseWith(nil))
		require.Equal(t, content{}, readAll(peer))
		<-w.Done()
		require.NoError(t, w.Err())
		time.Sleep(time.Minute)
		require.NoError(t, w.Err())

		w, _ = stuck(t, nil)
		w.CloseNow()
		require.ErrorIs(t, w.CloseWith([]byte("late")), net.ErrClosed)
	})
}
