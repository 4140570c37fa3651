package directory

import (
	"errors"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq/relay"
)

var (
	nodes = []string{"here", "a", "b", "c"}
	names = []string{"bob", "carol"}
	rooms = []string{"x", "y"}
)

// FuzzDirectory compares a Directory with a model after each operation: all answers, and what an
// observer makes of the changes.
func FuzzDirectory(f *testing.F) {
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 0))
		script := make([]byte, 200)
		for i := range script {
			script[i] = byte(random.Uint32())
		}
		f.Add(script)
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		r := run{T: t, script: script, d: New(), m: model{nodes: []string{"here"}}, seen: make(view)}
		r.d.Self = "here"
		for len(r.script) > 0 {
			r.step()
			r.check()
		}
	})
}

// A run is a Directory, its model, and an observer, under a script of operations.
type run struct {
	*testing.T
	script  []byte
	d       *Directory
	m       model
	seen    view
	members iter.Seq[string] // of the step before
	want    []string
}

// next returns a number below n from the script.
func (r *run) next(n int) int {
	if len(r.script) == 0 {
		return 0
	}
	b := r.script[0]
	r.script = r.script[1:]
	return int(b) % n
}

func pick(r *run, from []string) string { return from[r.next(len(from))] }

var errLeft = errors.New("left")

// events returns events about a name that are applied together.
func (r *run) events(name string) []relay.Event {
	kinds := []relay.EventKind{relay.EventJoined, relay.EventLeft, relay.EventMoved, relay.EventMoved, relay.EventAway, relay.EventBack, relay.EventRoomJoined, relay.EventRoomLeft}
	var events []relay.Event
	for range 1 + r.next(4) {
		e := relay.Event{Kind: kinds[r.next(len(kinds))], Name: name, Token: uint64(r.next(8))}
		switch e.Kind {
		case relay.EventMoved:
			e.To = pick(r, append(nodes, "unknown"))
		case relay.EventLeft:
			e.Cause = errLeft
		case relay.EventRoomJoined, relay.EventRoomLeft:
			e.Token, e.Room = 0, pick(r, rooms)
		}
		if events = append(events, e); (isRoom(e.Kind) || isPresence(e.Kind)) && len(events) == 1 {
			kinds = kinds[4:] // the name stays where it is
		}
	}
	return events
}

// step takes one operation from the script.
func (r *run) step() {
	name, left := pick(r, names), relay.Event{Kind: relay.EventLeft}
	switch r.next(8) {
	case 0:
		node := pick(r, nodes[1:])
		events := r.snapshot()
		r.learn(node)
		r.compare(left, func(f report) { r.d.Apply(node, events, true, f) }, func() {
			r.m.remove(func(f *fact) bool {
				return f.node == node && !f.arriving && !slices.ContainsFunc(events, func(e relay.Event) bool { return e.Name == f.name })
			})
			for _, e := range events {
				r.m.apply(node, e)
			}
		})
	case 1:
		node := pick(r, nodes[1:])
		left.Cause = errLeft
		r.compare(left, func(f report) { r.d.Drop(node, errLeft, f) }, func() {
			r.m.remove(func(f *fact) bool { return f.node == node })
			r.m.nodes = slices.DeleteFunc(r.m.nodes, func(known string) bool { return known == node })
		})
	case 2:
		token := uint64(r.next(8))
		r.compare(relay.Event{Kind: relay.EventMoved}, func(f report) { f(name, r.d.Expire(name, token)) }, func() {
			r.m.remove(func(f *fact) bool { return f.name == name && f.arriving && f.token == token })
		})
	case 3:
		if !slices.Contains(r.m.claims, name) {
			r.d.Claim(name)
			r.m.claims = append(r.m.claims, name)
			return
		}
		events := r.events(name)
		r.d.EndClaim(name)
		r.m.claims = slices.DeleteFunc(r.m.claims, func(claimed string) bool { return claimed == name })
		r.apply("here", events)
	default:
		r.apply(pick(r, nodes), r.events(name))
	}
}

func (r *run) apply(node string, events []relay.Event) {
	r.learn(node)
	r.compare(events[len(events)-1], func(f report) { r.d.Apply(node, events, false, f) }, func() {
		for _, e := range events {
			r.m.apply(node, e)
		}
	})
}

// learn makes a node known to the model.
func (r *run) learn(node string) {
	if !slices.Contains(r.m.nodes, node) {
		r.m.nodes = append(r.m.nodes, node)
	}
}

// snapshot returns the names of a node.
func (r *run) snapshot() (events []relay.Event) {
	for _, name := range names {
		if r.next(2) == 0 {
			continue
		}
		events = append(events, relay.Event{Kind: relay.EventJoined, Name: name, Token: uint64(r.next(8))})
		for _, room := range rooms {
			if r.next(2) == 0 {
				events = append(events, relay.Event{Kind: relay.EventRoomJoined, Name: name, Room: room})
			}
		}
		if r.next(3) == 0 {
			events = append(events, relay.Event{Kind: relay.EventAway, Name: name})
		}
	}
	return events
}

type report = func(name string, changes []Change)

