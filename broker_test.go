package sendq_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
)

// Guarantee 12: the caller learns the outcome for each recipient: unknown, accepted or refused.
func TestBrokerTellsOutcome(t *testing.T) {
	line := []byte("hello\n")

	t.Run("unknown", func(t *testing.T) {
		b := sendq.NewBroker(nil)
		require.ErrorIs(t, b.Send("nobody", line), sendq.ErrUnknownName)
		require.ErrorContains(t, b.Send("nobody", line), `"nobody"`)
		for _, fanOut := range fanOuts {
			require.Zero(t, fanOut.send(b, line), fanOut.name)
		}
	})

	t.Run("accepted", func(t *testing.T) {
		b := sendq.NewBroker(nil)
		peer := readingPeer()
		w := register(t, b, "bob", peer)
		require.NoError(t, b.Room("room").Join("bob"))
		require.NoError(t, b.Send("bob", line))
		for _, fanOut := range fanOuts {
			require.Equal(t, 1, fanOut.send(b, line), fanOut.name)
		}
		require.NoError(t, w.Flush(t.Context()))
		require.Len(t, linesOf(peer), 1+len(fanOuts))
	})

	// A Writer keeps its name until it has ended.
	t.Run("refused", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := sendq.NewBroker(nil)
			peer := readingPeer()
			open := register(t, b, "open", peer)

			closing := register(t, b, "closing", stalledPeer())
			closing.WriteString("stuck\n")
			go closing.Close()

			cause := errors.New("cable cut")
			failed, release := hooked(readingPeer()), make(chan struct{})
			failed.FailAfter(0, cause)
			failed.Enter = func(method string) {
				if method == "Close" {
					<-release
				}
			}
			register(t, b, "failed", failed).WriteString("fails\n")
			defer close(release)

			for name := range b.Names() {
				require.NoError(t, b.Room("room").Join(name))
			}
			synctest.Wait()
			require.Equal(t, 3, b.Len())

			require.NoError(t, b.Send("open", line))
			require.ErrorIs(t, b.Send("closing", line), net.ErrClosed)
			require.ErrorIs(t, b.Send("failed", line), net.ErrClosed)
			require.ErrorIs(t, b.Send("failed", line), cause)
			for _, fanOut := range fanOuts {
				require.Equal(t, 1, fanOut.send(b, line), fanOut.name)
			}
			require.NoError(t, open.Flush(t.Context()))
			require.Len(t, linesOf(peer), 1+len(fanOuts))
			closing.CloseNow()
		})
	})
}

func TestSendTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := sendq.NewBroker(nil)
		alice := readingPeer()
		register(t, b, "alice", alice)
		closing := register(t, b, "closing", stalledPeer())
		closing.WriteString("stuck\n")
		go closing.Close()
		block := sendq.NewWriter(stalledPeer(), &sendq.WriterOptions{MaxPending: 100, Overflow: sendq.Block})
		require.NoError(t, b.Register("full", block))
		require.NoError(t, block.Send(counted(100)))
		synctest.Wait()

		message := []byte("hello\n")
		report := b.SendTo([]string{"alice", "nobody", "closing", "full", "alice"}, message)
		clear(message)
		require.Equal(t, 2, report.Accepted)
		require.Len(t, report.Refused, 3)
		for i, want := range []struct {
			name string
			err  error
		}{{"nobody", sendq.ErrUnknownName}, {"closing", sendq.ErrClosed}, {"full", sendq.ErrWouldBlock}} {
			require.Equal(t, want.name, report.Refused[i].Name)
			require.ErrorIs(t, report.Refused[i].Err, want.err)
		}
		require.Equal(t, sendq.Report{}, b.SendTo(nil, message))
		closing.CloseNow()
		block.CloseNow()
		require.NoError(t, b.Shutdown(t.Context()))
		require.Equal(t, []string{"hello\n", "hello\n"}, linesOf(alice))
	})
}

