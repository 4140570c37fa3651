//go:build linux

package main

import (
	"fmt"
	"net"
	"runtime"
	"time"
)

// runIdle measures the cost of idle Writers and idle connections.
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

// A discard is a connection that accepts every write and discards it, so only the writer in
// front of it is measured.
type discard struct{ net.Conn }

func (discard) Write(p []byte) (int, error)      { return len(p), nil }
func (discard) Close() error                     { return nil }
func (discard) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (discard) SetWriteDeadline(time.Time) error { return nil }

// idleWriters measures idle Writers, and their rivals, after one message each.
func (b *bench) idleWriters() (findings, error) {
	b.progress("idle: %d Writers", b.idle.writers)
	type idleFigure struct{ bytes, goroutines figure }
	rivals := writerRivals()
	figures := make([]idleFigure, len(rivals))
	for range b.rounds {
		for i, rival := range rivals {
			if !rival.canIdle() {
				continue
			}
			senders := make([]sender, b.idle.writers)
			for j := range senders {
				s, err := rival.start(discard{})
				if err != nil {
					return findings{}, fmt.Errorf("%s: %w", rival.name, err)
				}
				senders[j] = s
				if err := s.send([]byte(payload)); err != nil {
					return findings{}, fmt.Errorf("%s: %w", rival.name, err)
				}
			}
			time.Sleep(50 * time.Millisecond) // wait until the messages are written
			with, goroutinesWith := memoryInUse()
			for _, s := range senders {
				s.close()
			}
			clear(senders)
			time.Sleep(50 * time.Millisecond) // wait until the goroutines have ended
			// Measured afterwards, because the runtime keeps memory of ended goroutines.
			without, goroutinesWithout := memoryInUse()
			runtime.KeepAlive(senders) // both measurements include the list
			figures[i].bytes = append(figures[i].bytes, max(0, with-without)/float64(len(senders)))
			figures[i].goroutines = append(figures[i].goroutines, float64(goroutinesWith-goroutinesWithout)/float64(len(senders)))
		}
	}
	t := table{name: "idle-writer", title: "What an idle writer of a connection costs",
		head: []string{"", "memory", "goroutines"},
		notes: []string{fmt.Sprintf("Average of %s each, idle after one message, without their connections. Heap and stacks, after garbage collection.",
			thousands(int64(b.idle.writers)))}}
	for i, rival := range rivals {
		if rival.canIdle() {
			t.row(rival.name, figures[i].bytes.against(figures[0].bytes, memory), significant(median(figures[i].goroutines)))
		}
	}
	return findings{tables: []table{t}, goals: []goal{
		{what: "an idle Writer", bound: 256, atMost: true, measured: median(figures[1].bytes), in: memory},
	}}, nil
}

// memoryInUse returns the bytes in use by heap and stacks, and the number of goroutines.
func memoryInUse() (bytes float64, goroutines int) {
	runtime.GC()
	runtime.GC() // pools survive one collection
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc + m.StackInuse), runtime.NumGoroutine()
}

// idleConnections measures the memory of servers with idle members, after one message to all.
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
		notes: append([]string{"Growth of the server's resident memory since before the first connection, after all have joined and received one message. Kernel memory is not included."},
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
