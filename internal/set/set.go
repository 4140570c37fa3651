// Package set provides a set and a map for live objects. Both give memory back when they
// shrink, and the members of a set can be read while it changes.
package set

import "slices"

// A Set is a set of members in no order. Its snapshots may be read while it changes. Otherwise
// it is not safe for concurrent use. The zero Set is empty.
type Set[T comparable] struct {
	members []T
	index   *Map[T, int] // positions of the members; nil if they are few
	frozen  bool         // a snapshot shares the memory of members
}

// Up to this number of members, a Set has no index and searches the members. Most rooms have
// few members, most names are in few rooms, and an index would be larger than they are.
const few = 8

// Snapshot returns the members in a slice that never changes, and copies nothing. The next
// Remove copies the members once, however many snapshots there are. That costs less than
// reading a snapshot did. Add copies nothing, because the new member is beyond the end of each
// snapshot.
func (s *Set[T]) Snapshot() []T {
	s.frozen = true
	return s.members
}

// Members returns the members. The slice is valid until the set changes.
func (s *Set[T]) Members() []T { return s.members }

// Len returns the number of members.
func (s *Set[T]) Len() int { return len(s.members) }

// place returns the index of m in members, or -1.
func (s *Set[T]) place(m T) int {
	if s.index == nil {
		return slices.Index(s.members, m)
	}
	if i, ok := s.index.entries[m]; ok {
		return i
	}
	return -1
}

// Has reports whether m is a member.
func (s *Set[T]) Has(m T) bool { return s.place(m) >= 0 }

// Add adds m, which must not be a member.
func (s *Set[T]) Add(m T) {
	s.members = append(s.members, m)
	switch {
	case s.index != nil:
		s.index.Put(m, len(s.members)-1)
	case len(s.members) > few:
		s.index = new(Map[T, int])
		for i, m := range s.members {
			s.index.Put(m, i)
		}
	}
}

// Remove removes m, which must be a member.
func (s *Set[T]) Remove(m T) {
	i, last := s.place(m), len(s.members)-1
	if s.frozen || IsSparse(last, cap(s.members)) {
		s.members = slices.Clone(s.members)
		s.frozen = false
	}
	s.members[i] = s.members[last]
	var none T
	s.members[last] = none
	s.members = s.members[:last]
	switch {
	case s.index == nil:
	case last <= few/2:
		s.index = nil
	default:
		s.index.Remove(m)
		if i < last {
			s.index.Put(s.members[i], i)
		}
	}
}
