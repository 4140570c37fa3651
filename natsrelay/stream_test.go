package natsrelay

import (
	"context"
	"fmt"
	"runtime"
	"runtime/pprof"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/relay"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// postNumbers posts numbered messages until stop is closed or the given number is reached. It
// returns their number.
func (n *fakeNode) postNumbers(to *fakeNode, messages int, stop <-chan struct{}) int {
	run := 100 // limits the rate
	if stop != nil {
		run = 10 // the servers need the time
	}
	for i := range messages {
		select {
		case <-stop:
			return i
		default:
		}
		d := relay.Delivery{To: relay.Target{Name: n.relay.id}, Messages: [][]byte{fmt.Append(nil, i)}}
		n.relay.Post(to.relay.id, d, nil)
		if i%run == 0 {
			time.Sleep(5 * time.Millisecond)
		}
	}
	return messages
}

// isAccounted reports whether the other node has received or missed everything posted to it.
func isAccounted(from, to *fakeNode) bool {
	sent, got := from.relay.Stats().Nodes[to.relay.id], to.relay.Stats().Nodes[from.relay.id]
	return sent.Posted+sent.Dropped == got.Received+got.Missed
}

func waitUntilAllKnow(t *testing.T, nodes ...*fakeNode) {
	t.Helper()
	eventually(t, func() bool {
		for i, n := range nodes {
			if !n.knows(nodes[:i]...) || !n.knows(nodes[i+1:]...) {
				return false
			}
		}
		return true
	})
}

// requireInOrder requires ascending numbers from each node, and returns how many there are.
func (n *fakeNode) requireInOrder(t *testing.T) (messages int) {
	t.Helper()
	next := make(map[string]int)
	got := n.recorded().got
	for _, g := range got {
		var from string
		var i int
		_, err := fmt.Sscanf(g, "%s %d", &from, &i)
		require.NoError(t, err)
		require.GreaterOrEqual(t, i, next[from], "of %s", from)
		next[from] = i + 1
	}
	return len(got)
}

// TestServersAreRestarted restarts one NATS server after the other while nodes post to each other.
// Finally it kills all at once and starts them again. Nothing is lost.
func TestServersAreRestarted(t *testing.T) {
	requireServers(t)
	c := newNATSCluster(t.TempDir())
	t.Cleanup(c.stop)
	opts := Options{Lease: time.Minute, Timeout: time.Minute}
	var nodes []*fakeNode
	for range 3 {
		nodes = append(nodes, newFake(t, c.url(), opts))
	}
	waitUntilAllKnow(t, nodes...)
	stop, posted := make(chan struct{}), make(chan int)
	pairs := func(f func(from, to *fakeNode)) {
		for _, from := range nodes {
			for _, to := range nodes {
				if from != to {
					f(from, to)
				}
			}
		}
	}
	pairs(func(from, to *fakeNode) {
		go func() { posted <- from.postNumbers(to, 1e9, stop) }()
	})
	for i, s := range c {
		s.stop()
		s.start()
		s.waitUntilReady()
		_, _, err := nodes[i].relay.Claim(t.Context(), fmt.Sprint("a name after restart ", i), false)
		require.NoError(t, err)
	}
	for _, s := range c {
		s.kill()
	}
	for _, s := range c {
		s.start()
	}
	_, _, err := nodes[0].relay.Claim(t.Context(), "a name at last", false)
	require.NoError(t, err)
	close(stop)
	sent, got := 0, 0
	pairs(func(from, to *fakeNode) {
		sent += <-posted
	})
	pairs(func(from, to *fakeNode) {
		eventually(t, func() bool { return isAccounted(from, to) })
	})
	for _, n := range nodes {
		got += n.requireInOrder(t)
		assert.Zero(t, n.recorded().missed)
	}
	assert.Equal(t, sent, got)
	t.Logf("%d messages", sent)
}

// TestSlowNode stalls one of three nodes. The others go on among themselves, and the slow node learns
// how many messages it has missed.
func TestSlowNode(t *testing.T) {
	opts := Options{Lease: time.Minute, MaxQueuedBytes: 1 << 20}
	p, natsOptions := newProxy(t, servers(t).url(2))
	a := newFake(t, servers(t).url(0), opts)
	b := newFake(t, servers(t).url(1), opts)
	slow := newFake(t, p.url(), opts, natsOptions...)
	waitUntilAllKnow(t, a, b, slow)
	p.stall()
	const messages = 20000
	big := make([]byte, 1<<10)
	for range messages {
		a.relay.Post(slow.relay.id, relay.Delivery{Messages: [][]byte{big}}, nil)
	}
	dropped := a.relay.Stats().Nodes[slow.relay.id].Dropped
	require.Positive(t, dropped)
	outcomes := make(chan relay.Outcome, 1)
	a.relay.Post(slow.relay.id, relay.Delivery{Messages: [][]byte{big}}, func(o relay.Outcome) { outcomes <- o })
	require.ErrorIs(t, (<-outcomes).Err, ErrNodeBehind)
	a.announce(relay.Event{Kind: relay.EventJoined, Name: "x"})
	a.postNumbers(b, messages, nil)
	b.postNumbers(a, messages, nil)
	eventually(t, func() bool { return isAccounted(a, b) && isAccounted(b, a) })
	assert.Equal(t, messages, a.requireInOrder(t))
	assert.Equal(t, messages, b.requireInOrder(t))
	require.False(t, isAccounted(a, slow))

	p.restore()
	eventually(t, func() bool { return isAccounted(a, slow) })
	assert.Equal(t, int(dropped), slow.recorded().missed)
	assert.Len(t, slow.recorded().got, messages-int(dropped))
	eventually(t, func() bool { return len(slow.recorded().learned[a.relay.id]) == 1 }, "it learns the events that it missed")
}

// TestGap makes NATS lose messages to a node. They are sent again.
func TestGap(t *testing.T) {
	a := newFake(t, servers(t).url(0), Options{})
	r, err := Connect(servers(t).url(1), &a.relay.opts)
	require.NoError(t, err)
	all := r.inbound
	r.inbound = make(chan *nats.Msg)
	go func() {
		for i := 0; ; i++ {
			if m := <-all; i%20 > 0 {
				select {
				case r.inbound <- m:
				case <-r.ctx.Done():
					return
				}
			}
		}
	}()
	b := startFake(t, r)
	waitUntilAllKnow(t, a, b)
	a.postNumbers(b, 10000, nil)
	eventually(t, func() bool { return isAccounted(a, b) })
	assert.Equal(t, 10000, b.requireInOrder(t))
	assert.Zero(t, b.recorded().missed)
}

// TestDrain closes a node after it has posted many messages. All of them arrive.
func TestDrain(t *testing.T) {
	a := newFake(t, servers(t).url(0), Options{})
	b := newFake(t, servers(t).url(1), Options{})
	waitUntilAllKnow(t, a, b)
	_, _, err := a.relay.Claim(t.Context(), "x", false)
	require.NoError(t, err)
	const messages = 50000
	for i := range messages {
		a.relay.Post(b.relay.id, relay.Delivery{Messages: [][]byte{fmt.Append(nil, i)}}, nil)
	}
	a.relay.Release("x")
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	defer cancel()
	require.NoError(t, a.relay.Close(ctx))
	assert.Len(t, b.recorded().got, messages)
	assert.NotContains(t, b.recorded().learned, a.relay.id, "the node has left")
	for _, key := range []string{nameKey("x"), leaseKey(a.relay.id)} {
		_, revision := b.readKey(t, key)
		assert.Zero(t, revision)
	}
	_, _, err = a.relay.Claim(t.Context(), "x", false)
	require.ErrorIs(t, err, sendq.ErrClosed)
}

// TestCloseTogether closes two nodes at once. Neither waits for an acknowledgement of the other after
// its bye.
func TestCloseTogether(t *testing.T) {
	opts := Options{Lease: time.Minute}
	a := newFake(t, servers(t).url(0), opts)
	p, natsOptions := newProxy(t, servers(t).url(1))
	b := newFake(t, p.url(), opts, natsOptions...)
	waitUntilAllKnow(t, a, b)
	p.stall() // so b acknowledges nothing
	a.postNumbers(b, 100, nil)
	closed := make(chan error)
	go func() { closed <- a.relay.Close(t.Context()) }()
	eventually(t, func() bool { return a.relay.closing.Err() != nil })
	bound, cancel := context.WithCancel(t.Context())
	defer cancel()
	go b.relay.Close(bound)
	select {
	case err := <-closed:
		require.NoError(t, err)
	case <-time.After(testTimeout):
		require.Fail(t, "Close still waits")
	}
}

// TestCloseHandsBack closes a node while another one takes a name over from it. The undelivered
// messages are handed back before Close returns.
func TestCloseHandsBack(t *testing.T) {
	a := newFake(t, servers(t).url(0), Options{})
	b := newFake(t, servers(t).url(1), Options{})
	waitUntilAllKnow(t, a, b)
	_, _, err := a.relay.Claim(t.Context(), "x", false)
	require.NoError(t, err)
	a.block = make(chan struct{})
	asked := make(chan struct{})
	a.onEvict = func(context.Context) { close(asked) }
	go b.relay.Claim(t.Context(), "x", true)
	<-asked
	go func() {
		for len(a.relay.allPeers()) > 0 { // until it has removed all peers
			runtime.Gosched()
		}
		close(a.block)
	}()
	require.NoError(t, a.relay.Close(t.Context()))
	assert.Equal(t, []string{"x"}, a.recorded().handedBack)
}

// TestLeavesNothing checks that no goroutine is left for an unreachable node or in a closed one.
func TestLeavesNothing(t *testing.T) {
	opts := Options{Lease: time.Second}
	a := newFake(t, servers(t).url(0), opts)
	p, natsOptions := newProxy(t, servers(t).url(1))
	b := newFake(t, p.url(), opts, natsOptions...)
	waitUntilAllKnow(t, a, b)
	p.cut()
	eventually(t, func() bool { return !a.knows(b) && !b.knows(a) })
	eventually(t, func() bool { return !isRunning("natsrelay.(*peer).") })
	p.restore()
	waitUntilAllKnow(t, a, b)
	require.NoError(t, a.relay.Close(t.Context()))
	require.NoError(t, b.relay.Close(t.Context()))
	for _, what := range []string{"natsrelay.(*Relay).", "natsrelay.(*peer).", "natsrelay.(*registry).", "nats%2ego.(*Conn)."} {
		eventually(t, func() bool { return !isRunning(what) }, what)
	}
}

// isRunning reports whether a goroutine is in a function with that prefix.
func isRunning(function string) bool {
	var stacks strings.Builder
	_ = pprof.Lookup("goroutine").WriteTo(&stacks, 2)
	return strings.Contains(stacks.String(), function)
}
