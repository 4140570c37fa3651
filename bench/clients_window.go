//go:build linux

package main

import (
	"fmt"
	"slices"
	"time"
)

// A result is the measurement of a run.
type result struct {
	messages   int
	deliveries float64
	elapsed    time.Duration
	p50, p99   float64 // ns from sending a message until the last member has it
}

func (r *result) rate() float64 { return r.deliveries / r.elapsed.Seconds() }

// run sends windows until enough returns true. If a window has fewer messages than there are
// publishers, the publishers take turns.
func (c *clients) run(inFlight, publishers int, enough func(windows int, elapsed time.Duration) bool) (result, error) {
	if c.failed.Load() {
		return result{}, errClientsFailed
	}
	if inFlight > maxInFlight {
		return result{}, fmt.Errorf("%d messages in flight; the maximum is %d", inFlight, maxInFlight)
	}
	if err := c.needPublishers(publishers); err != nil {
		c.fail(err)
		return result{}, err
	}
	c.inFlight, c.publishers, c.enough = inFlight, publishers, enough
	c.windows, c.latencies = 0, c.latencies[:0]
	c.startedAt = c.clock()
	c.send()
	if err := c.await(); err != nil {
		c.failed.Store(true)
		return result{}, err
	}
	slices.Sort(c.latencies)
	messages := c.windows * inFlight
	return result{
		messages:   messages,
		deliveries: float64(messages * c.receivers()),
		elapsed:    time.Duration(c.sentAt - c.startedAt),
		p50:        float64(quantile(c.latencies, 0.50)),
		p99:        float64(quantile(c.latencies, 0.99)),
	}, nil
}

// await waits for the end of the run. It fails if no window completes within c.timeout.
func (c *clients) await() error {
	for window := c.window.Load(); ; {
		select {
		case err := <-c.ended:
			return err
		case <-time.After(c.timeout):
			if window == c.window.Load() {
				return fmt.Errorf("messages are lost, or take longer than %v", c.timeout)
			}
			window = c.window.Load()
		}
	}
}

// send sends the next window.
func (c *clients) send() {
	answer := len(c.protocol.answer(c.payload, c.subscribed()))
	shares := make([]int, len(c.messages))
	for i := range c.inFlight {
		shares[(c.turn+i)%c.publishers]++
	}
	c.turn = (c.turn + c.inFlight) % c.publishers
	for i, p := range c.conns[c.members:] {
		p.want = shares[i] * answer
		if c.protocol.receives {
			p.want += (c.inFlight - shares[i]) * c.frame
		}
	}
	c.loopsLeft.Store(int32(len(c.loops)))
	c.sentAt = c.clock()
	c.window.Add(1)
	for i, p := range c.conns[c.members:] {
		if shares[i] == 0 {
			continue
		}
		if err := p.write(c.messages[i][:shares[i]*len(c.messages[i])/maxInFlight]); err != nil {
			c.fail(err)
			return
		}
	}
}

// loopDone is called by each loop once its connections have the whole window. The last loop
// to call it sends the next window or ends the run.
func (c *clients) loopDone() {
	if c.loopsLeft.Add(-1) > 0 {
		return
	}
	for i := range c.inFlight {
		var last int64
		for _, l := range c.loops {
			last = max(last, l.doneAt[i])
		}
		c.latencies = append(c.latencies, last-c.sentAt)
	}
	c.windows++
	now := c.clock()
	if c.enough(c.windows, time.Duration(now-c.startedAt)) {
		c.sentAt = now // the end of the run
		c.ended <- nil
		return
	}
	c.send()
}
