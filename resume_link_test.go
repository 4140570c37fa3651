package sendq_test

import (
	"cmp"
	"crypto/tls"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
)

// A cutLink connects a Writer to bob. Bob reads from cut, which ends at the cut.
type cutLink struct {
	conn, peer net.Conn
	cut        io.Reader
}

// A linkKind makes links that are cut after n bytes.
type linkKind struct {
	name string
	link func(t testing.TB, n int) cutLink
}

func linksOf(tr transport) linkKind {
	return linkKind{tr.name, func(t testing.TB, n int) cutLink {
		conn, peer := tr.pair(t)
		return cutLink{conn, peer, io.LimitReader(peer, int64(n))}
	}}
}

// tlsRecords counts the bytes of the TLS records, so a link is cut within a record.
var tlsRecords = linkKind{"TLS records", func(t testing.TB, n int) cutLink {
	inner, innerPeer := tcpPair(t)
	config := tlsConfig().Clone()
	config.SessionTicketsDisabled = true // the first bytes are messages
	cut := &cutConn{Conn: innerPeer, read: innerPeer}
	server, client := tls.Server(inner, config), tls.Client(cut, config)
	handshake := async(server.Handshake)
	require.NoError(t, client.Handshake())
	require.NoError(t, <-handshake)
	cut.read = io.LimitReader(innerPeer, int64(n))
	return cutLink{server, client, client}
}}

// A cutConn reads from another Reader.
type cutConn struct {
	net.Conn
	read io.Reader
}

func (c *cutConn) Read(p []byte) (int, error) { return c.read.Read(p) }
func (c *cutConn) NetConn() net.Conn          { return c.Conn }

// cuts are the ends of a link. After the last two, the old Writer lives until bob is back.
var cuts = []struct {
	name string
	cut  func(t testing.TB, peer net.Conn)
}{
	{"reset", func(t testing.TB, peer net.Conn) { reset(t, peer) }},
	{"closed", func(t testing.TB, peer net.Conn) {
		if c, ok := peer.(interface{ CloseWrite() error }); ok {
			require.NoError(t, c.CloseWrite())
			return
		}
		require.NoError(t, peer.Close())
	}},
	{"stuck", func(testing.TB, net.Conn) {}},
	{"swallowed", func(t testing.TB, peer net.Conn) { go io.Copy(io.Discard, innermost(peer)) }},
}

// A schedule holds the messages to bob: before the first cut, while he is away, and after he is back.
// They are numbered frames of sender 0.
type schedule struct{ before, away, back [][]byte }

func newSchedule(before, away, back []int) (s schedule) {
	n := 0
	frames := func(sizes []int) (frames [][]byte) {
		for _, size := range sizes {
			frames = append(frames, frame(0, n, size))
			n++
		}
		return frames
	}
	return schedule{frames(before), frames(away), frames(back)}
}

// bytesOf returns the size of messages together.
func bytesOf(messages [][]byte) (n int) {
	for _, p := range messages {
		n += len(p)
	}
	return n
}

// everywhere returns each place before the first cut.
func (s schedule) everywhere() []int { return upTo(bytesOf(s.before) + 1) }

// borders returns the places around the ends of messages before the first cut, and others step bytes
// apart.
func (s schedule) borders(step int) (places []int) {
	end, total := 0, bytesOf(s.before)
	for _, p := range s.before {
		places = append(places, end, end+1, end+len(p)-1)
		end += len(p)
	}
	for n := step; n < total; n += step {
		places = append(places, n)
	}
	slices.Sort(places)
	return append(slices.Compact(places), total)
}

// someOf returns all places, or a sixth of them under the race detector, each time another one.
func someOf(places []int) (some []int) {
	step := 1
	if underRace {
		step = 6
	}
	for i := rand.IntN(step); i < len(places); i += step {
		some = append(some, places[i])
	}
	return some
}

