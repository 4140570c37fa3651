package natsrelay

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/relay"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// newPeer returns a peer of a node without NATS, in that state.
func newPeer(s state) *peer {
	p := newFakeWithoutNATS().relay.peerFor("other")
	p.publishing = true // so that no goroutine publishes
	p.state = s
	return p
}

// TestPeerStates checks which event takes a peer from which state to which other one.
func TestPeerStates(t *testing.T) {
	full := func(p *peer) {
		p.relay.opts.MaxQueuedBytes = 0
		p.announce([]byte{itemEvents})
	}
	silentFor := func(leases int) func(*peer) {
		return func(p *peer) {
			p.silentTicks = leases * p.relay.opts.ticksIn(p.relay.opts.Lease)
			p.relay.tick()
		}
	}
	for _, test := range []struct {
		name string
		do   func(*peer)
		want [5]state // from each state
	}{
		{"heard", (*peer).markReachable, [...]state{stale, stale, current, departed, stopped}},
		{"silent for a Lease", silentFor(1), [...]state{unreachable, unreachable, unreachable, departed, stopped}},
		{"silent for two", silentFor(2), [...]state{unreachable, unreachable, unreachable, stopped, stopped}},
		{"snapshot", func(p *peer) { p.sendSnapshot(nil) }, [...]state{unreachable, current, current, departed, stopped}},
		{"event", func(p *peer) { p.announce([]byte{itemEvents}) }, [...]state{unreachable, stale, current, departed, stopped}},
		{"event while full", full, [...]state{unreachable, stale, stale, departed, stopped}},
		{"needs a snapshot", func(p *peer) { p.handleAcknowledgement(&header{flags: flagNeedsSnapshot}) }, [...]state{unreachable, stale, stale, departed, stopped}},
		{"bye", (*peer).handleBye, [...]state{departed, departed, departed, departed, stopped}},
		{"removed", func(p *peer) { p.relay.removePeer(p, ErrNodeLost) }, [...]state{stopped, stopped, stopped, stopped, stopped}},
	} {
		for from := unreachable; from <= stopped; from++ {
			p := newPeer(from)
			test.do(p)
			assert.Equal(t, test.want[from], p.state, "%s in state %d", test.name, from)
		}
	}
	p := newPeer(stopped) // while a tick finds it silent
	p.markUnreachable(ErrNodeLost)
	assert.Equal(t, stopped, p.state)
}

// TestUnconfirmed checks the outcomes of messages that get no answer.
func TestUnconfirmed(t *testing.T) {
	for _, test := range []struct {
		do   func(*peer)
		want error
		text string
	}{
		{func(p *peer) { p.markUnreachable(ErrNodeLost) }, ErrNodeLost, "node unreachable"},
		{func(p *peer) { p.handleOutcome(&parser{b: []byte{2, 0, 0}}) }, nil, "the answer of node other was lost"},
		{func(p *peer) { p.relay.stop() }, nil, "this node is shutting down"},
	} {
		p := newPeer(current)
		var outcomes []relay.Outcome
		d := relay.Delivery{Messages: [][]byte{[]byte("hi")}}
		require.NoError(t, p.send(d, func(o relay.Outcome) { outcomes = append(outcomes, o) }))
		test.do(p)
		require.Len(t, outcomes, 1, test.text)
		assert.ErrorIs(t, outcomes[0].Err, sendq.ErrUnconfirmed)
		assert.Equal(t, test.want != nil, errors.Is(outcomes[0].Err, ErrNodeLost))
		assert.ErrorContains(t, outcomes[0].Err, test.text)
	}
}

// TestAnswerIsLate checks that a message without an answer fails exactly after the Timeout.
func TestAnswerIsLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(current)
		start := time.Now()
		after := make(chan time.Duration, 4)
		post := func() {
			require.NoError(t, p.send(relay.Delivery{}, func(o relay.Outcome) {
				assert.ErrorIs(t, o.Err, sendq.ErrUnconfirmed)
				assert.ErrorContains(t, o.Err, "no answer from node other within 5s")
				after <- time.Since(start)
			}))
		}
		for range 2 {
			post()
			time.Sleep(1500 * time.Millisecond)
			post()
			time.Sleep(8 * time.Second)
		}
		for _, want := range []time.Duration{5000e6, 6500e6, 14500e6, 16000e6} {
			assert.Equal(t, want, <-after)
		}
	})
}

