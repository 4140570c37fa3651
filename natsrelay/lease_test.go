package natsrelay

import (
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestServerIsCutOffAfterRenewal cuts off a NATS server soon after its node has renewed the lease to
// withdraw a claim. The registry's connection moves as early as without that renewal.
func TestServerIsCutOffAfterRenewal(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	for ago := time.Duration(0); ago <= time.Second; ago += 100 * time.Millisecond {
		synctest.Test(t, func(t *testing.T) {
			s := newSimulation(1)
			s.weather = simServerStorm
			s.servers, s.network = newSimServers(3), newSimNetwork(1, 10*time.Millisecond)
			s.machines = s.machines[:3]
			for i := range s.machines {
				s.start(i)
			}
			time.Sleep(s.relayOptions.Lease)
			b := s.running(1)
			require.NoError(t, b.relay.registry.renew(t.Context()))
			time.Sleep(ago)
			heal := s.servers.cut(1, false, 0)
			time.Sleep(4 * time.Second)
			server, isConnected := b.registry.place()
			assert.False(t, isConnected && server == 1, "renewed %v before the cut", ago)
			time.Sleep(s.relayOptions.Lease)
			heal()
			time.Sleep(s.relayOptions.Lease)
			s.shutDown()
			require.Empty(t, s.ledger.faults)
		})
	}
}
