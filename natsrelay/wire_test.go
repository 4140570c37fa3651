package natsrelay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/relay"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestHeader(t *testing.T) {
	h := header{newestVersion, [2]byte{oldestVersion, newestVersion}, flagResend, "node-1", 1 << 40, 2, 3, 4, 5}
	b := append(make([]byte, headerSize(len(h.from))), "piece"...)
	h.put(b)
	got, piece, err := parseEnvelope(b)
	require.NoError(t, err)
	assert.Equal(t, h, got)
	assert.Equal(t, "piece", string(piece))
	for n := range headerSize(len(h.from)) {
		_, _, err := parseEnvelope(b[:n])
		assert.ErrorIs(t, err, errMalformed)
	}
	b[0]++
	_, _, err = parseEnvelope(b)
	assert.ErrorIs(t, err, errMalformed, "another version")
}

// TestNextVersion receives from nodes of the next release. One that also speaks the newest version of
// this release is a node like any other. One that does not is reported, and keeps its names.
func TestNextVersion(t *testing.T) {
	n, log := newFakeWithoutNATS(), new(logBuffer)
	n.relay.opts.Log = slog.New(slog.NewTextHandler(log, nil))
	n.relay.registry.bucket = &takenStore{n.relay.registry.bucket, "foreign", func() {}} // both have a lease
	receive := func(from string, oldest byte) {
		item := appendDelivery([]byte{itemPost, 0}, relay.Delivery{Messages: [][]byte{[]byte(from)}})
		o := newOutbox(headerSize(len(from)), maxPiece)
		o.add(item, 1)
		for _, h := range []header{{from: from, flags: flagBeat}, {from: from, number: 1, oldest: 1}} {
			b := o.pieces[0].buf
			h.put(b)
			b[1], b[2] = oldest, newestVersion+1
			n.relay.receive(b)
		}
	}
	receive("compatible", newestVersion)
	receive("foreign", newestVersion+1)
	assert.Equal(t, []string{": compatible"}, n.recorded().got)
	assert.True(t, n.relay.peer("compatible").isReachable())
	p := n.relay.peer("foreign")
	assert.False(t, p.isReachable())
	for range n.relay.leaseBeats() * 2 {
		n.relay.handleEcho()
		receive("foreign", newestVersion+1)
	}
	isDead, err := n.relay.registry.isDead(t.Context(), p)
	require.NoError(t, err)
	assert.False(t, isDead)
	assert.Equal(t, 1, strings.Count(log.String(), "node speaks other versions of the protocol"))
	assert.Zero(t, n.relay.Stats().Malformed)
}

func TestRemoteErrors(t *testing.T) {
	remote := func(err error) error { return (&parser{b: appendError(nil, err)}).error() }
	assert.NoError(t, remote(nil))
	for _, s := range sentinels {
		err := remote(fmt.Errorf("on my side: %w", s))
		assert.ErrorIs(t, err, s)
		assert.EqualError(t, err, "on my side: "+s.Error())
		for _, other := range sentinels {
			assert.Equal(t, errors.Is(s, other), errors.Is(err, other))
		}
	}
	assert.ErrorIs(t, remote(sendq.ErrClosed), net.ErrClosed)
	assert.EqualError(t, remote(io.EOF), "EOF")
	both := remote(errors.Join(sendq.ErrClosed, sendq.ErrTakenOver))
	assert.ErrorIs(t, both, sendq.ErrClosed)
	assert.ErrorIs(t, both, sendq.ErrTakenOver)
}