// A peer that comes back and says how many messages it has received gets the rest, in order and once.
// Its connection is cut at each byte of a stream. The next connection is cut before anything has
// arrived, within the answer, or later.
func TestNothingLostAcrossReconnects(t *testing.T) {
	small := []int{0, 1, 9, 30, 5, 17, 0, 3}
	short := newSchedule(small, small, small)
	many := newSchedule(slices.Repeat([]int{0, 1, 60, 7, 250, 31, 2, 100, 3}, 5), small, small)
	large := newSchedule([]int{10, 20_000, 0, 300_000, 5, 17_000, 270_000, 1}, []int{20_000, 3}, []int{1, 300_000})
	for _, tt := range []struct {
		name     string
		links    []linkKind
		schedule schedule
		places   []int // where the first connection is cut
	}{
		{"small, in memory", []linkKind{linksOf(transport{"Pipe", pipePair})}, many, many.everywhere()},
		{"small", []linkKind{linksOf(sockets[0]), linksOf(sockets[2])}, short, short.everywhere()},
		{"small, encrypted", []linkKind{linksOf(sockets[1]), tlsRecords}, short, short.borders(40)},
		{"large", []linkKind{linksOf(fragmented[0]), linksOf(fragmented[1]), linksOf(fragmented[2])}, large, large.borders(150_000)},
	} {
		for _, kind := range tt.links {
			for _, c := range cuts {
				t.Run(fmt.Sprintf("%s/%s/%s", tt.name, kind.name, c.name), func(t *testing.T) {
					t.Parallel()
					for i, n := range someOf(tt.places) {
						next := []int{0, 1 + i/3%(answerSize-1), answerSize + n%bytesOf(tt.schedule.away)}[i%3]
						crossCuts(t, kind, c.cut, tt.schedule, n, next)
						require.False(t, t.Failed(), "cut after %d bytes, and then after %d", n, next)
					}
				})
			}
		}
	}
}

// fragmented are transports whose kernel takes large messages in parts.
var fragmented = bounded(sockets[:3])

// crossCuts sends bob a schedule. His first connection is cut after n bytes, and the second one after
// next bytes.
func crossCuts(t *testing.T, kind linkKind, cut func(testing.TB, net.Conn), s schedule, n, next int) {
	b := sendq.NewBroker(&sendq.BrokerOptions{Linger: time.Hour})
	opts := &sendq.WriterOptions{Keep: 4 << 20, Budget: sendq.NewBudget(1 << 30), CloseTimeout: time.Hour}
	bob := newCountingPeer()
	sent := 0
	send := func(messages [][]byte) {
		for _, p := range messages {
			way := waysToBob[sent%len(waysToBob)]
			assert.Equal(t, 1, way.send(b, p), "message %d by %s", sent, way.name)
			sent++
		}
	}
	var serving sync.WaitGroup
	defer serving.Wait()
	connect := func(n int) (*sendq.Writer, cutLink) {
		l := kind.link(t, n)
		assert.NoError(t, l.peer.SetReadDeadline(time.Now().Add(time.Minute))) // if a message is missing
		w := sendq.NewWriter(l.conn, opts)
		serving.Go(func() {
			_, err := io.Copy(io.Discard, l.conn)
			_ = w.Fail(cmp.Or(err, io.EOF))
		})
		return w, l
	}
	resume := func(n int) (*sendq.Writer, cutLink) {
		w, l := connect(n)
		resumed, err := b.Resume(t.Context(), "bob", w, bob.received, answerFrame)
		assert.NoError(t, err)
		assert.Equal(t, sendq.Resumed{Messages: sent - int(bob.received)}, resumed)
		return w, l
	}

	w, l := connect(n)
	defer l.peer.Close()
	assert.NoError(t, b.Register("bob", w))
	assert.NoError(t, b.Room("room").Join("bob"))
	send(s.before)
	assert.NoError(t, bob.read(l.cut, false))
	assert.NoError(t, w.Acknowledge(bob.received/2))
	cut(t, l.peer)
	send(s.away)

	_, l2 := resume(next)
	defer l2.peer.Close()
	assert.NoError(t, bob.read(l2.cut, true))
	cut(t, l2.peer)

	last, l3 := resume(math.MaxInt)
	read := async(func() error {
		defer l3.peer.Close() // at once, because its kernel may wait before it acknowledges the end
		return bob.read(l3.cut, true)
	})
	send(s.back)
	assert.NoError(t, last.Close())
	assert.NoError(t, <-read)
	assert.Equal(t, upTo(sent), bob.numbers[0])
	assert.Zero(t, opts.Budget.PendingBytes())
	assert.Zero(t, b.Len())
}
