package natsrelay

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// TestFrozenNode freezes a node for longer than a lease. Observers on it see afterwards what has changed
// in that time, and that messages may be missing.
func TestFrozenNode(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	synctest.Test(t, func(t *testing.T) {
		s := newSimulation(1)
		s.machines = s.machines[:3]
		for i := range s.machines {
			s.start(i)
		}
		time.Sleep(s.relayOptions.Lease)
		c := &simClient{sim: s, random: rand.New(rand.NewPCG(1, 1))}
		join := func(p *simProcess, name, room string) *simSession {
			session, err := s.register(c, p, name)
			require.NoError(t, err)
			session.join(room)
			return session
		}
		a, frozen := s.running(0), s.running(1)
		alice := join(a, "alice", "go")
		join(frozen, "bob", "go")
		join(a, "carol", "go")
		time.Sleep(time.Second)

		thaw := frozen.freeze()
		var events []string
		go func() {
			for e := range frozen.broker.Events(frozen.relay.ctx) {
				if e.Node != frozen.id {
					events = append(events, fmt.Sprint(e.Kind, " ", e.Name, e.Room, e.Missed))
				}
			}
		}()
		synctest.Wait()
		events = nil // up to now
		time.Sleep(s.relayOptions.Lease + 3*time.Second)
		require.NoError(t, alice.writer.CloseNow())
		join(a, "dave", "go")
		require.True(t, a.broker.Room("go").Leave("carol"))
		time.Sleep(time.Second)
		synctest.Wait()
		require.Empty(t, events)
		thaw()
		time.Sleep(s.relayOptions.Lease)
		synctest.Wait()
		require.ElementsMatch(t, []string{"RoomLeft alicego0", "Left alice0", "Joined dave0", "RoomJoined davego0", "RoomLeft carolgo0", "Gap -1", "Gap -1"}, events)
		for _, p := range s.upProcesses() {
			require.ElementsMatch(t, []string{"bob", "carol", "dave"}, sorted(p.broker.Names()))
			require.ElementsMatch(t, []string{"bob", "dave"}, membersOf(p.broker.Room("go")))
		}
		s.leave()
		s.shutDown()
		require.Empty(t, s.ledger.faults)
	})
}
