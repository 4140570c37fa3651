package sendq_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/internal/faultconn"
)

// The operations of FuzzWriter, each with a number that says how much.
const (
	opSend = iota // more of it than of the others
	opSendAgain
	opBurst
	opStall
	opRelease
	opFail
	opFlush
	opSleep
	opEnd
	opCount
)

// FuzzWriter does to a Writer whatever the input says, and then accounts for each
// message: what was accepted is on the wire, or dropped, or undelivered, exactly once,
// whole and in order, and Stats says the same. The first bytes choose the options; then
// each two bytes are an operation.
func FuzzWriter(f *testing.F) {
	for overflow := range byte(4) {
		for limits := range byte(16) {
			f.Add([]byte{overflow, limits, opSend, 10, opStall, 0, opBurst, 20, opFlush, 0, opSend, 200, opRelease, 0, opSend, 0, opEnd, 0})
			f.Add([]byte{overflow, limits, opStall, 0, opBurst, 3, opFlush, 1, opBurst, 60, opSleep, 30, opRelease, 0, opBurst, 9})
			f.Add([]byte{overflow, limits, opBurst, 9, opFail, 100, opBurst, 30, opFlush, 1, opSend, 90, opEnd, 1})
			f.Add([]byte{overflow, limits, opStall, 0, opBurst, 40, opFlush, 0, opSleep, 255, opSend, 1, opEnd, 2})
		}
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		if len(input) < 2 {
			return
		}
		synctest.Test(t, func(t *testing.T) { runModel(t, input[0], input[1], input[2:min(len(input), 200)]) })
	})
}

func runModel(t *testing.T, overflow, limits byte, operations []byte) {
	opts := &sendq.WriterOptions{Overflow: sendq.Overflow(overflow % 4), MessageFramed: limits&8 != 0}
	if limits&1 != 0 {
		opts.MaxPending = 2000
	}
	if limits&2 != 0 {
		opts.Budget = sendq.NewBudget(5000)
	}
	if limits&4 != 0 {
		opts.MaxAge, opts.WriteTimeout = time.Minute, 30*time.Second
	}
	conn := faultconn.New()
	failing, left := false, 0
	conn.Fault = func(p []byte) (int, error) {
		if !failing {
			return len(p), nil
		}
		n := min(left, len(p))
		if left -= n; n < len(p) {
			return n, errBroken
		}
		return n, nil
	}
	w := sendq.NewWriter(conn, opts)
	stalled := false

	var accepted, dropped []int // the numbers of messages, by what their senders heard
	frames := make(map[int][]byte)
	number := 0
	sendOne := func(length int) {
		number++
		p := frame(0, number, length)
		frames[number] = bytes.Clone(p)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var err error
		if number%3 == 0 {
			_, err = w.WriteContext(ctx, p)
			clear(p)
		} else if opts.Overflow == sendq.Block && opts.MaxPending > 0 {
			_, err = w.WriteContext(ctx, p) // Send would wait for good
		} else {
			err = w.Send(p)
		}
		switch {
		case err == nil:
			accepted = append(accepted, number)
		case errors.Is(err, sendq.ErrDropped):
			dropped = append(dropped, number)
		}
	}
	var flushes []<-chan error
	for i := 0; i+1 < len(operations); i += 2 {
		much := int(operations[i+1])
		switch operations[i] % opCount {
		case opSend, opSendAgain:
			sendOne(much)
		case opBurst:
			for j := range much {
				sendOne(j % 7 * 10)
			}
		case opStall:
			if !stalled {
				conn.Stall()
				stalled = true
			}
		case opRelease:
			if stalled {
				conn.Release()
				stalled = false
			}
		case opFail:
			synctest.Wait() // so that the flusher does not look at it meanwhile
			if !stalled {
				failing, left = true, much
			}
		case opFlush:
			if much%2 == 0 {
				synctest.Wait()
			}
			before := w.Stats()
			flushes = append(flushes, async(func() error {
				err := w.Flush(context.Background())
				after := w.Stats()
				if err == nil && after.Written+after.Dropped < before.Accepted {
					return errors.New("Flush told of success, but not all before it has its outcome")
				}
				return nil
			}))
		case opSleep:
			time.Sleep(time.Duration(much) * time.Second)
		case opEnd:
			switch much % 3 {
			case 0:
				go w.Close()
			case 1:
				w.CloseNow()
			case 2:
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(much)*time.Second)
				_ = w.Shutdown(ctx)
				cancel()
			}
		}
		assertConserved(t, w.Stats())
	}
	w.Close()
	for _, flushed := range flushes {
		require.NoError(t, <-flushed)
	}

	wire := conn.Bytes()
	var arrived []int
	for len(wire) >= frameHeader {
		n := int(binary.BigEndian.Uint32(wire[4:]))
		p := frames[n]
		require.NotNil(t, p, "no such message was sent")
		if len(wire) < len(p) {
			break
		}
		require.True(t, bytes.Equal(p, wire[:len(p)]), "torn")
		arrived = append(arrived, n)
		wire = wire[len(p):]
	}
	var undelivered []int
	for p := range w.Undelivered() {
		n := int(binary.BigEndian.Uint32(p[4:]))
		require.True(t, bytes.Equal(frames[n], p))
		undelivered = append(undelivered, n)
	}
	if len(wire) > 0 { // the beginning of a message, and nothing after it
		require.NotEmpty(t, undelivered)
		require.True(t, bytes.HasPrefix(frames[undelivered[0]], wire))
	}
	outcomes := slices.Concat(arrived, undelivered)
	require.True(t, slices.IsSorted(outcomes), "out of order: %v", outcomes)
	require.Equal(t, len(outcomes), len(slices.Compact(slices.Clone(outcomes))), "doubled")
	for _, n := range outcomes {
		_, ok := slices.BinarySearch(accepted, n)
		require.True(t, ok, "%d was not accepted", n)
	}
	stats := w.Stats()
	assertConserved(t, stats)
	require.EqualValues(t, len(accepted)+len(dropped), stats.Accepted)
	require.EqualValues(t, len(arrived), stats.Written)
	require.EqualValues(t, len(undelivered), stats.Undelivered)
	require.EqualValues(t, len(accepted)+len(dropped)-len(outcomes), stats.Dropped)
	if opts.Overflow != sendq.DropOldest {
		require.EqualValues(t, len(dropped), stats.Dropped)
	}
	if opts.Budget != nil {
		require.Zero(t, opts.Budget.Pending())
	}
	require.Error(t, conn.Close(), "the Writer has closed it")
}
