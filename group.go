package sendq

import "sync"

// A group is whom a message fans out to: the members of a room, or all of a Broker.
type group struct {
	room string // the room's name

	// order is held by whoever publishes to the group, so that all members get
	// its messages in one same order. It is taken before Broker.mu. It guards the
	// log and what is kept of it.
	order sync.Mutex
	log   log
	kept  history

	// Guarded by Broker.mu.
	set[*named]
	users int32 // who publish, or are about to

	fetched bool // kept has what another node had kept; guarded by order
}

func newGroup(room string) *group { return &group{room: room} }
