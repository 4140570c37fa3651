package sendq

import "slices"

// A set is a set of members that can be read by somebody while it changes. It is not safe
// for concurrent use otherwise.
type set[T comparable] struct {
	members []T
	index   map[T]int // where in members
	frozen  bool      // somebody reads members: change a copy
}

func newSet[T comparable]() set[T] { return set[T]{index: make(map[T]int)} }

// snapshot returns the members, which nobody will change. It copies nothing: the next
// change does, once, however many snapshots were taken and changes follow.
func (s *set[T]) snapshot() []T {
	s.frozen = true
	return s.members
}

func (s *set[T]) thaw() {
	if s.frozen {
		s.members = slices.Clone(s.members)
		s.frozen = false
	}
}

func (s *set[T]) has(m T) bool {
	_, ok := s.index[m]
	return ok
}

func (s *set[T]) add(m T) {
	s.thaw()
	s.index[m] = len(s.members)
	s.members = append(s.members, m)
}

func (s *set[T]) remove(m T) {
	s.thaw()
	i, last := s.index[m], len(s.members)-1
	delete(s.index, m)
	if i < last {
		s.members[i] = s.members[last]
		s.index[s.members[i]] = i
	}
	var none T
	s.members[last] = none
	s.members = s.members[:last]
}
