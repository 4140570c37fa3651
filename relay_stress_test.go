package sendq_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/sendqtest"
)

// Goroutines on several nodes do everything to a few names and rooms, and some do not wait for long.
// The network is slow and, with Reject, loses things now and then. In the end all nodes know the same, every direct
// message has ended as reported, and every peer has got the messages of a sender in order.
func TestRelayStress(t *testing.T) {
	for _, policy := range []sendq.NamePolicy{sendq.NameReject, sendq.NameTakeover} {
		t.Run(policy.String(), func(t *testing.T) {
			for range 3 {
				s := &relayStress{policy: policy, direct: make(map[string]*told)}
				opts := sendq.BrokerOptions{NamePolicy: policy, OnUndelivered: s.returned.add}
				inCluster(t, 3, opts, s.run)
			}
		})
	}
}

// A relayStress is the state of TestRelayStress.
type relayStress struct {
	policy   sendq.NamePolicy
	returned handBacks
	h        *hub
	bs       []*sendq.Broker

	mu     sync.Mutex
	peers  []*sendqtest.Conn
	direct map[string]*told // the messages to names
}

// A told counts the reports of a message as accepted, or maybe accepted.
type told struct{ accepted, unconfirmed int }

var (
	stressNames = []string{"alice", "bob", "carol", "dave", "erin"}
	stressRooms = []string{"one", "two", "three"}
)

func (s *relayStress) run(t *testing.T, h *hub, bs []*sendq.Broker) {
	s.h, s.bs = h, bs
	h.slow.Store(true)
	if s.policy == sendq.NameTakeover {
		h.timeout.Store(int64(time.Hour)) // all claims are answered
	}
	var watched []*presence
	for _, b := range bs {
		watched = append(watched, watchPresence(t, b))
	}
	var work sync.WaitGroup
	for i := range 9 {
		work.Go(func() { s.work(i, bs[i%len(bs)]) })
	}
	if s.policy == sendq.NameReject {
		work.Go(s.disturb)
	}
	work.Wait()
	settleMoves()
	synctest.Wait()
	requireSameView(t, bs, bs[0].Len())
	for i, b := range bs {
		watched[i].requireEqual(t, b, stressRooms)
	}
	for _, b := range bs {
		require.NoError(t, b.Shutdown(t.Context()))
	}
	s.check(t)
}

// disturb loses everything on one link, and then on another one.
func (s *relayStress) disturb() {
	for range 20 {
		from := rand.IntN(len(s.bs))
		to := (from + 1 + rand.IntN(len(s.bs)-1)) % len(s.bs)
		heal := s.h.lose(nodeName(from), nodeName(to))
		time.Sleep(randomDelay())
		heal()
		time.Sleep(5 * randomDelay())
	}
}

func (s *relayStress) work(worker int, b *sendq.Broker) {
	pick := func(from []string) string { return from[rand.IntN(len(from))] }
	batch := b.NewBatch()
	var mine []*sendq.Writer
	for i := range 300 {
		name, room := pick(stressNames), pick(stressRooms)
		message := func(kind, to string) (string, []byte) {
			line := fmt.Sprintf("%s %d %d %s\n", kind, worker, i, to)
			return line, []byte(line)
		}
		switch rand.IntN(12) {
		case 0:
			if w := s.register(b, name); w != nil {
				mine = append(mine, w)
			}
		case 1:
			if len(mine) > 0 && rand.IntN(3) == 0 {
				w := mine[len(mine)-1]
				mine = mine[:len(mine)-1]
				if rand.IntN(2) == 0 {
					w.CloseNow()
				} else {
					w.Close()
				}
			}
		case 2, 3:
			b.Room(room).Join(name)
		case 4:
			b.Room(room).Leave(name)
		case 5, 6:
			line, p := message("direct", name)
			s.note(line, b.Send(name, p))
			clear(p)
		case 7:
			line, p := message("direct", "")
			names := stressNames[:2+rand.IntN(3)]
			r := b.SendTo(names, p)
			for _, name := range names {
				s.note(line, errorOf(r, name))
			}
		case 8:
			_, p := message("room", room)
			b.Room(room).Publish(p)
		case 9:
			_, p := message("all", "")
			b.Broadcast(p)
		default:
			line, p := message("direct", name)
			_, toRoom := message("room", room)
			batch.Send(name, p)
			batch.Publish(room, toRoom)
			s.note(line, errorOf(batch.Flush(), name))
		}
		if rand.IntN(4) == 0 {
			time.Sleep(randomDelay())
		}
	}
}

// errorOf returns the error in r of the direct message to name.
func errorOf(r sendq.Report, name string) error {
	for _, refused := range r.Refused {
		if refused.Name == name && !refused.FanOut {
			return refused.Err
		}
	}
	return nil
}

// register gives the name to a new Writer with a slow peer.
func (s *relayStress) register(b *sendq.Broker, name string) *sendq.Writer {
	peer, closed := hooked(sendqtest.NewConn()), make(chan struct{})
	closeOnce := sync.OnceFunc(func() { close(closed) })
	peer.Enter = func(method string) {
		if method == "Close" {
			closeOnce()
		}
	}
	peer.Fault = func(p []byte) (int, error) {
		select {
		case <-time.After(randomDelay()):
			return len(p), nil
		case <-closed:
			return 0, errBroken
		}
	}
	w := sendq.NewWriter(peer, nil)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if rand.IntN(4) == 0 {
		time.AfterFunc(5*randomDelay(), cancel)
	}
	if err := b.RegisterContext(ctx, name, w); err != nil {
		if !errors.Is(err, sendq.ErrNameTaken) && !errors.Is(err, context.Canceled) {
			panic(err)
		}
		w.CloseNow()
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.peers = append(s.peers, peer.Conn)
	return w
}

func (s *relayStress) note(line string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.direct[line] == nil {
		s.direct[line] = new(told)
	}
	switch {
	case err == nil:
		s.direct[line].accepted++
	case errors.Is(err, sendq.ErrUnconfirmed):
		s.direct[line].unconfirmed++
	}
}

// check compares the reports to senders with the messages of the peers and the handbacks.
func (s *relayStress) check(t *testing.T) {
	ended := make(map[string]int) // how often a line was written or handed back
	for _, peer := range s.peers {
		next := make(map[string]int) // for each sender
		for _, line := range linesOf(peer) {
			ended[line]++
			var kind, to string
			var worker string
			var i int
			fmt.Sscanf(line, "%s %s %d %s", &kind, &worker, &i, &to)
			if kind == "direct" && s.policy == sendq.NameTakeover {
				worker += kind // it may overtake what is to many, if the name moves again and again
			}
			require.GreaterOrEqual(t, i, next[worker], "%q", line)
			if next[worker] = i; kind != "direct" {
				next[worker]++ // it comes once
			}
		}
	}
	for _, call := range s.returned.all() {
		for _, line := range call.messages {
			ended[line]++
		}
	}
	for line, told := range s.direct {
		require.LessOrEqual(t, told.accepted, ended[line], "%q", line)
		require.GreaterOrEqual(t, told.accepted+told.unconfirmed, ended[line], "%q", line)
		if s.policy == sendq.NameTakeover {
			require.Zero(t, told.unconfirmed)
		}
	}
}
