package sendq

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Once a connection has taken everything it is not one that stalls, and the next blocks may be
// long.
func TestQueueThatWasEmptyGetsLongBlocks(t *testing.T) {
	var q queue
	q.copyIn(make([]byte, 64))
	q.advance(int(q.bytes))
	for q.bytes < 6*minBlock {
		q.copyIn(make([]byte, 64))
	}
	require.GreaterOrEqual(t, len(q.own.buf), 4*minBlock)
}
