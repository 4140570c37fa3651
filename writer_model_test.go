package sendq_test

import (
	"flag"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/sendq-go/sendq"
)

// The bits of limits, the second byte of an input.
const (
	limitPending = 1 << iota
	limitBudget
	limitTime
	messageFramed
	largeBudget // with limitBudget
	limitMessages
	limitExpire // with limitTime
	farewell
)

// More bits, of the first byte of an input.
const (
	noNetConn = 1 << 6 // the Writers get a StreamConn, or a MessageConn if messageFramed
	withMarks = 1 << 7
)

// With modelMaxPending a write of DropOldest has 512 bytes, so most messages take several writes.
const (
	modelMaxPending  = 4 << 10
	modelMaxMessages = 12
)

// settings is the number of bytes at the start of an input that are no operations.
const settings = 3

// setting returns the first bytes of an input: an Overflow, a kind of connection, a number of lines,
// limits, and an index of keeps.
func setting(overflow sendq.Overflow, kind connKind, lines int, limits, keep byte) []byte {
	return []byte{byte(overflow) | byte(kind)<<2 | byte(lines-1)<<4, limits, keep}
}

// on returns an operation on a line.
func on(line, op int, amount byte) []byte { return []byte{byte(op + line*opCount), amount} }

// FuzzWriter does what the input says to Writers that have names of a Broker, and then
// accounts for each message: it is on the wire, or dropped, or undelivered, exactly once,
// whole and in order, and Stats agrees with the results of the senders' calls. The first bytes
// are a setting; then each two bytes are an operation.
//
// In memory the clock is that of a bubble. On sockets it is real, so the course of events depends
// on the scheduler too, but the verdict does not.
func FuzzWriter(f *testing.F) {
	for overflow := range sendq.DropOldest + 1 {
		for limits := range byte(16) {
			for kind := range connKindCount {
				if kind != inMemory && limits >= limitTime {
					continue // these take longer
				}
				for _, operations := range [][]byte{
					{opSend, 14, opStall, 0, opBurst, 20, opFlush, 0, opSend, 80, opRelease, 0, opSend, 0, opEnd, 0},
					{opStall, 0, opBurst, 3, opFlush, 1, opBurst, 60, opSleep, 30, opRelease, 0, opBurst, 9},
					{opBurst, 9, opFail, 100, opBurst, 30, opFlush, 1, opSend, 40, opEnd, 1},
					{opStall, 0, opBurst, 40, opFlush, 0, opSleep, 255, opSend, 1, opEnd, 2},
					{opStall, 0, opBurst, 9, opAlways, 30, opParts, 62, opUrgent, 20, opParts, 40, opBurst, 60, opUrgent, 2, opCloseWith, 9, opRelease, 0},
					{opStall, 0, opBurst, 20, opTakeover, 3, opFanOut, 9, opSlowTakeover, 0, opSendTo, 60, opRelease, 0},
					{opBurst, 20, opRead, 60, opAcknowledge, 5, opStall, 0, opBurst, 9, opUrgent, 9, opResume, 6, opBurst, 3, opAcknowledge, 9, opResume, 40, opFanOut, 3},
					{opBurst, 9, opRelease, 0, opResume, 3, opUrgent, 2, opBurst, 5, opRelease, 0, opResume, 2, opSend, 9, opResume, 255, opStall, 0, opResume, 90},
				} {
					f.Add(slices.Concat(setting(overflow, kind, 2, limits, limits/3), operations))
				}
			}
		}
	}
	for _, input := range tearing {
		f.Add(input)
	}
	for overflow := range sendq.DropOldest + 1 {
		for _, limits := range []byte{limitPending, limitPending | messageFramed} {
			input := slices.Concat(setting(overflow, wrappedUnix, 2, limits, 0),
				[]byte{opStall, 0, opBurst, 20, opTakeover, 3, opUrgent, 9, opSlowTakeover, 0, opBurst, 60, opRelease, 0, opEnd, 0})
			input[0] |= noNetConn
			f.Add(input)
		}
		f.Add(slices.Concat(setting(overflow, inMemory, 2, limitMessages|limitTime|limitExpire|farewell, 0),
			[]byte{opStall, 0, opBurst, 9, opAlways, 9, opSleep, 50, opUrgent, 9, opSleep, 50, opBurst, 30, opRelease, 0}))
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		if len(input) >= settings {
			modelOf(t, input[:min(len(input), 203)])
		}
	})
}

