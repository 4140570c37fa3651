package sendq_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/sendqtest"
)

// Writers that have nothing pending, and only keep messages that they share, are ended if the Budget
// needs the room.
func TestBudgetTakesTheRoomOfSharedKeptMessages(t *testing.T) {
	budget := sendq.NewBudget(64 << 10)
	b := sendq.NewBroker(nil)
	var keepers []*sendq.Writer
	for i := range 2 {
		w := sendq.NewWriter(sendqtest.NewConn(), &sendq.WriterOptions{Keep: 1 << 20, Budget: budget})
		require.NoError(t, b.Register(memberName(i), w))
		require.NoError(t, b.Room("room").Join(memberName(i)))
		keepers = append(keepers, w)
	}
	for range 2 {
		require.Equal(t, 2, b.Room("room").Publish(make([]byte, 20<<10)))
	}
	flushAll(t, b)
	require.Equal(t, 40<<10, budget.PendingBytes())
	w, _ := stuck(t, &sendq.WriterOptions{Budget: budget})
	require.NoError(t, w.Send(make([]byte, 30<<10)))
	for _, k := range keepers {
		<-k.Done()
		require.ErrorIs(t, k.Err(), sendq.ErrSlowConsumer)
	}
	require.NoError(t, w.CloseNow())
	require.Zero(t, budget.PendingBytes())
	require.NoError(t, b.CloseNow())
}
