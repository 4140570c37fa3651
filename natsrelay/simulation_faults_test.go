package natsrelay

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// A simFault is a disturbance that the simulation has caused.
type simFault struct {
	what     string
	machines []int // those it concerns; nil for all
	from, to time.Time

	isBetweenMachines bool // the registry and the processes go on
}

func (f *simFault) concerns(machine int) bool {
	return f.machines == nil || slices.Contains(f.machines, machine)
}

// A simChaos causes faults until it is calmed.
type simChaos struct {
	sim    *simulation
	random *rand.Rand
}

// run causes faults for d.
func (c *simChaos) run(d time.Duration) {
	s := c.sim
	end := time.Now().Add(d)
	for {
		time.Sleep(time.Duration(c.random.Int64N(int64(s.faultPace))))
		switch {
		case !time.Now().Before(end):
			return
		case s.weather == simStorm:
			c.cause()
		case s.weather == simServerStorm:
			d := c.duration()
			c.cutServer((s.servers.leads()+1+c.random.IntN(2))%s.servers.n, d) // an election may take as long as a lease
			time.Sleep(d + s.relayOptions.Lease)
		}
	}
}

// duration returns how long a fault lasts: often a moment, and sometimes longer than a lease.
func (c *simChaos) duration() time.Duration {
	longest := c.sim.relayOptions.Lease * 2 / 5
	switch n := c.random.IntN(10); {
	case n >= 8:
		longest *= 6
	case n >= 5:
		longest *= 2
	}
	return time.Millisecond + time.Duration(c.random.Int64N(int64(longest)))
}

// cause causes a fault, which ends by itself.
func (c *simChaos) cause() {
	s, n := c.sim, c.sim.network
	i := c.random.IntN(len(s.machines))
	j := (i + 1 + c.random.IntN(len(s.machines)-1)) % len(s.machines)
	d := c.duration()
	holds := c.random.IntN(2) == 0
	both := []simRoute{{i, j}, {j, i}}
	toBucket := []simRoute{{i, bucketPlace}, {bucketPlace, i}}
	var others []simRoute
	for k := range s.machines {
		if k != i {
			others = append(others, simRoute{i, k}, simRoute{k, i})
		}
	}
	switch c.random.IntN(16) {
	case 0:
		c.cut("cut", []int{i, j}, both, holds, d)
	case 1:
		c.cut("cut one way", []int{i, j}, both[:1], holds, d)
	case 2:
		c.cut("isolate", []int{i}, others, holds, d)
	case 3:
		c.cut("isolate with bucket", []int{i}, append(others, toBucket...), holds, d)
	case 4:
		p := s.running(i)
		refuses := p != nil && c.random.IntN(2) == 0
		if refuses {
			p.setRefuses(true)
		}
		c.cut(fmt.Sprintf("take NATS (refuses: %v)", refuses), []int{i}, slices.Concat(others, toBucket, []simRoute{{i, i}}), holds && !refuses, d, func() {
			if refuses {
				p.setRefuses(false)
				p.relay.retryPublishing()
			}
		})
	case 5:
		c.cut("cut bucket", []int{i}, toBucket, holds, d)
	case 6:
		k := c.random.IntN(2)
		c.cut("cut bucket one way", []int{i}, toBucket[k:k+1], holds, d)
	case 7, 8, 9:
		c.freeze(i, d)
	case 10:
		c.restart(i)
	case 11:
		c.loseBucket(d)
	case 12:
		extra := time.Duration(c.random.Int64N(int64(2 * time.Second)))
		heal := n.disturb(both[0], extra, 0)
		c.during(fmt.Sprintf("delay by %v", extra), []int{i, j}, d, heal)
	case 13:
		heal := n.disturb(both[0], 0, 0.3)
		c.during("lose a third", []int{i, j}, d, heal)
	case 14:
		s.bucket.forget(min(d, 2*time.Second))
		c.during("loss of the newest entries", nil, time.Millisecond)
	case 15:
		c.cutServer(c.random.IntN(s.servers.n), d)
	}
}

