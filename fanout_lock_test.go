package sendq

import (
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

// While a message is on its way to all and to a room, everything else goes on.
func TestFanOutHoldsUpNothingElse(t *testing.T) {
	b := NewBroker(nil)
	conn, _ := net.Pipe()
	w := NewWriter(conn, nil)
	require.NoError(t, b.Register("bob", w))
	require.NoError(t, b.Room("room").Join("bob"))

	b.all.order.Lock() // as the fan-out does, which is in the midst of its recipients
	b.rooms.Get("room").order.Lock()
	require.NoError(t, b.Send("bob", []byte("direct")))
	require.Equal(t, 1, b.SendTo([]string{"bob", "carol"}, []byte("to several")).Accepted)
	otherConn, _ := net.Pipe()
	other := NewWriter(otherConn, nil)
	require.NoError(t, b.Register("carol", other))
	require.NoError(t, b.Room("room").Join("carol"))
	require.Equal(t, 2, b.Room("room").Len())
	require.True(t, b.Room("room").Leave("carol"))
	require.NoError(t, b.Room("other").Join("carol"))
	require.Equal(t, 1, b.Room("other").Publish([]byte("another room")))
	w.CloseNow()
	require.Equal(t, 1, b.Len())
	b.all.order.Unlock()
	require.True(t, b.Unregister("carol", other))
	other.CloseNow()
}