// tearing holds inputs that once tore messages: DropOldest dropped a message partly on the
// connection, because no write was in progress.
var tearing = map[string][]byte{
	// The sender's own try has written a part, and the flusher has not run yet.
	"try": slices.Concat(setting(sendq.DropOldest, plainUnix, 1, limitPending, 0), slices.Repeat(slices.Concat(
		slices.Repeat(on(0, opSend, 150), 5), on(0, opRead, 255), on(0, opSleep, 200)), 14)),
	// The same with the try of a fan-out.
	"fan-out": slices.Concat(setting(sendq.DropOldest, plainUnix, 4, limitPending, 0), slices.Repeat(slices.Concat(
		on(0, opFanOut, 144), slices.Repeat(on(0, opFanOut, 153), 4),
		on(0, opRelease, 0), on(1, opRelease, 0), on(2, opRelease, 0), on(3, opRelease, 0), on(0, opSleep, 255)), 10)),
	// A takeover holds the flusher.
	"takeover": slices.Concat(setting(sendq.DropOldest, wrappedUnix, 1, limitPending, 0), slices.Repeat(slices.Concat(
		on(0, opTakeover, 0), on(0, opSlowTakeover, 150), slices.Repeat(on(0, opSend, 150), 4),
		on(0, opRelease, 0), on(0, opSleep, 255)), 12)),
	// Many senders send while the peer reads.
	"traffic": slices.Concat(setting(sendq.DropOldest, plainUnix, 1, limitPending, 0),
		slices.Repeat(on(0, opConcurrent, 63), 3), slices.Repeat(slices.Concat(
			on(0, opSend, 150), on(0, opRead, 200), on(0, opSleep, 10)), 32)),
}

// TestNeverTearsOnSockets runs each input of tearing several times, because it depends on the
// scheduler.
func TestNeverTearsOnSockets(t *testing.T) {
	for name, input := range tearing {
		t.Run(name, func(t *testing.T) {
			for range 20 {
				modelOf(t, input)
			}
		})
	}
}

var modelRuns = flag.Int("modelruns", 60, "how many inputs TestWriterModel tries; TestBrokerModel tries a twentieth with each policy")

// TestWriterModel is FuzzWriter with random inputs. A thousand take a minute:
//
//	go test -run TestWriterModel -modelruns 1000000 -timeout 0 .
func TestWriterModel(t *testing.T) {
	for range *modelRuns {
		seed := rand.Uint64()
		rng := rand.New(rand.NewPCG(seed, 0))
		input := setting(pick(rng, []sendq.Overflow{sendq.Disconnect, sendq.Block, sendq.DropNewest, sendq.DropOldest, sendq.DropOldest}),
			pick(rng, []connKind{inMemory, plainUnix, plainUnix, plainTCP, wrappedUnix, wrappedUnix}), 1+rng.IntN(4), byte(rng.Uint32()&rng.Uint32()|limitPending&rng.Uint32()), byte(rng.IntN(len(keeps))))
		input[0] |= byte(rng.Uint32()) & withMarks
		input[0] |= byte(rng.Uint32()&rng.Uint32()) & noNetConn
		for range 20 + rng.IntN(80) {
			input = append(input, byte(rng.IntN(4*opCount)), byte(rng.IntN(256)))
		}
		if !t.Run("", func(t *testing.T) {
			t.Logf("the input is %#v", input)
			modelOf(t, input)
		}) {
			return
		}
	}
}

// modelOf runs the model with an input, in a bubble if it uses no sockets.
func modelOf(t *testing.T, input []byte) {
	if connKind(input[0]>>2)%connKindCount != inMemory {
		runModel(t, input)
		return
	}
	synctest.Test(t, func(t *testing.T) { runModel(t, input) })
}
