package sendq

import "slices"

// A set is a set of members in no order. Its snapshots may be read while it changes. It is not
// safe for concurrent use otherwise. The zero set is empty.
type set[T comparable] struct {
	members []T
	index   *table[T, int] // the places of the members; nil if they are few
	frozen  bool           // a snapshot shares the memory of members
}

// few is the number of members up to which looking through them takes the place of an index.
// Most rooms have few members, most names are in few rooms, and a map would be larger than they
// are.
const few = 8

// snapshot returns the members in a slice that never changes. It copies nothing. The next
// removal does, once, however many snapshots were taken: that costs less than reading one did.
// An addition copies nothing, because it is beyond the end of each snapshot.
func (s *set[T]) snapshot() []T {
	s.frozen = true
	return s.members
}

// place returns where m is in members, or -1.
func (s *set[T]) place(m T) int {
	if s.index == nil {
		return slices.Index(s.members, m)
	}
	if i, ok := s.index.entries[m]; ok {
		return i
	}
	return -1
}

func (s *set[T]) has(m T) bool { return s.place(m) >= 0 }

// add adds m, which is not a member.
func (s *set[T]) add(m T) {
	s.members = append(s.members, m)
	switch {
	case s.index != nil:
		s.index.put(m, len(s.members)-1)
	case len(s.members) > few:
		s.index = new(table[T, int])
		for i, m := range s.members {
			s.index.put(m, i)
		}
	}
}

// remove removes m, which is a member.
func (s *set[T]) remove(m T) {
	i, last := s.place(m), len(s.members)-1
	if s.frozen || isSparse(last, cap(s.members)) {
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
		s.index.remove(m)
		if i < last {
			s.index.put(s.members[i], i)
		}
	}
}
