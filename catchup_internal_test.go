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

// A fanOutLog forgets what is old, and the messages of what is too much. It says so if a name has missed
// something, and only then.
func TestFanOutLogForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l fanOutLog
		room := relay.Target{Kind: relay.TargetRoom, Name: "room"}
		add := func(to relay.Target, size int) {
			l.number++
			l.add(loggedFanOut{to: to, run: queue.Shared(make([]byte, size))})
		}
		find := func(number uint64, rooms ...string) (found int, hasGap bool) {
			messages, hasGap := l.after(number, "bob", roomSet(rooms))
			return len(messages), hasGap
		}
		check := func(wantFound int, wantGap bool, number uint64, rooms ...string) {
			t.Helper()
			found, hasGap := find(number, rooms...)
			require.Equal(t, wantFound, found)
			require.Equal(t, wantGap, hasGap)
		}
		add(room, 1)
		time.Sleep(maxLate + time.Second)
		add(toAll.Target, 1)
		check(1, false, 0, "room") // whoever is still to hear of the first one has waited too long
		add(room, maxLog)          // with its 64 bytes it is too large
		check(0, true, 0, "room")
		check(0, false, 2)
		check(0, true, 2, "room")
		check(0, false, 3, "room")
		require.Zero(t, l.bytes)
		add(toAll.Target, 1)
		check(1, true, 2, "room")
		check(1, false, 3, "room")
		for range maxLogged {
			add(toAll.Target, 1)
		}
		require.Len(t, l.entries, maxLogged)
		check(maxLogged, true, 3)
		check(maxLogged, false, 4)
		require.Equal(t, maxLogged*(1+messageOverhead), l.bytes)
	})
}
