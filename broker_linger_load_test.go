package sendq_test

import (
	"context"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq"
	"github.com/sendq-go/sendq/sendqtest"
)

// Six goroutines do everything at once with a few names, which linger for a moment, on three nodes or on two
// unrelated Brokers. A Writer may have several names, in both Brokers. At the end nothing is left, each
// message is accounted for, and so is the end of each Writer.
func TestLingerUnderLoad(t *testing.T) {
	for seed := range uint64(20) {
		l := &lingerLoad{seed: seed, rng: rand.New(rand.NewPCG(seed, 3))}
		opts := sendq.BrokerOptions{NamePolicy: sendq.NamePolicy(l.rng.IntN(2)), ReplayMessages: 5, OnUndelivered: slowly}
		opts.Linger = pick(l.rng, []time.Duration{0, 1, 10, 100}) * time.Millisecond
		l.budget = sendq.NewBudget(pick(l.rng, []int{3000, 20_000, 1 << 30}))
		if seed%2 == 0 {
			inCluster(t, 3, opts, func(t *testing.T, _ *hub, bs []*sendq.Broker) { l.run(t, bs) })
			continue
		}
		synctest.Test(t, func(t *testing.T) {
			other := sendq.BrokerOptions{NamePolicy: sendq.NameTakeover, ReplayMessages: 5}
			if seed%4 == 1 {
				other.OnUndelivered, other.Linger = slowly, opts.Linger
			}
			l.run(t, []*sendq.Broker{sendq.NewBroker(&opts), sendq.NewBroker(&other)})
		})
	}
}

// slowly takes undelivered messages.
func slowly(_ string, messages iter.Seq[[]byte], _ error) {
	for range messages {
		time.Sleep(time.Millisecond)
	}
}

// A lingerLoad is one run of TestLingerUnderLoad.
type lingerLoad struct {
	seed   uint64
	rng    *rand.Rand
	budget *sendq.Budget
	bs     []*sendq.Broker
	tally  sendq.Tally

	mu      sync.Mutex
	writers []*sendq.Writer
}

func (l *lingerLoad) run(t *testing.T, bs []*sendq.Broker) {
	l.bs = bs
	var working sync.WaitGroup
	for i := range 6 {
		working.Go(func() {
			rng := rand.New(rand.NewPCG(l.seed, uint64(i)))
			for range 80 {
				ctx, cancel := context.WithTimeout(t.Context(), upToMillis(rng, 30))
				l.work(ctx, rng)
				cancel()
			}
			if i == 0 && l.seed%3 == 0 { // while others go on
				_ = bs[0].Drain(t.Context(), time.Millisecond, func(string) []byte { return []byte("goodbye") })
			}
		})
	}
	working.Wait()
	time.Sleep(10 * time.Second) // until all claims have ended
	for _, b := range bs {
		_ = b.CloseNow()
	}
	for _, w := range l.writers {
		_ = w.CloseNow()
	}
	time.Sleep(time.Second)
	require.Zero(t, l.budget.PendingBytes(), "seed %d", l.seed)
	for _, b := range bs {
		s := b.Stats()
		require.Zero(t, int64(s.Away+s.Names+s.Writers)+s.Pending+s.Kept, "seed %d", l.seed)
		assertConserved(t, s.WriterStats)
	}
	s := l.tally.Stats()
	assertConserved(t, s.WriterStats)
	ended := s.Ends.Closed.Writers + s.Ends.Delivered.Writers + s.Ends.Expired.Writers + s.Ends.Failed.Writers +
		s.Ends.SlowConsumer.Writers + s.Ends.TakenOver.Writers
	require.EqualValues(t, len(l.writers), ended, "seed %d", l.seed)
}

func upToMillis(rng *rand.Rand, n int) time.Duration {
	return time.Duration(rng.IntN(n)) * time.Millisecond
}

