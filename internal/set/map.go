package set

import (
	"iter"
	"maps"
)

// A Map is a map that gives memory back. Go's maps keep room for the most entries they ever
// had. The zero Map is empty. A Map is not safe for concurrent use.
type Map[K comparable, V any] struct {
	entries map[K]V
	peak    int // the most entries since the last shrink
}

// minShrunk is the smallest peak at which a map or a set shrinks.
const minShrunk = 64

// IsSparse reports whether it pays to move the remaining entries of a table with room for peak
// entries. By then three times as many entries have been removed as remain.
func IsSparse(remaining, peak int) bool { return peak >= minShrunk && remaining <= peak/4 }

// Get returns the value of key, or the zero value if there is none.
func (m *Map[K, V]) Get(key K) V { return m.entries[key] }

// Put sets the value of key.
func (m *Map[K, V]) Put(key K, value V) {
	if m.entries == nil {
		m.entries = make(map[K]V)
	}
	m.entries[key] = value
	m.peak = max(m.peak, len(m.entries))
}

// Remove removes key if it is there.
func (m *Map[K, V]) Remove(key K) {
	delete(m.entries, key)
	if remaining := len(m.entries); IsSparse(remaining, m.peak) {
		entries := make(map[K]V, remaining)
		maps.Copy(entries, m.entries)
		m.entries, m.peak = entries, remaining
	}
}

// All yields the keys and their values, in no particular order.
func (m *Map[K, V]) All() iter.Seq2[K, V] { return maps.All(m.entries) }

// Len returns the number of keys.
func (m *Map[K, V]) Len() int { return len(m.entries) }
