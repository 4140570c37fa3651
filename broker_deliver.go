package sendq

import (
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
)

// A mail is what a Broker delivers: a message to copy, or messages [first, last) of a block.
type mail struct {
	copied      []byte
	block       *block
	first, last int

	// idle, if it is not nil, gets the Writers whose flusher must be started, which waits
	// until all is queued for all.
	idle *crew
}

// letter returns p as a mail to copy.
func letter(p []byte) mail {
	m := copyOf(p)
	return mail{copied: m.copied, block: m.block, last: 1}
}

func (m *mail) messages() int {
	if m.block == nil {
		return 1
	}
	return m.last - m.first
}

// deliver queues m for those that have the name, and returns how many of its messages were
// accepted, and if not all, why one was not.
func (n *named) deliver(m *mail) (accepted int, err error) {
	rest, left := *m, m.messages()
	var slow error // m may be what ended the Writer, and the name may be free by now
	for {
		writers := n.current()
		took, refused := rest.post(*writers)
		accepted += took
		rest.first += took
		left -= took
		switch {
		case left == 0:
			return accepted, err
		case !errors.Is(refused, net.ErrClosed) && len(*writers) > 0:
			err = refused
			rest.first++ // those behind it may be accepted
			if left--; left == 0 {
				return accepted, err
			}
		case len(*writers) == 0 && slow != nil:
			return accepted, slow
		case len(*writers) == 0:
			return accepted, fmt.Errorf("%w: %q", ErrUnknownName, n.name)
		case n.writers.Load() == writers:
			return accepted, refused
		case errors.Is(refused, ErrSlowConsumer):
			slow = refused
		}
		// Otherwise another Writer has the name since.
	}
}

// post posts m to those that have a name, up to the first message that none of them accepts.
// It returns how many come before that, and why it was not accepted.
func (m *mail) post(writers []*Writer) (accepted int, err error) {
	if len(writers) == 1 {
		return writers[0].post(m)
	}
	one := *m
	for ; accepted < m.messages(); accepted++ {
		one.first = m.first + accepted
		one.last = one.first + 1
		err = nil
		isAccepted := false
		for _, w := range writers {
			_, refused := w.post(&one)
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

// post accepts what m brings, up to the first message that it refuses. It returns how many
// come before that, and why it was refused. It never waits.
func (w *Writer) post(m *mail) (accepted int, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if m.block == nil {
		if err = w.offer(&message{copied: m.copied}); err == nil {
			accepted = 1
		}
	} else if w.limits != nil && w.limits.Budget.isSmallFor(m.block) {
		accepted, err = w.offerCopies(m.block, m.first, m.last)
	} else {
		accepted, err = w.offerRun(m.block, m.first, m.last)
	}
	w.wakeBy(m.idle)
	return accepted, err
}

// offerRun accepts messages [first, last) of b, at once if nothing stands against it, up to the
// first one that it refuses. mu is held, here and below.
func (w *Writer) offerRun(b *block, first, last int) (accepted int, err error) {
	switch {
	case w.state != open:
		return 0, w.refusal()
	case w.limits == nil:
		w.accept(last-first, w.queue.push(b, first, last))
		return last - first, nil
	case last-first > 1 && w.isWithinLimits(costOf(last-first, b.end(last-1)-b.start(first))):
		if err = w.admitRun(b, first, last); err == nil {
			accepted = last - first
		}
		return accepted, err
	}
	for i := first; i < last; i++ {
		if err = w.offer(&message{block: b, index: i}); err != nil {
			break
		}
		accepted++
	}
	return accepted, err
}

// offerCopies is offerRun, but shares nothing.
func (w *Writer) offerCopies(b *block, first, last int) (accepted int, err error) {
	for i := first; i < last; i++ {
		m := copyOf(b.message(i))
		if err = w.offer(&m); err != nil {
			break
		}
		accepted++
	}
	return accepted, err
}

// wakeBy is wake, but leaves the start of the flusher to idle if that is not nil.
func (w *Writer) wakeBy(idle *crew) {
	switch {
	case idle == nil:
		w.wake()
	case !w.queue.empty() && w.startFlushing():
		idle.writers = append(idle.writers, w)
	}
}

// A crew is the Writers that a fan-out has found idle, whose flushers must be started. A few
// goroutines write for all of them what the kernel takes at once; only a Writer that it makes
// wait gets a flusher of its own. A goroutine for each took two thirds more time.
type crew struct {
	writers []*Writer
	busy    atomic.Int32 // goroutines at work
}

var crews = sync.Pool{New: func() any { return new(crew) }}

func newCrew() *crew { return crews.Get().(*crew) }

// minShare is how many Writers are worth a goroutine.
const minShare = 8

// start starts the flushers. The crew must not be used any more.
func (c *crew) start() {
	goroutines := min(runtime.GOMAXPROCS(0), (len(c.writers)+minShare-1)/minShare)
	if goroutines == 0 {
		crews.Put(c)
		return
	}
	c.busy.Store(int32(goroutines))
	for i := range goroutines {
		go c.work(i*len(c.writers)/goroutines, (i+1)*len(c.writers)/goroutines)
	}
}

// work starts the flushers of the Writers [first, last).
func (c *crew) work(first, last int) {
	for _, w := range c.writers[first:last] {
		w.mu.Lock()
		w.tryFlush()
		w.mu.Unlock()
	}
	if c.busy.Add(-1) == 0 {
		clear(c.writers)
		c.writers = c.writers[:0]
		crews.Put(c)
	}
}
