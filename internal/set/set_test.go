package set

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// Whatever is added and removed, a set has the right members, no snapshot of it ever changes,
// and neither the members nor their index take much more room than they need.
func TestSet(t *testing.T) {
	var s Set[int]
	want := make(map[int]bool)
	var snapshots, copies [][]int
	change := func(most int) {
		m := rand.IntN(2*most + 1)
		if len(want) > most {
			m = s.members[rand.IntN(len(want))]
		}
		switch {
		case want[m]:
			s.Remove(m)
			delete(want, m)
		case len(want) < most:
			s.Add(m)
			want[m] = true
		}
		require.Equal(t, want[m], s.Has(m))
		if len(want) < 500 && rand.IntN(10) == 0 {
			snapshots = append(snapshots, s.Snapshot())
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
			require.Equal(t, most, s.index.Len())
			require.LessOrEqual(t, s.index.peak, max(4*most, minShrunk))
		}
	}
	for i := range snapshots {
		require.True(t, slices.Equal(copies[i], snapshots[i]), "%v, not %v", snapshots[i], copies[i])
	}
}
