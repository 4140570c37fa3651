package sendq_test

import (
	"math"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
)

// More may be pending than an int of 32 bits counts, because Send does not copy.
func TestPendingBeyond32Bits(t *testing.T) {
	const size = 1 << 30
	p := make([]byte, size) // never touched, so it takes no memory
	w, _ := stuck(t, nil)
	for i := range int64(3) {
		require.NoError(t, w.Send(p))
		require.Equal(t, (i+1)*size+36, w.Stats().PendingBytes)
	}
	require.NoError(t, w.CloseNow())
	require.Equal(t, int64(3*size+36), w.Stats().UndeliveredBytes)

	// Limits that are near the largest int hold as well.
	for _, limit := range []int{math.MaxInt, math.MaxInt - 1} {
		for name, opts := range map[string]*sendq.WriterOptions{
			"MaxPending": {MaxPending: limit},
			"Budget":     {Budget: sendq.NewBudget(limit)},
		} {
			t.Run(name+strconv.Itoa(limit), func(t *testing.T) {
				w, _ := stuck(t, opts)
				require.NoError(t, w.Send(p))
				if strconv.IntSize == 32 {
					require.ErrorIs(t, w.Send(p), sendq.ErrSlowConsumer)
				} else {
					require.NoError(t, w.Send(p))
				}
			})
		}
	}
}
