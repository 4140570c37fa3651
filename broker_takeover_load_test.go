package sendq_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
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

func TestTakeoverChain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, returned := newBroker(sendq.NameTakeover)
		var received strings.Builder
		var want, left []string // left by the last
		var last *sendq.Writer
		for i := range 100 {
			w, peer := overPipe(t, nil)
			require.NoError(t, b.Register("bob", w))
			require.NoError(t, b.Room("room").Join("bob"))
			if last != nil {
				requireTakenOver(t, last, left)
			}
			sent := sendInAllWays(t, b, fmt.Sprint(i))
			want, left, last = append(want, sent...), append(left, sent...), w
			for range i % 20 { // some read more than was sent of late, some nothing
				if len(left) > 0 {
					received.WriteString(take(t, peer, len(left[0])))
					left = left[1:]
				}
			}
			if len(left) > 0 && i%2 > 0 {
				take(t, peer, 1) // of a message that the next one gets whole
			}
		}
		final, peer := overPipe(t, nil)
		require.NoError(t, b.Register("bob", final))
		rest := async(func() content { return readAll(peer) })
		require.NoError(t, b.Shutdown(t.Context()))
		received.WriteString((<-rest).bytes)
		require.True(t, strings.Join(want, "") == received.String())
		require.Empty(t, returned.all())
	})
}

// If several Writers take a name over at once, each message is written once, and one of the Writers
// has the name at the end.
func TestTakeoverAtOnce(t *testing.T) {
	const takers, takeovers, senders, messages = 4, 400, 32, 1500
	b, returned := newBroker(sendq.NameTakeover)
	register(t, b, "bob", stalledPeer())
	peers := make(chan *sendqtest.Conn, takers*takeovers)
	var running sync.WaitGroup
	for range takers {
		running.Go(func() {
			for range takeovers {
				peer := oneOf(readingPeer, stalledPeer)()
				assert.NoError(t, b.Register("bob", sendq.NewWriter(peer, nil)))
				peers <- peer
			}
		})
	}
	var want []string
	for sender := range senders {
		for i := range messages {
			want = append(want, fmt.Sprintf("%d from %d\n", i, sender))
		}
		running.Go(func() {
			for i := range messages {
				assert.NoError(t, b.Send("bob", fmt.Appendf(nil, "%d from %d\n", i, sender)))
			}
		})
	}
	running.Wait()
	last := readingPeer() // the one before may be stalled
	register(t, b, "bob", last)
	require.Equal(t, 1, b.Len())
	require.NoError(t, b.Shutdown(t.Context()))

	got := linesOf(last)
	for range takers * takeovers {
		got = append(got, linesOf(<-peers)...)
	}
	// An old Writer may have ended in the middle of a message.
	got = slices.DeleteFunc(got, func(line string) bool { return !strings.HasSuffix(line, "\n") })
	slices.Sort(want)
	slices.Sort(got)
	require.True(t, slices.Equal(want, got), "%d lines, %d of them different, not %d", len(got), len(slices.Compact(slices.Clone(got))), len(want))
	require.Empty(t, returned.all())
}

// Two Writers that take over each other's name may end each other. Then only the messages handed
// back remain.
func TestTakeoverOfEachOther(t *testing.T) {
	for range 200 {
		b, returned := newBroker(sendq.NameTakeover)
		x, y := register(t, b, "x", stalledPeer()), register(t, b, "y", stalledPeer())
		require.NoError(t, b.Send("x", []byte("to x\n")))
		require.NoError(t, b.Send("y", []byte("to y\n")))
		var running sync.WaitGroup
		running.Go(func() { b.Register("y", x) })
		running.Go(func() { b.Register("x", y) })
		running.Wait()
		x.CloseNow()
		y.CloseNow()
		assertConserved(t, x.Stats())
		assertConserved(t, y.Stats())
		require.Zero(t, b.Len())
		require.NoError(t, b.CloseNow())
		var messages []string
		for _, call := range returned.all() {
			messages = append(messages, call.messages...)
		}
		require.ElementsMatch(t, []string{"to x\n", "to y\n"}, messages)
	}
}

// If two Writers take over two names of one Writer before it has ended, only one of them inherits.
func TestTakeoverOfTwoNamesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, returned := newBroker(sendq.NameTakeover)
		conn, releaseClose := stalledClose()
		defer releaseClose()
		old := register(t, b, "bob", conn)
		require.NoError(t, b.Register("robert", old))
		require.NoError(t, b.Send("bob", []byte("to bob\n")))
		require.NoError(t, b.Send("robert", []byte("to robert\n")))
		bobs, roberts := readingPeer(), readingPeer()
		bob, robert := sendq.NewWriter(bobs, nil), sendq.NewWriter(roberts, nil)
		registeredBob := async(func() error { return b.Register("bob", bob) })
		registeredRobert := async(func() error { return b.Register("robert", robert) })
		synctest.Wait()
		requireHas(t, b, "bob", bob)
		requireHas(t, b, "robert", robert)
		releaseClose()
		require.NoError(t, <-registeredBob)
		require.NoError(t, <-registeredRobert)
		require.NoError(t, bob.Close())
		require.NoError(t, robert.Close())
		require.Equal(t, []string{"to bob\n", "to robert\n"}, slices.Concat(linesOf(bobs), linesOf(roberts)))
		synctest.Wait()
		require.Empty(t, returned.all())
	})
}