// disturbTakeover causes a fault at a machine that takes a name over, or at the old one, in the middle of
// that.
func (c *simChaos) disturbTakeover(old, taker int) {
	d := c.duration()
	if lease := c.sim.relayOptions.Lease; c.random.IntN(2) == 0 {
		d = lease + time.Duration(c.random.Int64N(int64(lease)))
	}
	switch c.random.IntN(4) {
	case 0:
		c.cut("cut in a takeover", []int{old, taker}, []simRoute{{old, taker}, {taker, old}}, c.random.IntN(2) == 0, d)
	case 1:
		c.cut("cut one way in a takeover", []int{old, taker}, []simRoute{{old, taker}}, c.random.IntN(2) == 0, d)
	case 2:
		c.freeze(old, d)
	case 3:
		c.freeze(taker, d)
	}
}

func (c *simChaos) freeze(machine int, d time.Duration) {
	if p := c.sim.running(machine); p != nil && p.isUp() {
		c.during("freeze", []int{machine}, d, p.freeze())
	}
}

// cutServer cuts a NATS server off from the others.
func (c *simChaos) cutServer(server int, d time.Duration) {
	election := time.Second + time.Duration(c.random.Int64N(int64(8*time.Second)))
	holds := c.random.IntN(2) == 0
	if heal := c.sim.servers.cut(server, holds, election); heal != nil {
		c.during(fmt.Sprintf("cut off server %d (holds: %v)", server, holds), nil, max(d, election), heal)
	}
}

// during ends a fault after d, or when the simulation calms down.
func (c *simChaos) during(what string, machines []int, d time.Duration, heal ...func()) {
	s := c.sim
	f := &simFault{what: what, machines: machines, from: time.Now()}
	f.isBetweenMachines = strings.HasPrefix(what, "cut (") || strings.HasPrefix(what, "cut one way") || strings.HasPrefix(what, "cut in")
	s.ledger.tell("%s of %v for %v", what, names(machines), d)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isCalm {
		for _, h := range heal {
			h()
		}
		return
	}
	s.faults = append(s.faults, f)
	s.chaos.Go(func() {
		select {
		case <-time.After(d):
		case <-s.calm:
		}
		for _, h := range heal {
			h()
		}
		s.endFault(f)
		s.ledger.tell("end of %s of %v", what, names(machines))
	})
}

// names returns the letters of machines.
func names(machines []int) (b []string) {
	for _, m := range machines {
		b = append(b, string(rune('a'+m)))
	}
	return b
}

func (c *simChaos) cut(what string, machines []int, routes []simRoute, holds bool, d time.Duration, heal ...func()) {
	for _, r := range routes {
		heal = append(heal, c.sim.network.cut(r, holds))
	}
	c.during(fmt.Sprintf("%s (holds: %v)", what, holds), machines, d, heal...)
}

// restart ends the process of a machine and starts another one later.
func (c *simChaos) restart(machine int) {
	s := c.sim
	p := s.running(machine)
	if p == nil || !p.isUp() || !s.beginRestart(machine) {
		return
	}
	isOrderly := c.random.IntN(2) == 0
	pause := c.duration()
	f := &simFault{what: "restart", machines: []int{machine}, from: time.Now()}
	s.addFault(f)
	s.chaos.Go(func() {
		defer s.endRestart(machine)
		if isOrderly {
			s.ledger.tell("%s shuts down", p.id)
			err := p.shutDown(s.relayOptions.Timeout)
			s.ledger.tell("%s has shut down: %v", p.id, err)
		} else {
			s.ledger.tell("%s is killed", p.id)
			p.kill()
		}
		s.endFault(f)
		select {
		case <-time.After(pause):
		case <-s.calm:
		}
		s.start(machine)
	})
}

// loseBucket loses the bucket, or makes it unreachable for a while.
func (c *simChaos) loseBucket(d time.Duration) {
	b := c.sim.bucket
	if c.random.IntN(2) == 0 {
		b.setAway(true)
		c.during("no bucket", nil, d, func() { b.setAway(false) })
		return
	}
	b.lose()
	c.during("loss of the bucket", nil, time.Millisecond)
}

// setRefuses makes Publish fail, or no longer.
func (p *simProcess) setRefuses(refuses bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuses = refuses
}
