package sendq

import "maps"

// A table is a map that gives its memory back. Go's maps keep room for the most entries that
// they have ever had. The zero table is empty.
type table[K comparable, V any] struct {
	entries map[K]V
	peak    int // the most entries that the map has had
}

// minShrunk is the peak from which on a table or a set shrinks.
const minShrunk = 64

// isSparse reports whether so few of what has room for peak are left that moving them pays:
// by then three times as many have been removed.
func isSparse(left, peak int) bool { return peak >= minShrunk && left <= peak/4 }

func (t *table[K, V]) get(key K) V { return t.entries[key] }

func (t *table[K, V]) put(key K, value V) {
	if t.entries == nil {
		t.entries = make(map[K]V)
	}
	t.entries[key] = value
	t.peak = max(t.peak, len(t.entries))
}

func (t *table[K, V]) remove(key K) {
	delete(t.entries, key)
	if left := len(t.entries); isSparse(left, t.peak) {
		entries := make(map[K]V, left)
		maps.Copy(entries, t.entries)
		t.entries, t.peak = entries, left
	}
}

func (t *table[K, V]) len() int { return len(t.entries) }