// A Writer may take over any number of names at once, and waits for all.
func TestTakeoverOfManyNamesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const names = 300
		b, _ := newBroker(sendq.NameTakeover)
		var releaseClose []func()
		for i := range names {
			conn, release := stalledClose()
			conn.Stall()
			releaseClose = append(releaseClose, release)
			register(t, b, memberName(i), conn)
			require.NoError(t, b.Send(memberName(i), []byte("old\n")))
		}
		peer := readingPeer()
		w := sendq.NewWriter(peer, nil)
		var registered sync.WaitGroup
		for i := range names {
			registered.Go(func() { assert.NoError(t, b.Register(memberName(i), w)) })
		}
		synctest.Wait()
		require.NoError(t, b.Send(memberName(0), []byte("new\n")))
		synctest.Wait()
		require.Empty(t, peer.Bytes())
		for _, release := range releaseClose {
			release()
		}
		registered.Wait()
		require.NoError(t, b.Shutdown(t.Context()))
		require.Equal(t, strings.Repeat("old\n", names)+"new\n", string(peer.Bytes()))
	})
}

// Senders use all methods while new connections of all kinds take over the name. Their peers read,
// read slowly, do not read, or reset. After a reset only the bytes taken by the connection are
// known. Every accepted message was taken whole by one connection or handed back, exactly once, and
// the messages of a sender are in order.
func TestTakeoverUnderLoad(t *testing.T) {
	for _, tr := range transports {
		t.Run(tr.name, func(t *testing.T) { takeOverUnderLoad(t, tr) })
	}
}

func takeOverUnderLoad(t *testing.T, tr transport) {
	const senders, messages = 4, 300
	b, returned := newBroker(sendq.NameTakeover)
	var accepted [senders][]int
	var sending sync.WaitGroup
	started := make(chan struct{})
	for sender := range senders {
		sending.Go(func() {
			<-started
			for i := range messages {
				way := waysToBob[(sender+i)%len(waysToBob)]
				if way.send(b, frame(sender, i, size(i+2)>>2)) == 1 {
					accepted[sender] = append(accepted[sender], i)
				}
				time.Sleep(time.Duration(rand.IntN(200)) * time.Microsecond)
			}
		})
	}
	allSent := async(func() error { sending.Wait(); return nil })

	type connection struct {
		*sendq.Writer
		taken   *recordingConn
		arrived <-chan arrival
	}
	var chain []connection
	next := func(read func(peer net.Conn) arrival) {
		conn, peer := tr.pair(t)
		c := connection{taken: &recordingConn{Conn: conn}}
		c.Writer = sendq.NewWriter(c.taken, nil)
		c.arrived = async(func() arrival { return read(peer) })
		require.NoError(t, b.Register("bob", c.Writer))
		b.Room("room").Join("bob") // unless it has been reset already
		chain = append(chain, c)
	}
	reads := func(peer net.Conn) arrival { return receive(peer) }
	readers := []func(peer net.Conn) arrival{
		reads,
		func(net.Conn) arrival { return arrival{} }, // stuck
		func(peer net.Conn) arrival { return receive(slowReader{peer}) },
		func(peer net.Conn) arrival {
			io.CopyN(io.Discard, peer, rand.Int64N(100_000))
			reset(t, peer)
			return arrival{}
		},
	}
	next(readers[0])
	close(started)
	for over := false; !over; {
		select {
		case <-allSent:
			over = true
		case <-time.After(time.Duration(rand.IntN(5)) * time.Millisecond):
			next(readers[len(chain)%len(readers)])
		}
	}
	next(reads)
	require.NoError(t, b.Shutdown(t.Context()))

	var outcomes, handedBack [senders][]int
	for i, c := range chain {
		require.True(t, hasEnded(c.Writer))
		s := c.Stats()
		assertConserved(t, s)
		taken := receive(bytes.NewReader(c.taken.taken))
		require.NotEqual(t, errChecksum, taken.err)
		arrived := <-c.arrived
		require.NotEqual(t, errChecksum, arrived.err, "torn")
		if i == len(chain)-1 {
			require.Equal(t, taken, arrived)
		}
		written := 0
		for sender, numbers := range taken.order {
			outcomes[sender] = append(outcomes[sender], numbers...)
			written += len(numbers)
			arrived := arrived.order[sender]
			require.True(t, slices.Equal(numbers[:min(len(arrived), len(numbers))], arrived))
		}
		require.EqualValues(t, s.Written, written)
	}
	for _, call := range returned.all() {
		a := receive(strings.NewReader(strings.Join(call.messages, "")))
		require.NoError(t, a.err)
		for sender, numbers := range a.order {
			handedBack[sender] = append(handedBack[sender], numbers...)
		}
	}
	total := 0
	for sender := range senders {
		total += len(handedBack[sender])
		require.True(t, slices.IsSorted(outcomes[sender]))
		require.True(t, slices.IsSorted(handedBack[sender]))
		all := slices.Concat(outcomes[sender], handedBack[sender])
		slices.Sort(all)
		require.Equal(t, accepted[sender], all)
	}
	t.Logf("%d takeovers; %d messages handed back", len(chain)-1, total)
}

// A recordingConn records the bytes that its connection took.
type recordingConn struct {
	net.Conn
	taken []byte
}

func (c *recordingConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.taken = append(c.taken, p[:n]...)
	return n, err
}

func (c *recordingConn) NetConn() net.Conn { return c.Conn }

type slowReader struct{ net.Conn }

func (r slowReader) Read(p []byte) (int, error) {
	time.Sleep(time.Duration(rand.IntN(int(time.Millisecond))))
	return r.Conn.Read(p)
}