// The sender of a message that ends a slow Writer gets ErrSlowConsumer, even if the name is free
// before the sender looks at it again.
func TestSenderLearnsThatItHasEndedASlowConsumer(t *testing.T) {
	b := sendq.NewBroker(nil)
	var senders sync.WaitGroup
	for g := range 8 {
		senders.Go(func() {
			for i := range 600 {
				name := fmt.Sprint(g, " ", i)
				w := sendq.NewWriter(stalledPeer(), &sendq.WriterOptions{MaxPending: 100})
				assert.NoError(t, b.Register(name, w))
				assert.NoError(t, b.Send(name, []byte("first")))
				assert.ErrorIs(t, b.Send(name, []byte("second")), sendq.ErrSlowConsumer)
			}
		})
	}
	senders.Wait()
}

func TestBrokerDoesNotWaitForRoom(t *testing.T) {
	w, _ := stuck(t, &sendq.WriterOptions{MaxPending: 100, Overflow: sendq.Block})
	b := sendq.NewBroker(nil)
	require.NoError(t, b.Register("slow", w))
	require.NoError(t, b.Room("room").Join("slow"))
	require.Equal(t, sendq.ErrWouldBlock, b.Send("slow", []byte("message")))
	require.Zero(t, b.Broadcast([]byte("message")))
	require.Zero(t, b.Room("room").Publish([]byte("message")))
}

// The caller may reuse the message after the call, long before a stalled recipient gets it.
func TestBrokerMessageMayBeReused(t *testing.T) {
	b := sendq.NewBroker(nil)
	peer := stalledPeer()
	w := register(t, b, "bob", peer)
	require.NoError(t, b.Room("room").Join("bob"))

	var want []string
	for _, size := range []int{1, 100, 16 << 10, 20 << 10, 1 << 20} {
		message := bytes.Repeat([]byte("x"), size)
		message[size-1] = '\n'
		for range 1 + len(fanOuts) {
			want = append(want, string(message))
		}
		send := func(do func(p []byte)) {
			p := bytes.Clone(message)
			do(p)
			clear(p)
		}
		send(func(p []byte) { require.NoError(t, b.Send("bob", p)) })
		for _, fanOut := range fanOuts {
			send(func(p []byte) { require.Equal(t, 1, fanOut.send(b, p)) })
		}
	}
	peer.Release()
	require.NoError(t, w.Flush(t.Context()))
	require.True(t, slices.Equal(want, linesOf(peer)), "the messages were changed")
}

// Guarantee 10: the messages of one sender, direct, to a room or to all, reach a recipient in call
// order.
func TestBrokerSenderOrder(t *testing.T) {
	const senders, messages = 4, 300
	b := sendq.NewBroker(nil)
	peers := joinMany(t, b, 4)
	room := b.Room("room")

	var sending sync.WaitGroup
	for sender := range senders {
		sending.Go(func() {
			for i := range messages {
				// Short and long messages are queued in different ways.
				p := fmt.Appendf(nil, "%d %d %s\n", sender, i, strings.Repeat(".", i%7/6*20_000))
				switch i % 5 {
				case 0:
					b.Broadcast(p)
				case 1:
					room.Publish(p)
				case 2:
					for j := range peers {
						assert.NoError(t, b.Send(memberName(j), p))
					}
				case 3:
					room.PublishFrom("nobody", p)
				case 4:
					b.BroadcastFrom("nobody", p)
				}
			}
		})
	}
	sending.Wait()
	flushAll(t, b)

	for _, peer := range peers {
		var next [senders]int
		for _, line := range linesOf(peer) {
			var sender, i int
			_, err := fmt.Sscan(line, &sender, &i)
			require.NoError(t, err)
			require.Equal(t, next[sender], i, "from sender %d", sender)
			next[sender]++
		}
		for sender := range senders {
			require.Equal(t, messages, next[sender], "from sender %d", sender)
		}
	}
}

// Guarantee 11: a stalled recipient slows no other.
func TestBrokerStalledRecipientHoldsUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := sendq.NewBroker(nil)
		peer := readingPeer()
		stalled := register(t, b, "stalled", stalledPeer())
		reading := register(t, b, "reading", peer)
		room := b.Room("room")
		require.NoError(t, room.Join("stalled"))
		require.NoError(t, room.Join("reading"))

		const rounds = 100
		line := []byte(strings.Repeat("x", 50_000) + "\n")
		for range rounds {
			require.Equal(t, 2, b.Broadcast(line))
			require.Equal(t, 2, room.Publish(line))
			require.NoError(t, b.Send("stalled", line))
			require.NoError(t, b.Send("reading", line))
		}
		require.NoError(t, reading.Flush(t.Context()))
		require.Len(t, linesOf(peer), 3*rounds)
		require.EqualValues(t, 3*rounds, stalled.Stats().Pending)
	})
}

