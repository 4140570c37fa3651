package sendq_test

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/sendqtest"
)

// FuzzBroker runs the operations of the input one by one on a Broker and on a reference. After each
// it compares the names, the members of rooms and the results of the call; at the end, the messages
// delivered and handed back. The first two bytes choose the options. Each further three bytes are
// an operation, the name or Writer, and an amount. The Broker is idle between operations.
func FuzzBroker(f *testing.F) {
	for policy := range byte(3) {
		for seed := range uint64(24) {
			input := []byte{policy, byte(seed)}
			rng := rand.New(rand.NewPCG(seed, seed))
			for range 398 {
				input = append(input, byte(rng.Uint32()))
			}
			f.Add(input)
		}
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		if len(input) > 2 {
			synctest.Test(t, func(t *testing.T) { runReference(t, input[0], input[1], input[2:min(len(input), 400)]) })
		}
	})
}

// A reference is a simple model of a Broker: a few maps.
type reference struct {
	t      *testing.T
	broker *sendq.Broker
	opts   sendq.BrokerOptions

	writers  []*refWriter
	names    map[string][]*refWriter
	rooms    map[string][]string // the members; a room without any is not here
	kept     map[string][]string // the last messages of these rooms
	sent     int                 // messages
	returned []returnedMessages
}

func (r *reference) do(op, which byte, amount int) {
	b, t := r.broker, r.t
	name := brokerNames[int(which)%len(brokerNames)]
	roomName := brokerRooms[amount%len(brokerRooms)]
	room := b.Room(roomName)
	known := r.names[name] != nil
	switch op % 18 {
	case 0, 1: // a new Writer
		w := &refWriter{conn: readingPeer(), stalled: amount%3 > 0}
		if w.stalled {
			w.conn.Stall()
		}
		w.w = sendq.NewWriter(w.conn, keeping)
		t.Cleanup(func() { w.w.CloseNow() })
		r.writers = append(r.writers, w)
		r.register(name, w)
	case 2: // one that has a name already, or had one
		if w := r.writer(amount); w != nil {
			if w.begun == unclear {
				r.release(w, 1<<20)
			}
			r.register(name, w)
		}
	case 3:
		if w := r.writer(amount); w != nil {
			require.Equal(t, slices.Contains(r.names[name], w), b.Unregister(name, w.w))
			r.remove(name, w)
		}
	case 4:
		if w := r.writer(amount); w != nil {
			r.end(w, []func(*sendq.Writer) error{(*sendq.Writer).CloseNow, (*sendq.Writer).Close}[which%2])
		}
	case 5:
		switch w := r.writer(int(which)); {
		case w == nil:
		case w.stalled:
			r.release(w, 1<<20)
		default:
			w.conn.Stall()
			w.stalled = true
		}
	case 6: // the connection fails
		if w := r.writer(int(which)); w != nil {
			r.release(w, amount)
		}
	case 7, 8:
		err := room.Join(name)
		require.Equal(t, !known, errors.Is(err, sendq.ErrUnknownName))
		if known {
			r.join(name, roomName)
		}
	case 9:
		n, err := room.JoinReplay(name, amount%5)
		require.Equal(t, !known, errors.Is(err, sendq.ErrUnknownName))
		want := 0
		if known && r.join(name, roomName) {
			kept := r.kept[roomName]
			kept = kept[max(0, len(kept)-amount%5):]
			want = len(kept)
			for _, p := range kept {
				r.deliver(p, name)
			}
		}
		require.Equal(t, want, n)
	case 10:
		require.Equal(t, slices.Contains(r.rooms[roomName], name), room.Leave(name))
		r.leave(name, roomName)
	case 11:
		to := append([]string{name, "nobody"}, brokerNames[:amount%(1+len(brokerNames))]...)
		p := r.message(amount)
		r.requireReport(b.SendTo(to, p), r.deliver(string(p), to...))
	case 12:
		p := r.message(amount)
		err := b.Send(name, p)
		require.Equal(t, !known, errors.Is(err, sendq.ErrUnknownName))
		r.deliver(string(p), name)
	case 13:
		p := r.message(amount)
		if amount%2 == 0 {
			require.Equal(t, r.publish(roomName, "", string(p)), room.Publish(p))
		} else {
			require.Equal(t, r.publish(roomName, name, string(p)), room.PublishFrom(name, p))
		}
	case 14:
		p := r.message(amount)
		if amount%2 == 0 {
			require.Equal(t, r.broadcast("", string(p)), b.Broadcast(p))
		} else {
			require.Equal(t, r.broadcast(name, string(p)), b.BroadcastFrom(name, p))
		}
	case 15:
		r.batch(name, roomName, amount)
	case 16: // the peer of a Writer is back
		r.resume(name, amount)
	case 17:
		if w := r.writer(int(which)); w != nil {
			r.acknowledge(w, amount)
		}
	}
}