// newWriter makes a Writer with options by chance, on a connection that may be slow, stall or break.
func (l *lingerLoad) newWriter(rng *rand.Rand) *sendq.Writer {
	conn := hooked(sendqtest.NewConn())
	pause := time.Duration(rng.IntN(2)) * upToMillis(rng, 20)
	conn.Enter = func(method string) {
		if method == "Close" {
			time.Sleep(pause)
		}
	}
	switch rng.IntN(4) {
	case 0:
		conn.FailAfter(rng.IntN(3000), io.ErrClosedPipe)
	case 1:
		conn.Stall()
	case 2:
		conn.Slow(10+rng.IntN(100), time.Millisecond)
	}
	w := sendq.NewWriter(conn, &sendq.WriterOptions{
		Keep:          pick(rng, []int{0, 1 << 8, 1 << 10, 1 << 12, 1 << 15}),
		Budget:        pick(rng, []*sendq.Budget{nil, l.budget, l.budget, l.budget}),
		MaxMessages:   pick(rng, []int{0, 3, 20}),
		Overflow:      sendq.Overflow(rng.IntN(4)),
		HighMark:      pick(rng, []int{0, 300}),
		MessageFramed: rng.IntN(4) == 0,
		Farewell:      pick(rng, []func(error) []byte{nil, func(error) []byte { return []byte("goodbye") }}),
		CloseTimeout:  20 * time.Millisecond,
	})
	l.tally.Add(w)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.writers = append(l.writers, w)
	return w
}

// recent returns one of the last Writers.
func (l *lingerLoad) recent(rng *rand.Rand) *sendq.Writer {
	l.mu.Lock()
	n := len(l.writers)
	l.mu.Unlock()
	if n == 0 {
		return l.newWriter(rng)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.writers[max(0, n-1-rng.IntN(6))]
}

// work does one thing. It may fail.
func (l *lingerLoad) work(ctx context.Context, rng *rand.Rand) {
	b, name, room := pick(rng, l.bs), memberName(rng.IntN(3)), "room"
	p := make([]byte, 1+rng.IntN(300))
	switch rng.IntN(20) {
	case 0:
		_ = b.RegisterContext(ctx, name, l.newWriter(rng))
	case 1, 2, 3:
		_, _ = b.Resume(ctx, name, l.newWriter(rng), rng.Int64N(30), answerTo)
	case 4:
		w, pause := l.newWriter(rng), upToMillis(rng, 20)
		time.AfterFunc(pause, func() { _ = w.Fail(io.EOF) })
		_, _ = b.Resume(ctx, name, w, rng.Int64N(3), nil)
	case 5:
		_ = l.recent(rng).Fail(io.EOF)
	case 6:
		_ = b.RegisterContext(ctx, name, l.recent(rng))
	case 7:
		b.Unregister(name, l.recent(rng))
	case 8, 9:
		if w, ok := b.Lookup(name); ok {
			l.useHolder(ctx, rng, b, w)
		}
	case 10:
		_ = l.recent(rng).Acknowledge(rng.Int64N(40))
	case 11:
		_, _ = b.Room(room).JoinReplay(name, 10)
	case 12:
		b.Room(room).PublishLatest(fmt.Sprint(rng.IntN(3)), p)
	case 13:
		b.Room(room).Leave(name)
	case 14:
		_ = b.Stats()
	case 15:
		_, _ = l.recent(rng).WriteUrgent(p)
	case 16:
		b.Broadcast(make([]byte, 2000))
	case 17:
		b.Room(room).Publish(p)
	case 18:
		_ = b.SendContext(ctx, name, p)
	case 19:
		time.Sleep(upToMillis(rng, 8))
	}
}

// useHolder calls a method of the Writer that has a name, perhaps an heir.
func (l *lingerLoad) useHolder(ctx context.Context, rng *rand.Rand, b *sendq.Broker, w *sendq.Writer) {
	switch rng.IntN(9) {
	case 0:
		_ = w.CloseNow()
	case 1:
		_ = w.Acknowledge(rng.Int64N(30))
	case 2:
		_ = w.Flush(ctx)
	case 3:
		_ = w.WaitPending(ctx, 10)
	case 4:
		w.OnFlushed(func(error) {})
	case 5:
		_, _ = w.WriteUrgent([]byte("urgent"))
	case 6:
		for range w.UndeliveredAfter(rng.Int64N(30)) {
		}
	case 7:
		_ = w.CloseWith([]byte("goodbye"))
	case 8:
		_ = b.RegisterContext(ctx, memberName(rng.IntN(3)), w)
	}
}
