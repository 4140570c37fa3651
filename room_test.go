package sendq_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
)

// Guarantee 10: all members of a room see its messages in one same order.
func TestRoomOneOrder(t *testing.T) {
	b := sendq.NewBroker(nil)
	room := b.Room("room")
	peers := joinMany(t, b, 40)
	publishAtOnce(200, room.Publish, func(p []byte) int { return room.PublishFrom("nobody", p) })
	requireSameLines(t, b, peers, 200*publishers)
}

// Members that come and go see part of the messages, in the same order, even if the room is empty
// in between.
func TestRoomOneOrderWhileMembersComeAndGo(t *testing.T) {
	const members = 16
	for _, test := range []struct{ stay, rounds int }{{2, 2}, {0, 6}} {
		t.Run(fmt.Sprintf("%d stay", test.stay), func(t *testing.T) {
			for range test.rounds {
				b := sendq.NewBroker(nil)
				room := b.Room("room")
				peers := joinMany(t, b, members)

				publishing, stop := context.WithCancel(t.Context())
				var moving sync.WaitGroup
				moving.Go(func() {
					for publishing.Err() == nil {
						for i := test.stay; i < members; i++ {
							room.Leave(memberName(i))
						}
						for i := test.stay; i < members; i++ {
							assert.NoError(t, room.Join(memberName(i)))
						}
					}
				})
				publishAtOnce(200, room.Publish)
				stop()
				moving.Wait()

				flushAll(t, b)
				for i := 1; i < members; i++ {
					first, other := inBoth(linesOf(peers[0]), linesOf(peers[i]))
					require.True(t, slices.Equal(first, other), "%s sees another order", memberName(i))
				}
			}
		})
	}
}

func TestRoomFromFirstMemberToLast(t *testing.T) {
	b := sendq.NewBroker(nil)
	early := b.Room("room") // a handle made before there are members
	requireMembers := func(want ...string) {
		t.Helper()
		for _, room := range []*sendq.Room{early, b.Room("room")} {
			require.Equal(t, want, slices.Sorted(room.Members()))
			require.Equal(t, len(want), room.Len())
			require.Equal(t, len(want), room.Publish([]byte("hello\n")))
		}
		require.Zero(t, b.Room("another").Len())
	}
	requireMembers()

	a := register(t, b, "a", readingPeer())
	c := register(t, b, "c", readingPeer())
	register(t, b, "d", readingPeer())
	require.ErrorIs(t, early.Join("nobody"), sendq.ErrUnknownName)
	require.ErrorContains(t, early.Join("nobody"), `"nobody"`)
	requireMembers()
	require.NoError(t, early.Join("a"))
	require.NoError(t, early.Join("a"), "again")
	requireMembers("a")
	require.NoError(t, b.Room("room").Join("c"))
	require.NoError(t, early.Join("d"))
	requireMembers("a", "c", "d")

	require.True(t, early.Leave("d"))
	require.False(t, early.Leave("d"))
	require.False(t, early.Leave("nobody"))
	requireMembers("a", "c")
	require.True(t, b.Unregister("a", a))
	require.False(t, early.Leave("a"))
	requireMembers("c")
	require.NoError(t, b.Register("a", a))
	requireMembers("c") // the name is back, its membership is not
	c.CloseNow()
	requireMembers()

	require.NoError(t, early.Join("a"))
	requireMembers("a")
	require.True(t, early.Leave("a"))
	requireMembers()
}
