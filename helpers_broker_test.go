package sendq_test

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/sendqtest"
)

// newBroker returns a Broker, and the calls of its OnUndelivered.
func newBroker(policy sendq.NamePolicy) (*sendq.Broker, *handBacks) {
	var returned handBacks
	return sendq.NewBroker(&sendq.BrokerOptions{NamePolicy: policy, OnUndelivered: returned.add}), &returned
}

// handBacks records calls of OnUndelivered.
type handBacks struct {
	mu    sync.Mutex
	calls []handBack
}

func (h *handBacks) add(name string, messages iter.Seq[[]byte], cause error) {
	call := handBack{name: name, cause: cause}
	for p := range messages {
		call.messages = append(call.messages, string(p))
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.calls = append(h.calls, call)
}

func (h *handBacks) all() []handBack {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.calls)
}

type handBack struct {
	name     string
	messages []string
	cause    error
}

// register gives name to a new Writer on conn. The Writer ends with the test.
func register(t *testing.T, b *sendq.Broker, name string, conn net.Conn) *sendq.Writer {
	t.Helper()
	w := sendq.NewWriter(conn, nil)
	t.Cleanup(func() { w.CloseNow() })
	require.NoError(t, b.Register(name, w))
	return w
}

// joinMany registers n members of "room". Their peers read.
func joinMany(t *testing.T, b *sendq.Broker, n int) []*sendqtest.Conn {
	t.Helper()
	peers := make([]*sendqtest.Conn, n)
	for i := range peers {
		peers[i] = readingPeer()
		register(t, b, memberName(i), peers[i])
		require.NoError(t, b.Room("room").Join(memberName(i)))
	}
	return peers
}

func memberName(i int) string { return fmt.Sprintf("member-%d", i) }

// flushAll flushes the Writers of all names.
func flushAll(t *testing.T, b *sendq.Broker) {
	t.Helper()
	for name := range b.Names() {
		w, ok := b.Lookup(name)
		require.True(t, ok)
		require.NoError(t, w.Flush(t.Context()))
	}
}

// fanOuts are the four ways to send to many. All recipients are in "room".
var fanOuts = []struct {
	name string
	send func(b *sendq.Broker, p []byte) int
}{
	{"Broadcast", func(b *sendq.Broker, p []byte) int { return b.Broadcast(p) }},
	{"BroadcastFrom", func(b *sendq.Broker, p []byte) int { return b.BroadcastFrom("nobody", p) }},
	{"Publish", func(b *sendq.Broker, p []byte) int { return b.Room("room").Publish(p) }},
	{"PublishFrom", func(b *sendq.Broker, p []byte) int { return b.Room("room").PublishFrom("nobody", p) }},
}

// waysToBob are all ways to send to "bob", a member of "room". They return the number of recipients
// that accepted the message.
var waysToBob = slices.Concat(fanOuts, []struct {
	name string
	send func(b *sendq.Broker, p []byte) int
}{
	{"Send", func(b *sendq.Broker, p []byte) int {
		if b.Send("bob", p) != nil {
			return 0
		}
		return 1
	}},
	{"SendTo", func(b *sendq.Broker, p []byte) int { return b.SendTo([]string{"bob"}, p).Accepted }},
	{"Batch", func(b *sendq.Broker, p []byte) int {
		batch := b.NewBatch()
		batch.Send("bob", p)
		return batch.Flush().Accepted
	}},
	{"Batch to a room", func(b *sendq.Broker, p []byte) int {
		batch := b.NewBatch()
		batch.Publish("room", p)
		return batch.Flush().Accepted
	}},
})

// sendInAllWays sends lines to "bob" and returns them. They begin with prefix, and one is so long
// that it has its own block.
func sendInAllWays(t *testing.T, b *sendq.Broker, prefix string) (lines []string) {
	t.Helper()
	for _, length := range []int{1, 20_000, 10} {
		for _, way := range waysToBob {
			if length > 10 && way.name != "Send" && way.name != "Publish" {
				continue
			}
			line := fmt.Sprintf("%s %d by %s %s\n", prefix, len(lines), way.name, strings.Repeat(".", length))
			p := []byte(line)
			require.Equal(t, 1, way.send(b, p), way.name)
			clear(p)
			lines = append(lines, line)
		}
	}
	return lines
}

const publishers = 8

// publishAtOnce publishes n different lines from each of several goroutines, in the given ways by
// turns.
func publishAtOnce(n int, publish ...func(p []byte) int) {
	var publishing sync.WaitGroup
	for i := range publishers {
		publishing.Go(func() {
			for j := range n {
				publish[j%len(publish)](fmt.Appendf(nil, "%d from %d\n", j, i))
			}
		})
	}
	publishing.Wait()
}

// linesOf returns the lines that conn has taken.
func linesOf(conn *sendqtest.Conn) []string {
	return slices.Collect(strings.Lines(string(conn.Bytes())))
}