// batch sends some messages at once, in a row to the same recipients or by turns.
func (r *reference) batch(name, room string, amount int) {
	batch := r.broker.NewBatch()
	var want report
	for i := range amount % 8 {
		p := r.message(amount)
		kind := (amount / 8 >> (i / 2)) % 5
		if i%2 == 1 && r.someHaveSeveralNames() {
			// A Writer with several names gets a row of messages to one room under one name and
			// then under the other. The reference does not know where a row ends.
			kind = 0
		}
		switch kind {
		case 0:
			batch.Send(name, p)
			want.add(r.deliver(string(p), name))
		case 1:
			batch.Publish(room, p)
			want.accepted += r.publish(room, "", string(p))
		case 2:
			batch.PublishFrom(room, name, p)
			want.accepted += r.publish(room, name, string(p))
		case 3:
			batch.Broadcast(p)
			want.accepted += r.broadcast("", string(p))
		case 4:
			batch.BroadcastFrom(name, p)
			want.accepted += r.broadcast(name, string(p))
		}
	}
	r.requireReport(batch.Flush(), want)
}

// someHaveSeveralNames reports whether a Writer has more than one name.
func (r *reference) someHaveSeveralNames() bool {
	seen := make(map[*refWriter]bool)
	for _, writers := range r.names {
		for _, w := range writers {
			if seen[w] {
				return true
			}
			seen[w] = true
		}
	}
	return false
}

// message returns a unique message.
func (r *reference) message(amount int) []byte {
	r.sent++
	if amount == 255 {
		return fmt.Appendf(nil, "%d%17000s.", r.sent, "") // takes another way
	}
	return fmt.Appendf(nil, "%d%*s.", r.sent, amount%16, "")
}

// writer returns a living Writer, or nil if there is none.
func (r *reference) writer(i int) *refWriter {
	living := slices.DeleteFunc(slices.Clone(r.writers), func(w *refWriter) bool { return hasEnded(w.w) })
	if len(living) == 0 {
		return nil
	}
	return living[i%len(living)]
}

func (r *reference) register(name string, w *refWriter) {
	err := r.broker.Register(name, w.w)
	writers := r.names[name]
	switch {
	case len(writers) == 0, r.opts.NamePolicy == sendq.NameAttach && !slices.Contains(writers, w):
		require.NoError(r.t, err)
		r.names[name] = append(writers, w)
	case r.opts.NamePolicy == sendq.NameTakeover && writers[0] != w:
		require.NoError(r.t, err)
		old := writers[0]
		require.Equal(r.t, sendq.ErrTakenOver, old.w.Err())
		r.replace(name, old, w, old.pending)
	default:
		require.ErrorIs(r.t, err, sendq.ErrNameTaken)
	}
}

// replace makes w the Writer of name instead of old, and gives it what old leaves.
func (r *reference) replace(name string, old, w *refWriter, left []string) {
	r.names[name][0] = w
	if w.stalled {
		w.pending = slices.Insert(w.pending, w.begun, left...)
	} else {
		w.written = append(w.written, left...)
	}
	for other := range r.names {
		r.remove(other, old)
	}
}