func TestBrokerParksNoGoroutine(t *testing.T) {
	b := sendq.NewBroker(nil)
	before := runtime.NumGoroutine()
	joinMany(t, b, 1000)
	require.LessOrEqual(t, goroutinesLeft(before), before)
}

// Old rooms, names and Writers leave no memory behind.
func TestBrokerLeavesNothingBehind(t *testing.T) {
	b := sendq.NewBroker(nil)
	w := register(t, b, "bob", readingPeer())
	before := heap()
	for i := range 2000 {
		name := fmt.Sprintf("%d%1000s", i, "")
		require.NoError(t, b.Register(name, w))
		require.NoError(t, b.Room(name).Join("bob"))
		require.NoError(t, b.Room(name).Join(name))
		require.Equal(t, 2, b.Room(name).Publish(nil))
		require.True(t, b.Room(name).Leave("bob"))
		require.True(t, b.Unregister(name, w))
	}
	require.NoError(t, w.Flush(t.Context()))
	require.Less(t, heap()-before, 500_000)
	runtime.KeepAlive(b)
}

// 16 names come and go over TCP, in every way, while others send to them. No name outlives its
// Writer, and Lookup returns no ended Writer.
func TestBrokerChurn(t *testing.T) {
	const names, rounds = 16, 12
	b := sendq.NewBroker(nil)
	room := b.Room("room")
	line := []byte("hello\n")

	// runWriter registers a Writer, and ends it after the peer has read something.
	runWriter := func(name string, round int) {
		conn, peer := tcpPair(t)
		w := sendq.NewWriter(conn, nil)
		if !assert.NoError(t, b.Register(name, w)) {
			w.CloseNow()
			return
		}
		assert.NoError(t, room.Join(name))
		assert.NoError(t, b.Room(name).Join(name))
		io.ReadFull(peer, make([]byte, 100*len(line)))

		var reader sync.WaitGroup
		switch round % 6 {
		case 0, 1:
			reset(t, peer) // and the next message fails
		case 2:
			reader.Go(func() { io.Copy(io.Discard, peer) })
			assert.NoError(t, w.Close())
		case 3:
			w.CloseNow()
		case 4:
			assert.True(t, b.Unregister(name, w))
			w.CloseNow()
		case 5:
			assert.True(t, room.Leave(name))
			reset(t, peer)
		}
		<-w.Done()
		_, ok := b.Lookup(name)
		assert.False(t, ok)
		assert.NotContains(t, slices.Collect(room.Members()), name)
		assert.Zero(t, b.Room(name).Len())
		reader.Wait()
		peer.Close()
	}

	churning, stop := context.WithCancel(t.Context())
	var others sync.WaitGroup
	for i := range 3 {
		others.Go(func() {
			sender := memberName(i)
			for churning.Err() == nil {
				for j := range names {
					b.Send(memberName(j), line)
					if w, ok := b.Lookup(memberName(j)); ok {
						w.Flush(churning) // lets the peers keep pace
					}
				}
				b.Broadcast(line)
				b.BroadcastFrom(sender, line)
				room.Publish(line)
				room.PublishFrom(sender, line)
			}
		})
	}
	others.Go(func() {
		var last [names]*sendq.Writer
		for churning.Err() == nil {
			for i := range names {
				w := last[i]
				over := w != nil && hasEnded(w)
				last[i], _ = b.Lookup(memberName(i))
				if over && last[i] == w {
					assert.Fail(t, "Lookup found a Writer after its end")
				}
			}
			runtime.Gosched()
		}
	})

	var churn sync.WaitGroup
	for i := range names {
		churn.Go(func() {
			for round := range rounds {
				runWriter(memberName(i), round)
			}
		})
	}
	churn.Wait()
	stop()
	others.Wait()

	require.Empty(t, slices.Collect(b.Names()))
	require.Empty(t, slices.Collect(room.Members()))
	require.Zero(t, b.Broadcast(line))
}
