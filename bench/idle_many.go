//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"sync"
	"time"
)

// idleMany connects a very large number of members to the chat and sends one message to all. The
// members run in separate processes. If the limit of open files is too low for a single server,
// the chat runs as several nodes of one cluster.
func (b *bench) idleMany() (findings, error) {
	n := b.idle.many
	each, err := allowConnections(n)
	if err != nil {
		return findings{}, err
	}
	if b.idle.each > 0 {
		each = min(each, b.idle.each)
	}
	d := &deployment{n: n, nodes: (n + each - 1) / each}
	defer d.stop()
	b.progress("idle: %d connections to the chat, which is %s", n, plural(d.nodes, "node"))
	if err := d.startServers(b); err != nil {
		return findings{}, err
	}
	before, kernelBefore, err := d.memory("VmRSS")
	if err != nil {
		return findings{}, err
	}
	start := time.Now()
	if err := d.connect(); err != nil {
		return findings{}, err
	}
	connected := time.Since(start)
	b.progress("idle: a message to all of them")
	spread, err := d.message()
	if err != nil {
		return findings{}, err
	}
	after, kernelAfter, err := d.memory("VmRSS")
	if err != nil {
		return findings{}, err
	}
	peak, _, err := d.memory("VmHWM")
	if err != nil {
		return findings{}, err
	}
	perConnection := (after - before) / float64(n)
	kernel := (kernelAfter - kernelBefore) / float64(2*n)
	const million = 1e6
	t := table{name: "idle-many", title: fmt.Sprintf("%s connections to the chat on one machine", thousands(int64(n))),
		head: []string{"", ""},
		notes: []string{
			"Measured once. The members run in processes of this program and connect from several loopback addresses.",
			fmt.Sprintf("By this arithmetic, a million would take 1,000,000 × (%s + %s) = %s.",
				memory(perConnection), memory(kernel), memory(million*(perConnection+kernel))),
		}}
	if d.nodes > 1 {
		t.notes = append(t.notes, fmt.Sprintf("A process may have %s files open here, so the chat runs as %d nodes of one cluster, and each node knows all members; %s.",
			thousands(int64(each+otherFiles)), d.nodes, raiseLimitHint(n)))
	}
	t.row("servers", fmt.Sprint(d.nodes))
	t.row("until all were logged in", span(float64(connected)))
	t.row("one message, until the last member had it", span(float64(spread)))
	t.row("members who got it, and nothing else", thousands(int64(n)))
	t.row("memory of the servers", memory(after))
	t.row("at the highest", memory(peak))
	t.row("of it for a connection", memory(perConnection))
	t.row("memory of the kernel for one end of a connection", memory(kernel))
	return findings{tables: []table{t}, goals: []goal{
		{what: "connections to the chat that one message reached", bound: float64(manyGoal), measured: float64(n), in: count},
	}}, nil
}

// manyGoal is the number of connections that one machine should serve.
const manyGoal = 100_000

// A deployment is the servers of a chat and the processes of its members.
type deployment struct {
	n, nodes int
	nats     *child   // nil with one node
	servers  []*child // one per node
	members  []*members
}

func (d *deployment) startServers(b *bench) (err error) {
	command := b.services[0].command
	if d.nodes > 1 {
		if d.nats, err = startChild(self("jetstream " + b.dir)); err != nil {
			return err
		}
		command = self("chatnode " + d.nats.addr.String())
	}
	for range d.nodes {
		server, err := startChild(command)
		if err != nil {
			return err
		}
		d.servers = append(d.servers, server)
	}
	return nil
}

// memory returns the memory of all servers together, and the kernel's memory for sockets.
func (d *deployment) memory(field string) (servers, kernel float64, err error) {
	for _, server := range d.servers {
		bytes, err := resident(server.pid(), field)
		if err != nil {
			return 0, 0, err
		}
		servers += bytes
	}
	kernel, err = slab()
	return servers, kernel, err
}

// connect starts all members and waits until they are logged in.
func (d *deployment) connect() error {
	for i, server := range d.servers {
		first, last := i*d.n/d.nodes, (i+1)*d.n/d.nodes
		in, err := startMembers(server.addr, first, last)
		if err != nil {
			return err
		}
		d.members = append(d.members, in)
	}
	return d.await(reportConnected)
}

// await waits for a line of every members process.
func (d *deployment) await(what string) error {
	errs := make([]error, len(d.members))
	var waiting sync.WaitGroup
	for i, in := range d.members {
		waiting.Go(func() { errs[i] = in.await(what) })
	}
	waiting.Wait()
	return errors.Join(errs...)
}

// message sends one message to all and returns the time until the last member has it.
func (d *deployment) message() (time.Duration, error) {
	p := chatProtocol()
	publisher, err := connect(d.servers[0].addr, d.n, false)
	if err != nil {
		return 0, err
	}
	defer publisher.close()
	if err := p.enter(publisher, 0); err != nil {
		return 0, err
	}
	start := time.Now()
	if err := publisher.send(p.message(0, payload)); err != nil {
		return 0, err
	}
	err = d.await(reportReceived)
	return time.Since(start), err
}

func (d *deployment) stop() {
	for _, in := range d.members {
		in.stop()
	}
	for _, server := range d.servers {
		server.stop()
	}
	if d.nats != nil {
		d.nats.stop()
	}
}

// slab returns the kernel's slab memory, which includes sockets.
func slab() (float64, error) {
	info, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	found := regexp.MustCompile(`(?m)^Slab: +(\d+) kB$`).FindSubmatch(info)
	if found == nil {
		return 0, fmt.Errorf("/proc/meminfo has no Slab")
	}
	kib, err := strconv.ParseFloat(string(found[1]), 64)
	return kib * 1024, err
}