// requireSameLines requires the same n lines in the same order at all peers.
func requireSameLines(t *testing.T, b *sendq.Broker, peers []*sendqtest.Conn, n int) {
	t.Helper()
	flushAll(t, b)
	first := linesOf(peers[0])
	require.Len(t, first, n)
	for i, peer := range peers {
		require.True(t, slices.Equal(first, linesOf(peer)), "%s sees another order", memberName(i))
	}
}

// inBoth returns the elements of a found in b, and the elements of b found in a.
func inBoth(a, b []string) ([]string, []string) {
	common := make(map[string]int)
	for _, line := range slices.Concat(a, b) {
		common[line]++
	}
	once := func(line string) bool { return common[line] < 2 }
	return slices.DeleteFunc(a, once), slices.DeleteFunc(b, once)
}

func requireHas(t *testing.T, b *sendq.Broker, name string, want *sendq.Writer) {
	t.Helper()
	got, ok := b.Lookup(name)
	require.True(t, ok)
	require.Same(t, want, got)
}

// requireTakenOver requires that a takeover ended w, that its errors say so, and the messages it
// left.
func requireTakenOver(t *testing.T, w *sendq.Writer, left []string) {
	t.Helper()
	require.True(t, hasEnded(w))
	require.ErrorIs(t, w.Err(), sendq.ErrTakenOver)
	for _, err := range []error{second(w.Write(nil)), second(w.WriteString("late\n")), w.Send(nil)} {
		require.ErrorIs(t, err, sendq.ErrTakenOver)
		require.ErrorIs(t, err, net.ErrClosed)
	}
	require.ErrorIs(t, w.Close(), sendq.ErrTakenOver)
	s := w.Stats()
	assertConserved(t, s)
	require.EqualValues(t, len(left), s.Undelivered)
	var got []string
	for p := range w.Undelivered() {
		got = append(got, string(p))
	}
	require.True(t, slices.Equal(left, got), "%.200q, not %.200q", got, left)
}

// observe collects events until stop is called. stop returns them.
func observe(b *sendq.Broker) (stop func() []sendq.Event) {
	ctx, cancel := context.WithCancel(context.Background())
	collected := async(func() (events []sendq.Event) {
		for e := range b.Events(ctx) {
			events = append(events, e)
		}
		return events
	})
	return func() []sendq.Event {
		cancel()
		return <-collected
	}
}

// A presence holds the rooms of each name, according to the events.
type presence struct {
	rooms map[string]map[string]bool
	slow  map[string]bool // names
	away  map[string]bool // names
	err   error           // that no event may cause
}

func (p *presence) see(e sendq.Event) {
	rooms, here := p.rooms[e.Name]
	allowed := here
	switch e.Kind {
	case sendq.EventJoined:
		allowed = !here
		p.rooms[e.Name] = make(map[string]bool)
	case sendq.EventLeft:
		allowed = here && len(rooms) == 0
		delete(p.rooms, e.Name)
		delete(p.slow, e.Name)
		delete(p.away, e.Name)
	case sendq.EventRoomJoined:
		if allowed = here && !rooms[e.Room]; allowed {
			rooms[e.Room] = true
		}
	case sendq.EventRoomLeft:
		allowed = rooms[e.Room]
		delete(rooms, e.Room)
	case sendq.EventLagged:
		allowed = false // there are not so many
	case sendq.EventGap:
		allowed = true
	case sendq.EventSlow:
		allowed = here && !p.slow[e.Name]
		p.slow[e.Name] = true
	case sendq.EventSteady:
		allowed = here && p.slow[e.Name]
		delete(p.slow, e.Name)
	case sendq.EventAway:
		allowed = here && !p.away[e.Name]
		p.away[e.Name] = true
	case sendq.EventBack:
		allowed = here && p.away[e.Name]
		delete(p.away, e.Name)
	}
	if !allowed && p.err == nil {
		p.err = fmt.Errorf("an event that cannot be: %+v", e)
	}
}

// requireEqual compares p with b. There are no other rooms.
func (p *presence) requireEqual(t *testing.T, b *sendq.Broker, rooms []string) {
	t.Helper()
	require.NoError(t, p.err)
	require.Equal(t, slices.Sorted(maps.Keys(p.rooms)), slices.Sorted(b.Names()))
	require.Equal(t, len(p.rooms), b.Len())
	for _, room := range rooms {
		var members []string
		for name, in := range p.rooms {
			if in[room] {
				members = append(members, name)
			}
		}
		slices.Sort(members)
		require.Equal(t, members, slices.Sorted(b.Room(room).Members()))
		require.Equal(t, len(members), b.Room(room).Len())
	}
	for name, in := range p.rooms {
		require.Equal(t, slices.Sorted(maps.Keys(in)), slices.Sorted(b.RoomsOf(name)))
	}
}

// watchPresence follows the events of b. The presence is current after synctest.Wait.
func watchPresence(t *testing.T, b *sendq.Broker) *presence {
	p := &presence{rooms: make(map[string]map[string]bool), slow: make(map[string]bool), away: make(map[string]bool)}
	go func() {
		for e := range b.Events(t.Context()) {
			p.see(e)
		}
	}()
	synctest.Wait() // so that it misses nothing
	return p
}
