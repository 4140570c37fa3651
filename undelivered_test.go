package sendq_test

import (
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
)

// What a Writer leaves that has names in several Brokers goes to one that hands it back,
// whichever hears first of the end, and however it ends.
func TestOnUndeliveredOfSeveralBrokers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for i := range 6 {
			var brokers []*sendq.Broker
			var returned handBacks
			for j := range 3 {
				var opts sendq.BrokerOptions
				if j == i%3 {
					opts.OnUndelivered = returned.add
				}
				brokers = append(brokers, sendq.NewBroker(&opts))
			}
			w := sendq.NewWriter(stalledPeer(), nil)
			for _, b := range brokers {
				require.NoError(t, b.Register("bob", w))
			}
			require.NoError(t, brokers[0].Send("bob", []byte("hello\n")))
			if i < 3 {
				w.CloseNow()
			} else {
				brokers[0].Close()
			}
			synctest.Wait()
			require.Equal(t, []handBack{{"bob", []string{"hello\n"}, sendq.ErrClosed}}, returned.all())
		}
	})
}

// A node that loses a name hands back what its Writer leaves, or leaves that to another Broker.
func TestOnUndeliveredOfALostName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node, cluster := alone(t, nil)
		other, returned := newBroker(sendq.Reject)
		w := register(t, cluster, "bob", stalledPeer())
		require.NoError(t, other.Register("bob", w))
		require.NoError(t, cluster.Send("bob", []byte("hello\n")))
		node.Lose("bob")
		<-w.Done()
		synctest.Wait()
		require.Equal(t, []handBack{{"bob", []string{"hello\n"}, sendq.ErrNameLost}}, returned.all())
	})
}

// If both hand back, one of them does.
func TestOnUndeliveredOfTwoBrokersIsCalledOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, returnedByOne := newBroker(sendq.Reject)
		two, returnedByTwo := newBroker(sendq.Reject)
		w := register(t, one, "bob", stalledPeer())
		require.NoError(t, two.Register("bob", w))
		require.NoError(t, one.Send("bob", []byte("hello\n")))
		w.CloseNow()
		synctest.Wait()
		require.Len(t, append(returnedByOne.all(), returnedByTwo.all()...), 1)
	})
}

// Close of the Broker waits for what a lost name leaves, although its Writer takes long to end.
func TestCloseWaitsForALostName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var returned handBacks
		node, b := alone(t, &sendq.BrokerOptions{OnUndelivered: returned.add})
		conn, letGo := lingering()
		register(t, b, "bob", conn)
		require.NoError(t, b.Send("bob", []byte("hello\n")))
		node.Lose("bob")
		synctest.Wait()
		closed := async(b.Close)
		synctest.Wait()
		require.Empty(t, closed)
		letGo()
		require.NoError(t, <-closed)
		require.Equal(t, []handBack{{"bob", []string{"hello\n"}, sendq.ErrNameLost}}, returned.all())
	})
}

// What a Writer with two names leaves goes with the name that another node takes over, and the
// other name does not hand it back here.
func TestEvictedWriterWithTwoNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var returned handBacks
		node, b := alone(t, &sendq.BrokerOptions{Names: sendq.Takeover, OnUndelivered: returned.add})
		w := register(t, b, "bob", stalledPeer())
		require.NoError(t, b.Register("robert", w))
		require.NoError(t, b.Send("robert", []byte("hello\n")))
		estate, ok := node.Evict("bob", "other")
		require.True(t, ok)
		require.Equal(t, [][]byte{[]byte("hello\n")}, estate.Undelivered)
		synctest.Wait()
		require.Zero(t, b.Len())
		require.Empty(t, returned.all())
	})
}
