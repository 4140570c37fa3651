package sendq

import (
	"net"
	"reflect"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

// While a Broker's Writers are asked for their figures, everything else goes on.
func TestStatsHoldUpNothingElse(t *testing.T) {
	newWriter := func() *Writer {
		conn, _ := net.Pipe()
		return NewWriter(conn, nil)
	}
	b := NewBroker(nil)
	defer b.Close()
	busy, bob := newWriter(), newWriter()
	defer bob.CloseNow()
	require.NoError(t, b.Register("busy", busy))
	require.NoError(t, b.Register("bob", bob))
	require.NoError(t, b.Room("room").Join("bob"))

	busy.mu.Lock() // Stats waits here
	asked := make(chan BrokerStats)
	go func() { asked <- b.Stats() }()
	for !b.tally.isRead() {
		runtime.Gosched()
	}
	carol := newWriter()
	require.NoError(t, b.Register("carol", carol))
	require.NoError(t, b.Room("room").Join("carol"))
	require.NoError(t, b.Send("bob", []byte("direct")))
	require.Equal(t, 2, b.Room("room").Publish([]byte("to a room")))
	require.NoError(t, carol.CloseNow())
	require.True(t, b.Unregister("bob", bob))
	require.Empty(t, asked)
	busy.mu.Unlock()
	require.Equal(t, 2, (<-asked).Writers)
}

// isRead reports whether somebody has a snapshot of the Writers.
func (t *Tally) isRead() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return reflect.ValueOf(&t.living).Elem().FieldByName("frozen").Bool()
}
