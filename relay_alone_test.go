package sendq_test

import (
	"context"
	"errors"
	"iter"
	"math"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/relay"
)

// A fakeTransport has no other nodes. It panics in the broken methods.
type fakeTransport struct {
	node   relay.Node
	broken map[string]bool
	kept   [][]byte // the answer of other nodes to Replay
}

// alone returns the node of a Broker with such a transport.
func alone(t *testing.T, opts *sendq.BrokerOptions) (relay.Node, *sendq.Broker) {
	var o sendq.BrokerOptions
	if opts != nil {
		o = *opts
	}
	var s fakeTransport
	o.Relay = &s
	b := sendq.NewBroker(&o)
	t.Cleanup(func() { b.CloseNow() })
	return s.node, b
}

func (s *fakeTransport) enter(method string) {
	if s.broken[method] {
		panic(method)
	}
}

func (s *fakeTransport) Start(node relay.Node) string {
	s.node = node
	s.enter("Start")
	return "here"
}

func (s *fakeTransport) Claim(context.Context, string, bool) (uint64, relay.Handover, error) {
	s.enter("Claim")
	return 1, relay.Handover{}, nil
}

func (s *fakeTransport) Release(string)                                   { s.enter("Release") }
func (s *fakeTransport) Announce([]relay.Event)                           { s.enter("Announce") }
func (s *fakeTransport) Post(string, relay.Delivery, func(relay.Outcome)) { s.enter("Post") }
func (s *fakeTransport) Replay(context.Context, string, string, int) ([][]byte, error) {
	s.enter("Replay")
	return s.kept, nil
}
func (s *fakeTransport) Close(context.Context) error { s.enter("Close"); return nil }

// look iterates over the Events of b. It takes the first, which must exist, and no more until stop
// is called.
func look(t *testing.T, b *sendq.Broker) (stop func()) {
	next, stop := iter.Pull(b.Events(t.Context()))
	next()
	return stop
}

// A panic of the transport reaches its caller and does no other harm: no lock stays locked, and
// nobody waits for it.
func TestRelayPanics(t *testing.T) {
	remote := []relay.Event{
		{Kind: relay.EventJoined, Name: "alice"},
		{Kind: relay.EventRoomJoined, Name: "alice", Room: "room"},
		{Kind: relay.EventJoined, Name: "carol"},
	}
	for _, tt := range []struct {
		method string
		call   func(b *sendq.Broker, node relay.Node, bob *sendq.Writer)
	}{
		{"Claim", func(b *sendq.Broker, _ relay.Node, bob *sendq.Writer) { b.Register("robert", bob) }},
		{"Claim", func(b *sendq.Broker, _ relay.Node, bob *sendq.Writer) { b.Register("carol", bob) }},
		{"Announce", func(b *sendq.Broker, _ relay.Node, bob *sendq.Writer) { b.Register("robert", bob) }},
		{"Announce", func(b *sendq.Broker, _ relay.Node, bob *sendq.Writer) { b.Unregister("bob", bob) }},
		{"Announce", func(b *sendq.Broker, _ relay.Node, _ *sendq.Writer) { b.Room("other").Join("bob") }},
		{"Announce", func(b *sendq.Broker, _ relay.Node, _ *sendq.Writer) { b.Room("quiet").Leave("bob") }},
		{"Announce", func(b *sendq.Broker, _ relay.Node, _ *sendq.Writer) { b.Room("room").JoinReplay("bob", 1) }},
		{"Announce", func(b *sendq.Broker, _ relay.Node, _ *sendq.Writer) { b.Room("other").JoinReplay("bob", 0) }},
		{"Announce", func(_ *sendq.Broker, node relay.Node, _ *sendq.Writer) {
			node.Evict(context.Background(), "bob", "other", 1)
		}},
		{"Announce", func(_ *sendq.Broker, node relay.Node, _ *sendq.Writer) { node.NameLost("bob") }},
		{"Release", func(b *sendq.Broker, _ relay.Node, bob *sendq.Writer) { b.Unregister("bob", bob) }},
		{"Release", func(_ *sendq.Broker, node relay.Node, _ *sendq.Writer) {
			node.Evict(context.Background(), "bob", "other", 1)
		}},
		{"Post", func(b *sendq.Broker, _ relay.Node, _ *sendq.Writer) { b.Send("alice", nil) }},
		{"Post", func(b *sendq.Broker, _ relay.Node, _ *sendq.Writer) { b.Broadcast(nil) }},
		{"Post", func(b *sendq.Broker, _ relay.Node, _ *sendq.Writer) { b.Room("room").Publish(nil) }},
		{"Replay", func(b *sendq.Broker, _ relay.Node, _ *sendq.Writer) { b.Room("room").JoinReplay("bob", 1) }},
		{"Close", func(b *sendq.Broker, _ relay.Node, _ *sendq.Writer) { b.CloseNow() }},
	} {
		t.Run(tt.method, func(t *testing.T) {
			transport := &fakeTransport{}
			b := sendq.NewBroker(&sendq.BrokerOptions{NamePolicy: sendq.NameTakeover, ReplayMessages: 1, Relay: transport})
			bob := register(t, b, "bob", readingPeer())
			require.NoError(t, b.Room("quiet").Join("bob"))
			transport.node.Apply("other", remote, true)

			transport.broken = map[string]bool{tt.method: true}
			require.PanicsWithValue(t, tt.method, func() { tt.call(b, transport.node, bob) })
			transport.broken = nil
			if tt.method != "Close" {
				peer := readingPeer()
				register(t, b, "robert", peer)
				replayed, err := b.Room("room").JoinReplay("robert", 1)
				require.NoError(t, err)
				require.Zero(t, replayed)
				require.NotZero(t, b.Broadcast([]byte("hello\n")))
				require.True(t, b.Room("room").Has("robert"))
				transport.node.NodeGone("other", nil)
				require.NoError(t, b.Shutdown(t.Context()))
				require.Zero(t, b.Len())
			}
			require.NoError(t, b.Shutdown(t.Context()))
		})
	}
}

