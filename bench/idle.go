//go:build linux

package main

import (
	"fmt"
	"net"
	"runtime"
	"time"
)

// runIdle measures what it costs to be connected and to have nothing to say.
func (b *bench) runIdle() (findings, error) {
	var found findings
	writers, err := b.idleWriters()
	if err != nil {
		return findings{}, err
	}
	connections, err := b.idleConnections()
	if err != nil {
		return findings{}, err
	}
	found.tables = append(found.tables, writers.tables...)
	found.tables = append(found.tables, connections.tables...)
	found.goals = append(writers.goals, connections.goals...)
	if b.idle.many > 0 {
		many, err := b.idleMany()
		if err != nil {
			return findings{}, err
		}
		found.tables = append(found.tables, many.tables...)
		found.goals = append(found.goals, many.goals...)
	}
	return found, nil
}

// A discard is a connection that takes everything, so that only what is in front of it
// is measured.
type discard struct{ net.Conn }

func (discard) Write(p []byte) (int, error)      { return len(p), nil }
func (discard) Close() error                     { return nil }
func (discard) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (discard) SetWriteDeadline(time.Time) error { return nil }

// idleWriters measures Writers that have sent something and are idle now.
func (b *bench) idleWriters() (findings, error) {
	b.progress("idle: %d Writers", b.idle.writers)
	type idleFigure struct{ bytes, goroutines figure }
	ways := writerRivals()
	figures := make([]idleFigure, len(ways))
	for range b.rounds {
		for i, way := range ways {
			if !way.canIdle() {
				continue
			}
			senders := make([]sender, b.idle.writers)
			for j := range senders {
				s, err := way.start(discard{})
				if err != nil {
					return findings{}, fmt.Errorf("%s: %w", way.name, err)
				}
				senders[j] = s
				if err := s.send([]byte(payload)); err != nil {
					return findings{}, fmt.Errorf("%s: %w", way.name, err)
				}
			}
			time.Sleep(50 * time.Millisecond) // until what they have sent is written
			with, goroutinesWith := memoryInUse()
			for _, s := range senders {
				s.close()
			}
			clear(senders)
			time.Sleep(50 * time.Millisecond) // until their goroutines have ended
			// Not what there was before: the runtime remembers goroutines that have flushed.
			without, goroutinesWithout := memoryInUse()
			runtime.KeepAlive(senders) // the list is in both
			figures[i].bytes = append(figures[i].bytes, max(0, with-without)/float64(len(senders)))
			figures[i].goroutines = append(figures[i].goroutines, float64(goroutinesWith-goroutinesWithout)/float64(len(senders)))
		}
	}
	t := table{name: "idle-writer", title: "What an idle writer of a connection costs",
		head: []string{"", "memory", "goroutines"},
		notes: []string{fmt.Sprintf("%s of each, which have sent a message and are idle, without their connections. Heap and stacks, after garbage collection.",
			thousands(int64(b.idle.writers)))}}
	for i, way := range ways {
		if way.canIdle() {
			t.row(way.name, figures[i].bytes.against(figures[0].bytes, memory), significant(median(figures[i].goroutines)))
		}
	}
	return findings{tables: []table{t}, goals: []goal{
		{what: "an idle Writer", bound: 256, atMost: true, measured: median(figures[1].bytes), in: memory},
	}}, nil
}

// memoryInUse returns the bytes of the heap and of stacks that are in use, and how many
// goroutines there are.
func memoryInUse() (bytes float64, goroutines int) {
	runtime.GC()
	runtime.GC() // pools keep what they have for one collection
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc + m.StackInuse), runtime.NumGoroutine()
}

// idleConnections measures servers whose members have got one message and are idle now.
func (b *bench) idleConnections() (findings, error) {
	figures := make(map[string]figure)
	var omissions omissions
	for round := range b.rounds {
		for _, s := range b.available() {
			b.progress("idle, round %d of %d: %d connections to %s", round+1, b.rounds, b.idle.connections, s.name)
			used, err := b.idleServer(s)
			if err := omissions.record(s, err, "with %d connections", b.idle.connections); err != nil {
				return findings{}, err
			}
			if err == nil {
				figures[s.name] = append(figures[s.name], used)
			}
		}
	}
	t := table{name: "idle", title: fmt.Sprintf("Memory of a server for each of %s idle connections", thousands(int64(b.idle.connections))),
		head: []string{"", "memory for a connection"},
		notes: append([]string{"What is resident of the server more than before the first connection, after all have joined and got one message, without the kernel's part."},
			append(b.serviceNotes(), omissions...)...)}
	for _, s := range b.available() {
		t.row(s.name, figures[s.name].against(figures[chatName], memory))
	}
	return findings{tables: []table{t}, goals: []goal{
		{what: "an idle connection to the chat", bound: 4096, atMost: true, measured: median(figures[chatName]), in: memory},
	}}, nil
}

func (b *bench) idleServer(s service) (perConnection float64, err error) {
	server, err := s.start(b.idle.connections)
	if err != nil {
		return 0, err
	}
	defer server.stop()
	before, err := resident(server.pid(), "VmRSS")
	if err != nil {
		return 0, err
	}
	clients, err := newClients(server.addr, s.protocol, payload, b.idle.connections, 0)
	if err != nil {
		return 0, err
	}
	defer clients.close()
	if err := clients.requireSilence(); err != nil {
		return 0, err
	}
	after, err := resident(server.pid(), "VmRSS")
	return (after - before) / float64(b.idle.connections), err
}