func TestItems(t *testing.T) {
	d := relay.Delivery{
		To:       relay.Target{Kind: relay.TargetRoom, Name: "", Except: true, Sender: "> *\x00"},
		Messages: [][]byte{[]byte("a"), {}, make([]byte, 1000)}, Number: 1 << 40, CatchUp: 1 << 41, HasGap: true,
	}
	in := parser{b: appendDelivery(nil, d)}
	assert.Equal(t, d, in.delivery())
	e := relay.Event{Kind: relay.EventRoomLeft, Name: "n", Token: 1 << 40, Room: "r", To: "by", Heard: map[string]uint64{"n": 7}, Since: 1 << 40, Cause: nil}
	in = parser{b: appendEvent(nil, e)}
	assert.Equal(t, e, in.event())
	a := response{true, false, [][]byte{[]byte("m")}, []string{"r", ""}, true, true, 1, 1 << 40, 1 << 41, 1 << 39, -1, map[string]uint64{"n": 1 << 40, "": 0}, 1 << 41}
	in = parser{b: appendResponse(nil, a)}
	assert.Equal(t, a, in.response())
	assert.False(t, in.bad)
	assert.Empty(t, in.b)
	in.response()
	assert.True(t, in.bad)

	// A kind that this version does not know must not be taken for another one.
	in = parser{b: appendDelivery(nil, relay.Delivery{To: relay.Target{Kind: relay.TargetAll + 1}})}
	in.delivery()
	assert.True(t, in.bad)
	in = parser{b: appendEvent(nil, relay.Event{Kind: relay.EventBack + 1})}
	in.event()
	assert.True(t, in.bad)
}

// FuzzReceive passes two arbitrary envelopes to a node. The node survives, and delivers messages from
// another node afterwards.
func FuzzReceive(f *testing.F) {
	envelope := func(number uint64, item []byte) []byte {
		h := header{from: "other", number: number, oldest: 1}
		o := newOutbox(headerSize(len(h.from)), maxPiece)
		o.add(item, 1)
		h.put(o.pieces[0].buf)
		return o.pieces[0].buf
	}
	post := appendDelivery([]byte{itemPost, 1}, relay.Delivery{Messages: [][]byte{[]byte("hi")}})
	events := appendList([]byte{itemSnapshot, 0}, []relay.Event{{Name: "x", Cause: io.EOF}}, appendEvent)
	f.Add(envelope(1, post), envelope(2, events))
	f.Add(envelope(1, events), envelope(3, post))
	f.Add(envelope(1, appendResponse([]byte{itemHandover, 1, 1, 'x'}, response{true, false, [][]byte{[]byte("m")}, []string{"r"}, true, false, 1, 9, 9, 5, -1, nil, 0})), envelope(2, []byte{itemBye}))
	f.Add(envelope(1, []byte{itemEvict, 1, 1, 'x', 0}), envelope(2, []byte{itemReplay, 1, 1, 'r', 3}))
	f.Add(binary.AppendUvarint(envelope(1, nil), 1<<40), envelope(2, post))
	f.Add(envelope(1, appendError([]byte{itemOutcome, 1, 1}, sendq.ErrClosed)), []byte{newestVersion})
	f.Fuzz(func(t *testing.T, first, second []byte) {
		n := newFakeWithoutNATS()
		n.relay.receive(first)
		n.relay.receive(second)
		n.relay.receive(envelope(1, post)) // it may be a duplicate, or older than the number before
		h := header{from: "another", number: 1, oldest: 1}
		b := envelope(1, post)
		_, piece, err := parseEnvelope(b)
		require.NoError(t, err)
		b = append(make([]byte, headerSize(len(h.from))), piece...)
		h.put(b)
		before := len(n.got)
		n.relay.receive(b)
		require.Len(t, n.got, before+1)
		n.relay.stop()
	})
}

// TestListOfEvents reads a list that announces more events than can have arrived. It takes no memory
// for them.
func TestListOfEvents(t *testing.T) {
	assert.Len(t, appendEvent(nil, relay.Event{}), minEvent)
	arrived := make([]byte, 60_000)
	in := parser{b: append(appendUint(nil, len(arrived)/minEvent), arrived...)}
	assert.Len(t, in.events(), len(arrived)/minEvent)
	in = parser{b: append(appendUint(nil, len(arrived)/minEvent+1), arrived...)}
	assert.Nil(t, in.events())
	assert.True(t, in.bad)
}