// The same while others wait for the name.
func TestRelayPanicsInClaim(t *testing.T) {
	transport := &fakeTransport{broken: map[string]bool{"Claim": true}}
	b := sendq.NewBroker(&sendq.BrokerOptions{Relay: transport})
	defer b.CloseNow()
	const crowd = 10
	panics := make(chan any, crowd)
	for _, w := range idleWriters(t, crowd) {
		go func() {
			defer func() { panics <- recover() }()
			b.Register("bob", w)
		}()
	}
	for range crowd {
		require.Equal(t, "Claim", <-panics)
	}
}

// If Start panics, the Broker is of no use, but the transport may still call its Node.
func TestRelayPanicsInStart(t *testing.T) {
	transport := &fakeTransport{broken: map[string]bool{"Start": true}}
	require.PanicsWithValue(t, "Start", func() { sendq.NewBroker(&sendq.BrokerOptions{Relay: transport}) })
	transport.node.Apply("other", []relay.Event{{Kind: relay.EventJoined, Name: "bob"}}, true)
}

// The number of messages to replay may be any int.
func TestReplayExtremes(t *testing.T) {
	opts := sendq.BrokerOptions{ReplayMessages: math.MaxInt, ReplayBytes: math.MaxInt}
	for ask, want := range map[int]int{math.MinInt: 0, math.MinInt + 1: 0, -1: 0, math.MaxInt - 1: 10, math.MaxInt: 10} {
		node, b := alone(t, &opts)
		room := b.Room("room")
		register(t, b, "bob", readingPeer())
		require.NoError(t, room.Join("bob"))
		for range 10 {
			room.Publish([]byte("hello\n"))
		}
		peer := readingPeer()
		carol := register(t, b, "carol", peer)
		replayed, err := room.JoinReplay("carol", ask)
		require.NoError(t, err)
		require.Equal(t, want, replayed, ask)
		require.NoError(t, carol.Close())
		require.Len(t, linesOf(peer), want)
		require.Len(t, node.Replay("room", ask), want, ask)
	}
}