// compare runs the same operation of the Directory and of the model, and checks the changes: an
// observer who knows nothing else sees the same as the model, with the right nodes and causes, and
// no change that another one undoes.
func (r *run) compare(why relay.Event, operation func(report), f func()) {
	before := make(map[string]*fact)
	for _, name := range names {
		before[name] = r.m.found(name)
	}
	var all []Change
	operation(func(name string, changes []Change) {
		for _, change := range changes {
			same(r, name, change.Name)
		}
		all = append(all, changes...)
	})
	f()
	type key struct{ name, room string }
	touched := make(map[key]bool)
	for _, c := range all {
		k := key{c.Name, c.Room}
		if isPresence(c.Kind) {
			k.room = isAway
		}
		require.False(r, touched[k] && !isRoom(why.Kind) && !isPresence(why.Kind), "%v", all)
		touched[k] = true
		observed, exists := r.seen[c.Name]
		isInRoom := slices.Contains(observed, c.Room)
		at := r.m.found(c.Name)
		switch c.Kind {
		case relay.EventJoined:
			require.False(r, exists)
			r.seen[c.Name] = nil
		case relay.EventLeft, relay.EventMoved:
			require.True(r, exists)
			require.Empty(r, slices.DeleteFunc(observed, func(room string) bool { return room == isAway }))
			same(r, why.Kind == relay.EventMoved, c.Kind == relay.EventMoved)
			same(r, why.Cause, c.Cause)
			delete(r.seen, c.Name)
			at = before[c.Name]
		case relay.EventRoomJoined:
			require.True(r, exists && !isInRoom)
			r.seen[c.Name] = slices.Sorted(slices.Values(append(observed, c.Room)))
		case relay.EventRoomLeft:
			require.True(r, exists && isInRoom)
			r.seen[c.Name] = slices.DeleteFunc(observed, func(room string) bool { return room == c.Room })
			at = before[c.Name]
		case relay.EventAway:
			require.True(r, exists && !slices.Contains(observed, isAway))
			r.seen[c.Name] = slices.Sorted(slices.Values(append(observed, isAway)))
		case relay.EventBack:
			require.True(r, exists && slices.Contains(observed, isAway))
			r.seen[c.Name] = slices.DeleteFunc(observed, func(room string) bool { return room == isAway })
		}
		same(r, r.label(at), c.Node)
	}
	require.True(r, maps.EqualFunc(r.m.view(), r.seen, slices.Equal), "%v: %v, not %v", all, r.seen, r.m.view())
}

// label returns the node that observers see.
func (r *run) label(f *fact) string {
	if f.node == "here" {
		return ""
	}
	return f.node
}

// check compares all answers.
func (r *run) check() {
	var own []relay.Event
	view := r.m.view()
	for _, name := range names {
		f, arrival := r.m.found(name), r.m.arrival(name)
		node, token, ok := r.d.Where(name)
		same(r, f != nil, ok)
		if f != nil {
			same(r, r.label(f), node)
			same(r, f.token, token)
			if r.m.isHere(f) {
				own = append(own, f.announced()...)
			}
		}
		token, isArriving := r.d.Arrival(name)
		same(r, arrival != nil, isArriving)
		if arrival != nil {
			same(r, arrival.token, token)
			require.True(r, arrival == f || r.m.isHere(f), "an arriving name is found unless it is here")
		}
		same(r, slices.Contains(view[name], isAway), r.d.IsAway(name))
		sameSet(r, slices.DeleteFunc(slices.Clone(view[name]), func(room string) bool { return room == isAway }), r.d.RoomsOf(name))
		for _, room := range rooms {
			same(r, slices.Contains(view[name], room), r.d.Has(name, room))
		}
	}
	sameSet(r, keysOf(own), keysOf(r.d.Snapshot()))
	sameSet(r, r.m.nodes[1:], r.d.Nodes())
	if r.members != nil {
		sameSet(r, r.want, slices.Collect(r.members)) // though the Directory has changed
	}
	for _, t := range []relay.Target{{Kind: relay.TargetRoom, Name: "x"}, {Kind: relay.TargetRoom, Name: "y"}, {Kind: relay.TargetAll}} {
		r.members, r.want = r.d.Members(t), view.members(t)
		sameSet(r, r.want, slices.Collect(r.members))
		same(r, len(r.want), r.d.Len(t))
		sameSet(r, r.m.nodesOf(t), r.d.NodesOf(t))
	}
	inUse := make(map[string]bool)
	for _, f := range r.m.facts {
		for _, room := range f.rooms {
			inUse[room] = true
		}
	}
	same(r, len(inUse), r.d.rooms.Len())
}

// An eventKey is an event without what the Directory does not know.
type eventKey struct {
	kind     relay.EventKind
	name     string
	token    uint64
	room, to string
}

func keysOf(events []relay.Event) (keys []eventKey) {
	for _, e := range events {
		keys = append(keys, eventKey{e.Kind, e.Name, e.Token, e.Room, e.To})
	}
	return keys
}

// same is a fast require.Equal.
func same[T comparable](r *run, want, got T) {
	if want != got {
		require.Equal(r, want, got)
	}
}

// sameSet is a fast require.ElementsMatch for elements that differ from each other.
func sameSet[T comparable](r *run, want, got []T) {
	isMissing := func(e T) bool { return !slices.Contains(got, e) }
	if len(want) != len(got) || slices.ContainsFunc(want, isMissing) {
		require.ElementsMatch(r, want, got)
	}
}