// remove takes name from w, if w has it.
func (r *reference) remove(name string, w *refWriter) {
	i := slices.Index(r.names[name], w)
	if i < 0 {
		return
	}
	r.names[name] = slices.Delete(r.names[name], i, i+1)
	if len(r.names[name]) == 0 {
		delete(r.names, name)
		for _, room := range brokerRooms {
			r.leave(name, room)
		}
	}
}

// end ends w, unless it has ended.
func (r *reference) end(w *refWriter, endWriter func(*sendq.Writer) error) {
	if !hasEnded(w.w) {
		_ = endWriter(w.w)
		r.ended(w, w.w.Err() != nil)
	}
}

func (r *reference) ended(w *refWriter, withError bool) {
	var names []string
	for name, writers := range r.names {
		if slices.Contains(writers, w) {
			names = append(names, name)
		}
	}
	for _, name := range names {
		r.remove(name, w)
	}
	left := w.pending
	if withError {
		left = slices.Concat(w.written[min(max(0, w.acknowledged-w.before), len(w.written)):], left)
	}
	if len(names) > 0 && len(left) > 0 {
		r.returned = append(r.returned, returnedMessages{names, left})
	}
}

// release ends the stall of w. The connection fails after left bytes.
func (r *reference) release(w *refWriter, left int) {
	if !w.stalled {
		return
	}
	w.conn.FailAfter(left, errBroken)
	for len(w.pending) > 0 && len(w.pending[0]) <= left {
		left -= len(w.pending[0])
		w.written, w.pending = append(w.written, w.pending[0]), w.pending[1:]
	}
	if len(w.pending) > 0 {
		w.torn = w.pending[0][:left]
		r.ended(w, true)
	} else {
		w.pending = nil
	}
	w.conn.Release()
	synctest.Wait()
	w.conn.FailAfter(math.MaxInt, nil)
	w.stalled, w.begun = false, 0
}

// join adds name to room, and reports whether it was not a member.
func (r *reference) join(name, room string) bool {
	if slices.Contains(r.rooms[room], name) {
		return false
	}
	r.rooms[room] = append(r.rooms[room], name)
	return true
}

func (r *reference) leave(name, room string) {
	r.rooms[room] = slices.DeleteFunc(r.rooms[room], func(member string) bool { return member == name })
	if len(r.rooms[room]) == 0 {
		delete(r.rooms, room)
		delete(r.kept, room)
	}
}

func (r *reference) requireReport(got sendq.Report, want report) {
	require.Equal(r.t, want.accepted, got.Accepted)
	require.Len(r.t, got.Refused, len(want.unknown))
	for i, refusal := range got.Refused {
		require.Equal(r.t, want.unknown[i], refusal.Name)
		require.Equal(r.t, 1, refusal.Messages)
		require.ErrorIs(r.t, refusal.Err, sendq.ErrUnknownName)
	}
}

func (r *reference) deliver(p string, names ...string) (did report) {
	for _, name := range names {
		if r.names[name] == nil {
			did.unknown = append(did.unknown, name)
			continue
		}
		did.accepted++
		for _, w := range r.names[name] {
			w.accept(p)
		}
	}
	return did
}

func (r *reference) publish(room, except, p string) int {
	members := r.rooms[room]
	if members == nil {
		return 0
	}
	if r.opts.ReplayMessages > 0 {
		kept := append(r.kept[room], p)
		for len(kept) > r.opts.ReplayMessages || r.opts.ReplayBytes > 0 && len(strings.Join(kept, "")) > r.opts.ReplayBytes {
			kept = kept[1:]
		}
		r.kept[room] = kept
	}
	return r.deliver(p, without(members, except)...).accepted
}

func (r *reference) broadcast(except, p string) int {
	return r.deliver(p, without(slices.Collect(maps.Keys(r.names)), except)...).accepted
}