// Recipients of earlier messages are woken, although the transport panics in a later one.
func TestRelayPanicsAndOthersAreWoken(t *testing.T) {
	for name, call := range map[string]func(b *sendq.Broker){
		"SendTo": func(b *sendq.Broker) { b.SendTo([]string{"bob", "alice"}, []byte("hello\n")) },
		"Batch": func(b *sendq.Broker) {
			batch := b.NewBatch()
			batch.Send("bob", []byte("hello\n"))
			batch.Broadcast([]byte("all\n"))
			batch.Flush()
		},
	} {
		t.Run(name, func(t *testing.T) {
			transport := &fakeTransport{}
			b := sendq.NewBroker(&sendq.BrokerOptions{Relay: transport})
			bob := register(t, b, "bob", readingPeer())
			transport.node.Apply("other", []relay.Event{{Kind: relay.EventJoined, Name: "alice"}}, true)
			transport.broken = map[string]bool{"Post": true}
			require.Panics(t, func() { call(b) })
			transport.broken = nil
			require.NoError(t, bob.Flush(t.Context()))
			require.NotZero(t, bob.Stats().Written)
			require.NoError(t, b.Shutdown(t.Context()))
		})
	}
}

// A recordingTransport keeps the events and the nodes of posts. Its Claim may fail.
type recordingTransport struct {
	fakeTransport
	told   []relay.Event
	posted []string
	fail   bool
}

func (r *recordingTransport) Post(node string, _ relay.Delivery, _ func(relay.Outcome)) {
	r.posted = append(r.posted, node)
}

func (r *recordingTransport) Announce(es []relay.Event) { r.told = append(r.told, es...) }
func (r *recordingTransport) Claim(context.Context, string, bool) (uint64, relay.Handover, error) {
	if r.fail {
		return 1, relay.Handover{}, errors.New("no answer")
	}
	return 1, relay.Handover{}, nil
}

// A transport that panics once hears of later events.
func TestRelayPanicsAndIsToldLater(t *testing.T) {
	transport := &recordingTransport{}
	b := sendq.NewBroker(&sendq.BrokerOptions{NamePolicy: sendq.NameTakeover, Relay: transport})
	register(t, b, "bob", readingPeer())
	transport.broken = map[string]bool{"Release": true}
	require.Panics(t, func() { transport.node.Evict(context.Background(), "bob", "other", 1) })
	transport.broken = nil
	transport.told = nil
	register(t, b, "robert", readingPeer())
	require.NotEmpty(t, transport.told)
}

// The events of a name carry the token of its grant. A name that leaves needs no events for its rooms.
func TestAnnouncedTokens(t *testing.T) {
	transport := &recordingTransport{}
	b := sendq.NewBroker(&sendq.BrokerOptions{Relay: transport})
	w := register(t, b, "bob", readingPeer())
	require.NoError(t, b.Room("room").Join("bob"))
	want := []relay.Event{
		{Kind: relay.EventJoined, Name: "bob", Token: 1, Since: 1},
		{Kind: relay.EventRoomJoined, Name: "bob", Room: "room"},
	}
	require.Equal(t, want, transport.told)
	transport.node.Snapshot(func(events []relay.Event) { require.Equal(t, want, events) })
	require.True(t, b.Unregister("bob", w))
	require.Equal(t, append(want, relay.Event{Kind: relay.EventLeft, Name: "bob", Token: 1}), transport.told)
	require.NoError(t, b.CloseNow())
}

// After a name has joined a room, one message goes to all nodes. Others go to nodes with members.
func TestFirstMessageAfterJoin(t *testing.T) {
	transport := &recordingTransport{}
	b := sendq.NewBroker(&sendq.BrokerOptions{Relay: transport})
	defer b.CloseNow()
	for i, name := range []string{"one", "two"} {
		events := []relay.Event{{Kind: relay.EventJoined, Name: name}, {Kind: relay.EventRoomJoined, Name: name, Room: "room"}}
		transport.node.Apply(name, events[:1+i], true)
	}
	for _, name := range []string{"alice", "bob"} {
		register(t, b, name, readingPeer())
		require.NoError(t, b.Room("room").Join(name))
		transport.node.Deliver("other", []relay.Delivery{{To: relay.Target{Kind: relay.TargetRoom, Name: "room"}, Messages: [][]byte{[]byte("hi")}}})
		for _, want := range [][]string{{"one", "two"}, {"two"}} {
			require.NoError(t, b.Room("room").Join(name))
			b.Room("room").Publish([]byte("hello"))
			require.Equal(t, want, transport.posted)
			transport.posted = nil
		}
	}
}

