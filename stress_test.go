package sendq_test

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/sendq-go/sendq"
)

var stress = flag.Duration("stress", time.Second, "how long TestStress runs")

// TestStress opens connections of every kind, with limits, peers and ends by chance, many at
// a time, and accounts for each message of each. It is worth some minutes under -race:
//
//	go test -race -run TestStress -stress 5m .
func TestStress(t *testing.T) {
	budget := sendq.NewBudget(2 << 20)
	broker := sendq.NewBroker(nil)
	var workers sync.WaitGroup
	var connections, messages atomic.Int64
	for deadline, worker := time.Now().Add(*stress), 0; worker < 8; worker++ {
		workers.Go(func() {
			for time.Now().Before(deadline) && !t.Failed() {
				t.Run("", func(t *testing.T) { // so that its connections are closed
					messages.Add(runConnection(t, broker, budget))
					connections.Add(1)
				})
			}
		})
	}
	workers.Wait()
	t.Logf("%d connections, %d messages", connections.Load(), messages.Load())
	assert.Zero(t, budget.PendingBytes())
	assert.Zero(t, broker.Len())
}

// runConnection runs one connection from start to end, and returns the number of accepted messages.
func runConnection(t *testing.T, broker *sendq.Broker, budget *sendq.Budget) int64 {
	conn, peer := transports[rand.IntN(len(transports))].pair(t)
	w := sendq.NewWriter(conn, &sendq.WriterOptions{
		MaxPending:   oneOf(0, 100<<10, 300<<10),
		Overflow:     oneOf(sendq.Disconnect, sendq.Block, sendq.DropNewest, sendq.DropOldest),
		MaxAge:       oneOf(0, 0, 300*time.Millisecond),
		WriteTimeout: oneOf(0, 0, 200*time.Millisecond),
		CloseTimeout: oneOf(10*time.Millisecond, time.Second),
		Budget:       oneOf(nil, budget),
	})
	name := t.Name() // unique
	assert.NoError(t, broker.Register(name, w))

	gone := make(chan struct{})
	behavior := rand.IntN(behaviors)
	arrived := async(func() arrival { return receive(&stressPeer{peer, gone, behavior}) })

	// By sender, the numbers of the messages accepted and not dropped at once.
	const senders = 4
	var accepted [senders][]int
	var dropped atomic.Int64
	var running sync.WaitGroup
	for sender := range senders {
		running.Go(func() {
			for i := range 300 {
				switch err := sendRandomly(w, broker, name, frame(sender, i, size(i)>>3)); {
				case err == nil:
					accepted[sender] = append(accepted[sender], i)
				case errors.Is(err, sendq.ErrDropped):
					dropped.Add(1)
				case errors.Is(err, net.ErrClosed), errors.Is(err, sendq.ErrUnknownName):
					return
				}
			}
		})
	}
	running.Go(func() {
		for w.Err() == nil && rand.IntN(30) > 0 {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
			before := w.Stats()
			assertConserved(t, before)
			var err error
			if rand.IntN(2) == 0 {
				err = w.WaitPending(ctx, rand.IntN(100_000))
			} else if err = w.Flush(ctx); err == nil {
				after := w.Stats()
				assert.GreaterOrEqual(t, after.Written+after.Dropped, before.Accepted)
			}
			if err != nil && w.Err() == nil {
				assert.ErrorIs(t, err, context.DeadlineExceeded)
			}
			cancel()
		}
	})
	if rand.IntN(2) == 0 {
		select { // all of it, unless the peer holds it up
		case <-async(func() bool { running.Wait(); return true }):
		case <-time.After(500 * time.Millisecond):
		}
	}
	closed := oneOf(ends["Close"], ends["Close"], ends["CloseNow"], func(w *sendq.Writer) error {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		defer cancel()
		return w.Shutdown(ctx)
	})(w)
	<-w.Done()
	running.Wait()
	close(gone)
	a := <-arrived

	s := w.Stats()
	assertConserved(t, s)
	total := int(dropped.Load())
	var undelivered [senders][]int
	for p := range w.Undelivered() {
		sender := binary.BigEndian.Uint32(p)
		undelivered[sender] = append(undelivered[sender], int(binary.BigEndian.Uint32(p[4:])))
	}
	arrivals := 0
	for sender, accepted := range accepted {
		total += len(accepted)
		arrivals += len(a.order[sender])
		outcomes := slices.Concat(a.order[sender], undelivered[sender])
		assert.True(t, slices.IsSorted(outcomes), "out of order: %v", outcomes)
		assert.Equal(t, len(outcomes), len(slices.Compact(slices.Clone(outcomes))), "doubled")
		for _, n := range outcomes {
			assert.Contains(t, accepted, n)
		}
	}
	assert.EqualValues(t, total, s.Accepted)
	assert.LessOrEqual(t, int64(arrivals), s.Written)
	assert.NotEqual(t, errChecksum, a.err, "torn")
	if closed == nil && w.Err() == nil && behavior <= slow {
		assert.NoError(t, a.err)
		assert.EqualValues(t, s.Written, arrivals, "Close said that everything was delivered")
	}
	return s.Accepted
}

// sendRandomly sends p to w, by its name or directly.
func sendRandomly(w *sendq.Writer, broker *sendq.Broker, name string, p []byte) error {
	switch rand.IntN(5) {
	case 0:
		return broker.Send(name, p)
	case 1:
		ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		defer cancel()
		_, err := w.WriteContext(ctx, p)
		return err
	}
	return send(w, rand.Int(), p)
}

// The behaviors of a peer.
const (
	eager = iota
	slow
	stalls
	resets
	behaviors
)

// A stressPeer reads. Depending on its behavior it reads slowly, or stops in the middle until gone
// is closed, or resets the connection there.
type stressPeer struct {
	net.Conn
	gone     <-chan struct{}
	behavior int
}

func (p *stressPeer) Read(b []byte) (int, error) {
	switch p.behavior {
	case slow:
		time.Sleep(time.Duration(rand.IntN(int(time.Millisecond))))
	case stalls, resets:
		if rand.IntN(200) > 0 {
			break
		}
		if p.behavior == stalls {
			<-p.gone
		} else if c, ok := innermost(p.Conn).(*net.TCPConn); ok {
			c.SetLinger(0)
			c.Close()
		}
		p.Close()
		return 0, io.ErrUnexpectedEOF
	}
	return p.Conn.Read(b)
}