// TestNotSent checks the errors of messages that are not sent.
func TestNotSent(t *testing.T) {
	d := relay.Delivery{Messages: [][]byte{[]byte("hi")}}
	answer := func(relay.Outcome) {}
	err := newPeer(unreachable).send(d, answer)
	assert.ErrorIs(t, err, sendq.ErrUnknownName)
	assert.ErrorIs(t, err, ErrNodeLost)
	p := newPeer(current)
	p.relay.opts.MaxQueuedBytes = 1
	require.NoError(t, p.send(d, answer))
	err = p.send(d, answer)
	assert.ErrorIs(t, err, ErrNodeBehind)
	assert.NotErrorIs(t, err, sendq.ErrWouldBlock)
	assert.ErrorContains(t, err, "bytes queued for node other")
	assert.Equal(t, MessageStats{Posted: 1}, p.counts)
	huge := relay.Delivery{Messages: slices.Repeat([][]byte{make([]byte, 1<<20)}, 1<<8)}
	assert.ErrorIs(t, newPeer(current).send(huge, answer), sendq.ErrTooLarge)
}

// TestLostHandover sends what a name leaves to a node that becomes unreachable. It is handed back, unless
// that node has acknowledged it.
func TestLostHandover(t *testing.T) {
	for _, acknowledged := range []bool{false, true} {
		p := newPeer(current)
		p.sendHandover(handover{name: "x", undelivered: [][]byte{[]byte("hi")}}, []byte{itemHandover})
		p.outbox.markPublished()
		var want []string
		if acknowledged {
			p.handleAcknowledgement(&header{received: p.outbox.newest()})
		} else {
			want = append(want, "x")
		}
		p.markUnreachable(ErrNodeLost)
		assert.Equal(t, want, p.relay.node.(*fakeNode).recorded().handedBack)
	}
}

// TestDepartedPeerIsAnswered checks that a peer that has said bye gets an acknowledgement as long as it
// waits for one. Two nodes that leave at the same time must not answer each other's answers.
func TestDepartedPeerIsAnswered(t *testing.T) {
	p := newPeer(departed)
	p.inbox.number = 3
	p.handlePiece(&header{number: 3, oldest: 3}, nil)
	assert.True(t, p.pingDue, "it keeps piece 3")
	p.pingDue = false
	p.handlePiece(&header{number: 3, oldest: 4}, nil)
	assert.False(t, p.pingDue, "it has got the acknowledgement")
	p.handlePiece(&header{number: 5, oldest: 4}, nil)
	assert.True(t, p.pingDue, "it must send piece 4 again")
}

// TestGivenUp receives snapshots of a node that has given this one up some times. Each time between two
// snapshots is a gap of unknown size, which ends when the other node has the snapshot of this one.
func TestGivenUp(t *testing.T) {
	p := newPeer(current)
	gaps := func(givenUp, flags byte) int {
		p.handleEvents(&parser{b: []byte{givenUp, 0}}, true)
		p.reportGivenUp(&header{flags: flags})
		return p.relay.node.(*fakeNode).recorded().gaps
	}
	assert.Equal(t, 0, gaps(3, 0), "before this node was there")
	assert.Equal(t, 0, gaps(3, 0))
	assert.Equal(t, 0, gaps(4, flagNeedsSnapshot))
	assert.Equal(t, 1, gaps(4, 0))
	assert.Equal(t, 1, gaps(4, 0))
	assert.Equal(t, 2, gaps(6, 0))
	p.markUnreachable(ErrNodeLost)
	assert.NotZero(t, p.header.flags&flagNeedsSnapshot)
}