// A name that was never registered does not leave.
func TestRelayRegisterFailsUnseen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		transport := &recordingTransport{fail: true}
		b := sendq.NewBroker(&sendq.BrokerOptions{NamePolicy: sendq.NameTakeover, Relay: transport})
		stop := observe(b)
		synctest.Wait()
		require.Error(t, b.Register("bob", sendq.NewWriter(readingPeer(), nil)))
		require.Len(t, transport.told, 1, "the other nodes are told")
		synctest.Wait()
		require.Empty(t, stop())
	})
}

// A name that moves to another node arrives there, until that node announces it or what has become
// of it. Announcements about earlier grants do not count. After five seconds the name is nowhere.
func TestNameArrives(t *testing.T) {
	joined := func(token uint64) relay.Event {
		return relay.Event{Kind: relay.EventJoined, Name: "bob", Token: token}
	}
	left := func(token uint64) relay.Event {
		return relay.Event{Kind: relay.EventLeft, Name: "bob", Token: token}
	}
	moved := func(token uint64, to string) relay.Event {
		return relay.Event{Kind: relay.EventMoved, Name: "bob", Token: token, To: to}
	}
	const arrives, present, gone = "arrives", "present", "gone"
	type events = []relay.Event
	for name, tt := range map[string]struct {
		then func(node relay.Node)
		want string
	}{
		"is there":           {func(n relay.Node) { n.Apply("two", events{joined(7)}, false) }, present},
		"leaves":             {func(n relay.Node) { n.Apply("two", events{joined(7), left(7)}, false) }, gone},
		"the claim fails":    {func(n relay.Node) { n.Apply("two", events{left(7)}, false) }, gone},
		"was there":          {func(n relay.Node) { n.Apply("two", events{joined(3), left(3)}, false) }, arrives},
		"moved on":           {func(n relay.Node) { n.Apply("two", events{joined(3), moved(5, "one")}, false) }, arrives},
		"moves on":           {func(n relay.Node) { n.Apply("two", events{moved(9, "three")}, false) }, arrives},
		"comes back":         {func(n relay.Node) { n.Apply("one", events{joined(9)}, false) }, present},
		"is elsewhere":       {func(n relay.Node) { n.Apply("three", events{joined(9)}, false) }, present},
		"node is gone":       {func(n relay.Node) { n.NodeGone("two", nil) }, gone},
		"snapshot":           {func(n relay.Node) { n.Apply("two", nil, true) }, arrives}, // it may be older
		"first node is gone": {func(n relay.Node) { n.NodeGone("one", nil) }, arrives},
		"first snapshot":     {func(n relay.Node) { n.Apply("one", nil, true) }, arrives},
		"silence":            {func(relay.Node) {}, arrives},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				node, b := alone(t, nil)
				node.Apply("two", nil, true)
				node.Apply("three", nil, true)
				node.Apply("one", events{joined(5), {Kind: relay.EventRoomJoined, Name: "bob", Room: "room"}}, true)
				node.Apply("one", events{moved(7, "two")}, false)
				require.True(t, b.Room("room").Has("bob"))
				tt.then(node)
				hurried, cancel := context.WithCancel(t.Context())
				cancel()
				state := func() string {
					switch err := b.SendContext(hurried, "bob", nil); {
					case errors.Is(err, sendq.ErrUnknownName):
						require.Zero(t, b.Len())
						return gone
					case errors.Is(err, sendq.ErrUnconfirmed):
						return present
					}
					require.Equal(t, 1, b.Len())
					return arrives
				}
				require.Equal(t, tt.want, state())
				settleMoves()
				if tt.want == arrives {
					tt.want = gone
				}
				require.Equal(t, tt.want, state())
			})
		})
	}
}

// Late announcements of a node do not change where a name is found: the newest grant counts.
func TestNewestGrantIsFound(t *testing.T) {
	node, b := alone(t, nil)
	for token, name := range []string{2: "two", 3: "three", 1: "one"} {
		if name != "" {
			node.Apply(name, []relay.Event{
				{Kind: relay.EventJoined, Name: "bob", Token: uint64(token)},
				{Kind: relay.EventRoomJoined, Name: "bob", Room: name},
			}, false)
		}
	}
	for _, name := range []string{"three", "two", "one"} {
		require.Equal(t, 1, b.Len())
		require.Equal(t, []string{name}, slices.Collect(b.RoomsOf("bob")))
		node.NodeGone(name, nil)
	}
	require.Zero(t, b.Len())
}

