//go:build linux

package main

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"time"
)

// idleMany connects very many to the chat, and sends one message to all.
func (b *bench) idleMany() (findings, error) {
	n, err := allowConnections(b.idle.many)
	if err != nil {
		return findings{}, err
	}
	b.progress("idle: %d connections to the chat", n)
	chat := b.services[0]
	server, err := chat.start(n)
	if err != nil {
		return findings{}, err
	}
	defer server.stop()
	before, err := resident(server.pid(), "VmRSS")
	if err != nil {
		return findings{}, err
	}
	kernelBefore, err := slab()
	if err != nil {
		return findings{}, err
	}
	start := time.Now()
	crowd, err := newCrowd(server.addr, chat.protocol, payload, n, 0)
	if err != nil {
		return findings{}, err
	}
	defer crowd.close()
	joined := time.Since(start)
	after, err := resident(server.pid(), "VmRSS")
	if err != nil {
		return findings{}, err
	}
	kernelAfter, err := slab()
	if err != nil {
		return findings{}, err
	}
	b.progress("idle: a message to all of them")
	r, err := crowd.run(1, 1, func(int, time.Duration) bool { return true })
	if err != nil {
		return findings{}, fmt.Errorf("a message to %d: %w", n, err)
	}
	if err := crowd.quiet(); err != nil {
		return findings{}, err
	}
	peak, err := resident(server.pid(), "VmHWM")
	if err != nil {
		return findings{}, err
	}
	each := (after - before) / float64(n)
	kernel := (kernelAfter - kernelBefore) / float64(2*n)
	const million = 1e6
	t := table{name: "idle-many", title: fmt.Sprintf("%s connections to the chat on one machine", thousands(int64(n))),
		head: []string{"", ""},
		notes: []string{
			"Measured once. The members are this program, with connections from several loopback addresses.",
			fmt.Sprintf("A million would be 1,000,000 × (%s + %s) = %s, by this arithmetic.",
				memory(each), memory(kernel), memory(million*(each+kernel))),
		}}
	if n < b.idle.many {
		t.notes = append(t.notes, "Not more here: "+howToAllow(b.idle.many)+".")
	}
	t.row("until all were logged in and had got a message", span(float64(joined)))
	t.row("one message, until the last member had it", span(r.p50))
	t.row("members who got it", thousands(int64(r.deliveries)))
	t.row("memory of the server", memory(after))
	t.row("at the highest", memory(peak))
	t.row("of it for a connection", memory(each))
	t.row("memory of the kernel for one end of a connection", memory(kernel))
	return findings{tables: []table{t}, goals: []goal{
		{what: "connections to the chat that one message reached", bound: float64(b.idle.many), measured: r.deliveries, in: count},
	}}, nil
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
