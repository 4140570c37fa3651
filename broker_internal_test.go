package sendq

import (
	"math"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

// Who has many Writers loses one without a look at all of them: there is an index.
func TestManyWritersHaveAnIndex(t *testing.T) {
	const many = 100
	b := NewBroker(&BrokerOptions{Names: Attach})
	defer b.Close()
	for range many {
		require.NoError(t, b.Register("bob", newIdleWriter()))
	}
	require.Equal(t, many, b.names.Get("bob").index.Len())
}

// The numbers of a large fan-out are larger than an int of 32 bits.
func TestFanOutsCountBeyondInt32(t *testing.T) {
	var f fanOuts
	f.count(math.MaxInt32, math.MaxInt32, nil)
	require.Equal(t, int64(math.MaxInt32)*math.MaxInt32, f.stats().Recipients)
}

func newIdleWriter() *Writer {
	conn, _ := net.Pipe()
	return NewWriter(conn, nil)
}
