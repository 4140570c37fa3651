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

// idleMany connects very many to the chat, and sends one message to all. The members are
// processes of their own; and where one process may not have so many files open, the chat is
// several nodes of one cluster.
func (b *bench) idleMany() (findings, error) {
	n := b.idle.many
	each, err := allowConnections(n)
	if err != nil {
		return findings{}, err
	}
	if b.idle.each > 0 {
		each = min(each, b.idle.each)
	}
	m := &deployment{n: n, nodes: (n + each - 1) / each}
	defer m.stop()
	b.progress("idle: %d connections to the chat, which is %s", n, plural(m.nodes, "node"))
	if err := m.startServers(b); err != nil {
		return findings{}, err
	}
	before, kernelBefore, err := m.memory("VmRSS")
	if err != nil {
		return findings{}, err
	}
	start := time.Now()
	if err := m.connect(); err != nil {
		return findings{}, err
	}
	connected := time.Since(start)
	b.progress("idle: a message to all of them")
	spread, err := m.message()
	if err != nil {
		return findings{}, err
	}
	after, kernelAfter, err := m.memory("VmRSS")
	if err != nil {
		return findings{}, err
	}
	peak, _, err := m.memory("VmHWM")
	if err != nil {
		return findings{}, err
	}
	perConnection := (after - before) / float64(n)
	kernel := (kernelAfter - kernelBefore) / float64(2*n)
	const million = 1e6
	t := table{name: "idle-many", title: fmt.Sprintf("%s connections to the chat on one machine", thousands(int64(n))),
		head: []string{"", ""},
		notes: []string{
			"Measured once. The members are processes of this program, with connections from several loopback addresses.",
			fmt.Sprintf("A million would be 1,000,000 × (%s + %s) = %s, by this arithmetic.",
				memory(perConnection), memory(kernel), memory(million*(perConnection+kernel))),
		}}
	if m.nodes > 1 {
		t.notes = append(t.notes, fmt.Sprintf("A process may have %s files open here, so the chat is %d nodes of one cluster, each of which knows all members; %s.",
			thousands(int64(each+otherFiles)), m.nodes, raiseLimitHint(n)))
	}
	t.row("servers", fmt.Sprint(m.nodes))
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

// manyGoal is how many connections one machine is meant to serve.
const manyGoal = 100_000

// A deployment is the members of a chat, in several processes, and its servers.
type deployment struct {
	n, nodes int
	nats     *child   // nil with one node
	servers  []*child // one for each node
	members  []*members
}

func (m *deployment) startServers(b *bench) (err error) {
	command := b.services[0].command
	if m.nodes > 1 {
		if m.nats, err = startChild(self("jetstream " + b.dir)); err != nil {
			return err
		}
		command = self("chatnode " + m.nats.addr.String())
	}
	for range m.nodes {
		server, err := startChild(command)
		if err != nil {
			return err
		}
		m.servers = append(m.servers, server)
	}
	return nil
}

// memory returns what the servers have together, and what the kernel has for sockets and the
// like.
func (m *deployment) memory(field string) (servers, kernel float64, err error) {
	for _, server := range m.servers {
		bytes, err := resident(server.pid(), field)
		if err != nil {
			return 0, 0, err
		}
		servers += bytes
	}
	kernel, err = slab()
	return servers, kernel, err
}

// connect makes all members, and returns when they are logged in.
func (m *deployment) connect() error {
	for i, server := range m.servers {
		first, last := i*m.n/m.nodes, (i+1)*m.n/m.nodes
		in, err := startMembers(server.addr, first, last)
		if err != nil {
			return err
		}
		m.members = append(m.members, in)
	}
	return m.await(reportConnected)
}

// hear waits until all processes of members have said so.
func (m *deployment) await(what string) error {
	errs := make([]error, len(m.members))
	var waiting sync.WaitGroup
	for i, in := range m.members {
		waiting.Go(func() { errs[i] = in.await(what) })
	}
	waiting.Wait()
	return errors.Join(errs...)
}

// message sends one message to all, and returns how long it takes until the last one has it.
func (m *deployment) message() (time.Duration, error) {
	p := chatProtocol()
	publisher, err := connect(m.servers[0].addr, m.n, false)
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
	err = m.await(reportReceived)
	return time.Since(start), err
}

func (m *deployment) stop() {
	for _, in := range m.members {
		in.stop()
	}
	for _, server := range m.servers {
		server.stop()
	}
	if m.nats != nil {
		m.nats.stop()
	}
}

// slab returns the memory that the kernel uses for sockets and the like.
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
