package natsrelay

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestStream sends items through a network that loses and repeats envelopes, and sometimes clears
// the outbox. Each item arrives once and in order, or its messages are counted as missed.
func TestStream(t *testing.T) {
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		const room = 10
		o, in := newOutbox(room, 64), inbox{}
		var sent, got, missed uint64
		last, next := uint32(0), uint32(0)
		receive := func(lossy bool) (progress bool) {
			p := o.peek()
			require.True(t, p == nil || len(p.buf) <= room+o.pieceSize)
			h := header{oldest: o.oldest, number: o.next - 1, messages: o.messagesBefore()}
			var b []byte
			if p != nil {
				h.number, h.messages, h.continued, b = o.next, p.messagesBefore, uint32(p.continued), p.buf[room:]
				o.markPublished()
			}
			if lossy && rnd.IntN(3) == 0 {
				return true
			}
			isNext, more, _ := in.accept(&h, p == nil)
			missed += more
			if isNext && p != nil {
				in.unpack(h.continued, b, func(item []byte) int {
					require.Greater(t, binary.BigEndian.Uint32(item), last, "in order")
					last = binary.BigEndian.Uint32(item)
					require.Equal(t, bytes.Repeat([]byte{byte(len(item))}, len(item)-4), item[4:])
					got += 2
					return 2
				})
			}
			if !lossy || rnd.IntN(2) == 0 {
				o.acknowledge(in.number)
			}
			if in.hasGap {
				o.rewind(in.number + 1)
			}
			return p != nil || in.hasGap
		}
		for range 500 {
			switch rnd.IntN(20) {
			case 0:
				o.drop(3)
				sent += 3
			case 1:
				o.clear()
			case 19:
				if size := 32 + rnd.IntN(64); !o.resize(size) {
					o.clear()
				}
			case 2, 3, 4, 5, 6, 7, 8:
				size := 1 + rnd.IntN(250)
				next++
				item := binary.BigEndian.AppendUint32(nil, next)
				o.add(append(item, bytes.Repeat([]byte{byte(size + 4)}, size)...), 2)
				sent += 2
			default:
				receive(true)
			}
		}
		for receive(false) {
		}
		require.Equal(t, sent, got+missed, "seed %d", seed)
		require.Zero(t, o.bytes)
		require.Empty(t, o.pieces)
	}
}

// TestTooLargeItem receives the beginning of an item of 1 TiB. Nothing of it is kept, and later items
// arrive.
func TestTooLargeItem(t *testing.T) {
	var in inbox
	got := 0
	count := func([]byte) int { got++; return 0 }
	small := append(appendUint(nil, 3), "abc"...)
	huge := append(binary.AppendUvarint(nil, 1<<40), make([]byte, 1000)...)
	require.False(t, in.unpack(0, append(small, huge...), count))
	require.Equal(t, 1, got)
	require.True(t, in.unpack(1<<20, make([]byte, 1000), count))
	require.Empty(t, in.partial)
	require.True(t, in.unpack(0, small, count))
	require.Equal(t, 2, got)
	require.False(t, in.unpack(0, bytes.Repeat([]byte{0xff}, 20), count), "a size with too many bytes")
	require.Empty(t, in.partial)
}
