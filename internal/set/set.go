// Package set has a set and a map for sets of live objects: both give memory back when they
// shrink, and the members of a set can be read while it changes.
package set

import "slices"

// A Set is a set of members in no order. Its snapshots may be read while it changes. It is not
// safe for concurrent use otherwise. The zero Set is empty.
type Set[T comparable] struct {
	members []T
	index   *Map[T, int] // the places of the members; nil if they are few
	frozen  bool         // a snapshot shares the memory of members
}

// few is the number of members up to which looking through them takes the place of an index.
// Most rooms have few members, most names are in few rooms, and a map would be larger than they
// are.
const few = 8

// Snapshot returns the members in a slice that never changes. It copies nothing. The next
// removal does, once, however many snapshots were taken: that costs less than reading one did.
// An addition copies nothing, because it is beyond the end of each snapshot.
func (s *Set[T]) Snapshot() []T {
	s.frozen = true
	return s.members
}

// Members returns the members. The slice is valid until the set changes.
func (s *Set[T]) Members() []T { return s.members }

// Len returns the number of members.
func (s *Set[T]) Len() int { return len(s.members) }

// place returns where m is in members, or -1.
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

// Add adds m, which is not a member.
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

// Remove removes m, which is a member.
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