// If a registration cannot succeed, the transport is not asked.
func TestRegisterThatNeedsNoClaim(t *testing.T) {
	b := sendq.NewBroker(&sendq.BrokerOptions{Relay: &recordingTransport{fail: true}})
	ended := sendq.NewWriter(readingPeer(), nil)
	require.NoError(t, ended.CloseNow())
	require.ErrorIs(t, b.Register("bob", ended), sendq.ErrClosed)
	require.NoError(t, b.CloseNow())
	require.ErrorIs(t, b.Register("bob", sendq.NewWriter(readingPeer(), nil)), sendq.ErrClosed)
}

// A claimingTransport calls a function during Claim and records the released names.
type claimingTransport struct {
	fakeTransport
	during   func()
	released []string
}

func (r *claimingTransport) Claim(context.Context, string, bool) (uint64, relay.Handover, error) {
	r.during()
	return 1, relay.Handover{}, nil
}

func (r *claimingTransport) Release(name string) { r.released = append(r.released, name) }

// A name is released if its Writer has ended during the claim.
func TestWriterEndsDuringClaim(t *testing.T) {
	w := sendq.NewWriter(readingPeer(), nil)
	transport := &claimingTransport{during: func() { w.CloseNow() }}
	b := sendq.NewBroker(&sendq.BrokerOptions{Relay: transport})
	require.ErrorIs(t, b.Register("bob", w), sendq.ErrClosed)
	require.Equal(t, []string{"bob"}, transport.released)
	require.NoError(t, b.CloseNow())
}

// Close waits for a claim under way. The Writer lives on.
func TestCloseWaitsForAClaim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		b := sendq.NewBroker(&sendq.BrokerOptions{Relay: &claimingTransport{during: func() { <-gate }}})
		w := sendq.NewWriter(readingPeer(), nil)
		registered := async(func() error { return b.Register("bob", w) })
		synctest.Wait()
		closed := async(b.CloseNow)
		synctest.Wait()
		require.Empty(t, closed)
		close(gate)
		require.ErrorIs(t, <-registered, sendq.ErrClosed)
		require.NoError(t, <-closed)
		require.NoError(t, second(w.Write([]byte("m"))))
		require.NoError(t, w.Close())
		require.EqualValues(t, 1, w.Stats().Written)
	})
}

// If a name moves to an unknown node, it leaves with a cause.
func TestRelayMovesOutOfSight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		transport := &fakeTransport{}
		b := sendq.NewBroker(&sendq.BrokerOptions{NamePolicy: sendq.NameTakeover, Relay: transport})
		transport.node.Apply("other", []relay.Event{{Kind: relay.EventJoined, Name: "bob"}}, true)
		stop := observe(b)
		synctest.Wait()
		transport.node.Apply("other", []relay.Event{{Kind: relay.EventMoved, Name: "bob", To: "nowhere"}}, false)
		synctest.Wait()
		events := stop()
		require.Equal(t, sendq.Event{Kind: sendq.EventLeft, Name: "bob", Cause: sendq.ErrTakenOver, Node: "other"}, events[len(events)-1])
	})
}

// A slowTransport claims a name some time after Close.
type slowTransport struct {
	fakeTransport
	closed chan struct{}
}

func (r *slowTransport) Claim(context.Context, string, bool) (uint64, relay.Handover, error) {
	<-r.closed
	time.Sleep(time.Second)
	return 1, relay.Handover{Undelivered: [][]byte{[]byte("old")}}, nil
}

func (r *slowTransport) Close(context.Context) error { close(r.closed); return nil }

// Shutdown waits for the last claim, and hands back its messages.
func TestRelayShutdownWaitsForClaims(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var returned handBacks
		b := sendq.NewBroker(&sendq.BrokerOptions{
			NamePolicy: sendq.NameTakeover, OnUndelivered: returned.add, Relay: &slowTransport{closed: make(chan struct{})},
		})
		w := sendq.NewWriter(readingPeer(), nil)
		defer w.CloseNow()
		registered := async(func() error { return b.Register("bob", w) })
		synctest.Wait()
		require.NoError(t, b.Shutdown(t.Context()))
		require.Equal(t, []handBack{{"bob", []string{"old"}, sendq.ErrTakenOver}}, returned.all())
		require.ErrorIs(t, <-registered, sendq.ErrClosed)
	})
}