// requireEqual compares names and rooms.
func (r *reference) requireEqual() {
	require.Equal(r.t, slices.Sorted(maps.Keys(r.names)), slices.Sorted(r.broker.Names()))
	for _, name := range brokerNames {
		w, ok := r.broker.Lookup(name)
		writers := r.names[name]
		require.Equal(r.t, len(writers) > 0, ok)
		if ok {
			require.Same(r.t, writers[0].w, w)
		}
	}
	for _, room := range brokerRooms {
		require.Equal(r.t, slices.Sorted(slices.Values(r.rooms[room])), slices.Sorted(r.broker.Room(room).Members()))
	}
}

type refWriter struct {
	w                *sendq.Writer
	conn             *sendqtest.Conn
	stalled          bool
	written, pending []string
	begun            int    // number of pending messages in the stuck conn.Write
	torn             string // the part of a message written last
	before           int    // messages that the peer had received before
	acknowledged     int    // messages that it has acknowledged, with those before
	missed           int64  // messages that were gone when it came back
	most             int    // messages that it can have received of earlier Writers
}

// begin notes how many messages the conn.Write has that began during the last operation. Inherited
// messages come after them.
func (w *refWriter) begin() {
	if w.begun == 0 && len(w.pending) > 0 {
		w.begun = 1
		if len(w.pending) > 1 {
			w.begun = unclear
		}
	}
}

func (w *refWriter) accept(p string) {
	if w.stalled {
		w.pending = append(w.pending, p)
	} else {
		w.written = append(w.written, p)
	}
}

// returnedMessages are the messages of one call of OnUndelivered, and the names it may give.
type returnedMessages struct {
	names    []string
	messages []string
}

func runReference(t *testing.T, policy, replay byte, operations []byte) {
	r := &reference{t: t, names: make(map[string][]*refWriter), rooms: make(map[string][]string), kept: make(map[string][]string)}
	var returned []returnedMessages
	r.opts = sendq.BrokerOptions{
		NamePolicy:     sendq.NamePolicy(policy % 3),
		ReplayMessages: int(replay % 4),
		ReplayBytes:    int(replay / 4 % 4 * 15),
		OnUndelivered: func(name string, messages iter.Seq[[]byte], _ error) {
			returned = append(returned, returnedMessages{[]string{name}, asStrings(messages)})
		},
	}
	r.broker = sendq.NewBroker(&r.opts)
	present := watchPresence(t, r.broker)
	for i := 0; i+2 < len(operations); i += 3 {
		r.do(operations[i], operations[i+1], int(operations[i+2]))
		synctest.Wait()
		present.requireEqual(t, r.broker, brokerRooms)
		r.requireEqual()
		for _, w := range r.writers {
			w.begin()
		}
	}
	for _, w := range r.writers {
		r.end(w, (*sendq.Writer).CloseNow)
	}
	synctest.Wait()
	require.Zero(t, r.broker.Len())
	require.NoError(t, r.broker.CloseNow())

	for i, w := range r.writers {
		require.Equal(t, strings.Join(w.written, "")+w.torn, string(w.conn.Bytes()), "Writer %d", i)
		require.Equal(t, w.pending, asStrings(w.w.Undelivered()), "Writer %d", i)
	}
	require.Len(t, returned, len(r.returned))
	for i, back := range returned {
		require.Subset(t, r.returned[i].names, back.names)
		require.Equal(t, r.returned[i].messages, back.messages)
	}
}

func asStrings(messages iter.Seq[[]byte]) (s []string) {
	for p := range messages {
		s = append(s, string(p))
	}
	return s
}

// A report holds the expected results of a call.
type report struct {
	accepted int
	unknown  []string
}

func (r *report) add(other report) {
	r.accepted += other.accepted
	r.unknown = append(r.unknown, other.unknown...)
}

// unclear stands for the number of messages in a conn.Write that began while they were being
// queued.
const unclear = -1

func without(names []string, name string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(other string) bool { return other == name })
}
