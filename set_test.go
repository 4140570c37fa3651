package sendq

import (
	"math"
	"math/rand/v2"
	"net"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// Whatever comes and goes: a set has the members that it should, no snapshot of it ever changes,
// and neither the members nor their index take much more room than they need.
func TestSet(t *testing.T) {
	var s set[int]
	want := make(map[int]bool)
	var snapshots, copies [][]int
	change := func(most int) {
		m := rand.IntN(2*most + 1)
		if len(want) > most {
			m = s.members[rand.IntN(len(want))]
		}
		switch {
		case want[m]:
			s.remove(m)
			delete(want, m)
		case len(want) < most:
			s.add(m)
			want[m] = true
		}
		require.Equal(t, want[m], s.has(m))
		if len(want) < 500 && rand.IntN(10) == 0 {
			snapshots = append(snapshots, s.snapshot())
			copies = append(copies, slices.Clone(s.members))
		}
	}
	for _, most := range []int{few / 2, 5000, 100, 1000, 0, few + 1, few / 2} {
		for range 100 {
			change(most)
		}
		for len(want) != most {
			change(most)
		}
		require.Len(t, s.members, most)
		for i, m := range s.members {
			require.True(t, want[m])
			require.Equal(t, i, s.place(m))
		}
		require.LessOrEqual(t, cap(s.members), max(4*most, minShrunk))
		require.Equal(t, most > few, s.index != nil)
		if s.index != nil {
			require.Equal(t, most, s.index.len())
			require.LessOrEqual(t, s.index.peak, max(4*most, minShrunk))
		}
	}
	for i := range snapshots {
		require.True(t, slices.Equal(copies[i], snapshots[i]), "%v, not %v", snapshots[i], copies[i])
	}
}

// Who is in many rooms leaves one, and has many Writers loses one, without a look at all of
// them: there is an index.
func TestManyHaveAnIndex(t *testing.T) {
	const many = 100
	b := NewBroker(&BrokerOptions{Names: Attach})
	defer b.Close()
	for range many {
		require.NoError(t, b.Register("bob", newIdleWriter()))
	}
	c := newCluster(nil)
	r := c.add("bob", &peer{"other"})
	for i := range many {
		room := string(rune(i))
		require.NoError(t, b.Room(room).Join("bob"))
		c.join(r, room)
		b.observe()
	}
	bob := b.names.get("bob")
	require.Equal(t, many, bob.index.len())
	require.Equal(t, many, bob.rooms.index.len())
	require.Equal(t, many, r.rooms.index.len())
	require.Equal(t, many, b.observers.index.len())
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
