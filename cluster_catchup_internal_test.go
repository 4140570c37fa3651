package sendq

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq/internal/directory"
	"github.com/sendq-go/sendq/internal/queue"
	"github.com/sendq-go/sendq/relay"
)

// A fanOutLog finds the fan-outs that a name has missed, and none from before it was there.
func TestFanOutLog(t *testing.T) {
	room := func(name string) relay.Target { return relay.Target{Kind: relay.TargetRoom, Name: name} }
	all := relay.Target{Kind: relay.TargetAll}
	fromBob := all
	fromBob.Except, fromBob.Sender = true, "bob"
	var l fanOutLog
	publish := func(to relay.Target, line string) {
		l.number++
		l.add(loggedFanOut{to: to, run: queue.Shared([]byte(line))})
	}
	joins := func(name string, kind relay.EventKind, room string) {
		l.addJoins(name, []directory.Change{{Event: relay.Event{Kind: kind, Name: name, Room: room}}})
	}
	joins("carol", relay.EventJoined, "") // nothing was sent before, so there is nothing to note
	require.Empty(t, l.entries)
	publish(all, "1")
	publish(room("x"), "2")
	joins("carol", relay.EventJoined, "")
	publish(room("y"), "3")
	publish(fromBob, "4")
	joins("carol", relay.EventRoomJoined, "x")
	publish(room("x"), "5")
	joins("carol", relay.EventRoomJoined, "y")
	publish(all, "6")

	for _, test := range []struct {
		number uint64
		name   string
		rooms  string
		want   string
	}{
		{0, "bob", "x", "1 2 5 6"},
		{0, "alice", "x y", "1 2 3 4 5 6"},
		{2, "alice", "", "4 6"},
		{6, "alice", "x y", ""},
		{0, "carol", "x y", "4 5 6"},
		{4, "carol", "x", "5 6"},
	} {
		rooms := roomSet(strings.Fields(test.rooms))
		messages, hasGap := l.after(test.number, test.name, rooms)
		var got []string
		for _, p := range messages {
			got = append(got, string(p))
		}
		require.Equal(t, test.want, strings.Join(got, " "), "%+v", test)
		require.False(t, hasGap)
	}
}

// A fanOutLog forgets what is old, and says so if it forgets more.
func TestFanOutLogForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l fanOutLog
		add := func(size int) {
			l.number++
			l.add(loggedFanOut{to: toAll.Target, run: queue.Shared(make([]byte, size))})
		}
		add(1)
		time.Sleep(maxMove + time.Second)
		add(1)
		messages, hasGap := l.after(0, "bob", nil)
		require.Len(t, messages, 1)
		require.False(t, hasGap, "whoever is still to hear of the first one has waited too long")
		add(maxLog) // with its 64 bytes it is too large
		messages, hasGap = l.after(2, "bob", nil)
		require.Empty(t, messages)
		require.True(t, hasGap)
		_, hasGap = l.after(3, "bob", nil)
		require.False(t, hasGap)
		require.Zero(t, l.bytes)
	})
}
