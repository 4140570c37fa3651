package sendq

import (
	"errors"
	"net"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/sendq-go/sendq/internal/queue"
)

// deliver queues m for the Writers with the name. It returns the number of accepted messages,
// and the reason if any was refused.
func (n *member) deliver(m *payload, idle *wakeList) (accepted int, err error) {
	rest, remaining := *m, m.len()
	var slow error // m itself may have ended the Writer, and the name may be free by now
	for {
		writers := n.current()
		took, refused := rest.deliverTo(*writers, idle)
		accepted += took
		rest.run.First += int32(took)
		remaining -= took
		switch {
		case remaining == 0:
			return accepted, err
		case !errors.Is(refused, net.ErrClosed) && len(*writers) > 0:
			err = refused
			rest.run.First++ // later messages may be accepted
			if remaining--; remaining == 0 {
				return accepted, err
			}
		case len(*writers) == 0 && slow != nil:
			return accepted, slow
		case len(*writers) == 0:
			return accepted, errUnknownName(n.name)
		case n.writers.Load() == writers:
			return accepted, refused
		case errors.Is(refused, ErrSlowConsumer):
			slow = refused
		}
		// Otherwise another Writer has the name now.
	}
}

// deliverTo queues m for several Writers, up to the first message that all of them refuse. It
// returns the number of messages before that one, and why it was refused.
func (m *payload) deliverTo(writers []*Writer, idle *wakeList) (accepted int, err error) {
	if len(writers) == 1 {
		return writers[0].tryEnqueue(m, idle)
	}
	for ; accepted < m.len(); accepted++ {
		one := m.message(accepted)
		err = nil
		isAccepted := false
		for _, w := range writers {
			_, refused := w.tryEnqueue(&one, idle)
			switch {
			case refused == nil:
				isAccepted = true
			case err == nil || !errors.Is(refused, net.ErrClosed):
				err = refused
			}
		}
		if !isAccepted {
			return accepted, err
		}
	}
	return accepted, nil
}

// message returns message i of m.
func (m *payload) message(i int) payload {
	if m.run.Block == nil {
		return *m
	}
	first := m.run.First + int32(i)
	return payload{run: queue.Run{Block: m.run.Block, First: first, Last: first + 1}, key: m.key}
}

// tryEnqueue accepts the messages of m up to the first refusal. It returns the number of
// accepted messages and the reason for the refusal. It never waits. If w's flusher must be
// started, tryEnqueue adds w to idle, or starts the flusher itself if idle is nil. If w has failed,
// its heir gets the messages. mu is not held.
func (w *Writer) tryEnqueue(m *payload, idle *wakeList) (accepted int, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.state != open:
		return w.tryHeir(m, 0)
	case w.limits == nil:
		w.enqueue(m)
		accepted = m.len()
	case m.run.Block != nil && w.limits.Budget.isSmallFor(m.run.Block):
		accepted, err = w.offerCopies(m)
	case m.len() == 1:
		if err = w.offerLimited(m); err == nil {
			accepted = 1
		}
	case w.hasRoom(amountOf(m.len(), m.size())) && !w.limits.isBlocked():
		if err = w.admit(m); err == nil {
			accepted = m.len()
		}
	default:
		accepted, err = w.offerEach(m)
	}
	if err != nil && w.state != open { // a message of m has just ended w
		return w.tryHeir(m, accepted)
	}
	w.wakeBy(idle)
	return accepted, err
}

// tryHeir is tryEnqueue for a Writer that is no longer open, after it has accepted that many of the
// messages. mu is held.
func (w *Writer) tryHeir(m *payload, accepted int) (int, error) {
	heir := w.heir()
	if heir == nil {
		return accepted, w.refusal()
	}
	rest := *m
	rest.run.First += int32(accepted)
	more, err := heir.tryEnqueue(&rest, nil)
	return accepted + more, err
}

// offerEach accepts the messages of m one by one. mu is held, here and below.
func (w *Writer) offerEach(m *payload) (accepted int, err error) {
	for ; accepted < m.len(); accepted++ {
		one := m.message(accepted)
		if err = w.offer(&one); err != nil {
			break
		}
	}
	return accepted, err
}

// offerCopies is like offerEach, but copies each message and shares none.
func (w *Writer) offerCopies(m *payload) (accepted int, err error) {
	for ; accepted < m.len(); accepted++ {
		one := copyOf(m.run.Message(accepted))
		if err = w.offer(&one); err != nil {
			break
		}
	}
	return accepted, err
}

// wakeBy is like wake, but adds w to idle instead of starting the flusher, unless idle is nil.
func (w *Writer) wakeBy(idle *wakeList) {
	switch {
	case idle == nil:
		w.wake()
	case !w.queue.Empty() && w.acquireFlusher():
		idle.writers = append(idle.writers, w)
	}
}

// A wakeList collects the idle Writers that a fan-out has queued messages for. Their flushers
// must be started. A few goroutines write for all of them as far as the kernel accepts bytes at
// once. Only a Writer that would have to wait gets its own flusher. A goroutine for each Writer
// took two thirds more time. A wakeList belongs to one fan-out, and then to the goroutines at
// work.
type wakeList struct {
	writers []*Writer
	busy    atomic.Int32 // goroutines still at work
}

var wakeLists = sync.Pool{New: func() any { return new(wakeList) }}

func newWakeList() *wakeList { return wakeLists.Get().(*wakeList) }

// minShare is the number of Writers that is worth a goroutine.
const minShare = 8

// wake starts the flushers, and empties the list.
func (l *wakeList) wake() {
	batch := newWakeList()
	batch.writers, l.writers = l.writers, batch.writers
	batch.done()
}

// done starts the flushers, and returns the list to the pool when that is done. The caller must no
// longer use the list.
func (l *wakeList) done() {
	n := len(l.writers)
	goroutines := min(runtime.GOMAXPROCS(0), (n+minShare-1)/minShare)
	if goroutines == 0 {
		wakeLists.Put(l)
		return
	}
	l.busy.Store(int32(goroutines))
	for i := range goroutines {
		go l.work(i*n/goroutines, (i+1)*n/goroutines)
	}
}

// work starts the flushers of the Writers [first, last). The last goroutine returns the list to
// the pool.
func (l *wakeList) work(first, last int) {
	for _, w := range l.writers[first:last] {
		w.mu.Lock()
		w.tryFlush()
		w.mu.Unlock()
	}
	if l.busy.Add(-1) == 0 {
		clear(l.writers)
		l.writers = l.writers[:0]
		wakeLists.Put(l)
	}
}
